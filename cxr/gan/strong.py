"""A conditional GAN for few gray radiographs at 64 to 256 px, light enough for a CPU; after FastGAN (Liu et al. 2021).

Ours, from published parts:
- G: nearest-neighbour doublings and 3×3 convolutions (no checkerboard of transposed convolutions), conditional batch
  norms, and skip-layer excitation (Liu et al. 2021): maps of the first sizes gate those of the last, so that gradients
  reach the first layers at once.
- D: residual halvings (Miyato et al. 2018), no norm; the minibatch statistic (Karras et al. 2018) against collapse; told
  the class by projection (Miyato & Koyama 2018). FastGAN's decoders of D are left out: DiffAugment and R1 do their work.
- One channel throughout. Widths are those with which a step at 64 px takes a CPU a tenth of Talukdar's DCGAN's.
Without `n_classes` both are unconditional, for task=gan.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu

from cxr.errors import UserError
from cxr.gan.latent import mix_seed, normal_latents
from cxr.gan.layers import ConditionalBatchNorm, MinibatchStd, Projection

__all__ = ["Discriminator", "Generator"]

BASE_PX = 4  # the smallest map
SLOPE = 0.2  # of every LeakyReLU, as Karras et al. 2018


class Generator(nn.Module):
    """Latents and classes → images: dense to 4×4, then a doubling and a convolution for each further width.

    widths: of the maps at 4, 8, 16, … px; the last are of the image's size.
    """

    soft_labels = True  # forward takes the classes' weights, too

    def __init__(
        self,
        *,
        n_classes: int | None,
        latent_dim: int,
        image_size_px: int,
        channels: int,
        widths: list[int],
        excitations: int,
        seed: int,
    ) -> None:
        """Build on the CPU; weights are a function of `seed` and leave the global random state alone.

        excitations: how many of the last sizes are gated, each by the maps four doublings before it or the smallest.
        """
        super().__init__()
        self.n_classes, self.latent_dim = n_classes, latent_dim
        self.image_size_px, self.channels = image_size_px, channels
        _check(image_size_px, widths, "gan.generator")
        if not 0 <= excitations < len(widths) - 1:
            raise UserError(
                f"gan.generator.excitations: got {excitations}, expected 0 … {len(widths) - 2} for {len(widths)} widths; "
                "set gan.generator.excitations=2"
            )
        self._widths, self._first_gated = list(widths), len(widths) - excitations
        with torch.random.fork_rng(devices=[]):
            self.dense = nn.Linear(latent_dim, widths[0] * BASE_PX**2)
            self.start = _Norm(n_classes, widths[0])
            self.up = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths))
            self.norms = nn.ModuleList(_Norm(n_classes, b) for b in widths[1:])
            self.gates = nn.ModuleList(
                _Excitation(widths[max(k - 4, 0)], widths[k]) for k in range(self._first_gated, len(widths))
            )
            self.to_image = nn.Conv2d(widths[-1], channels, 3, padding=1)
        _initialise(self, mix_seed(seed, "generator"))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim) ~ N(0, 1) to images float32 (B, channels, H, H) in [-1, 1].

        labels: classes int64 (B,), or their weights float (B, n_classes), which blend them.
        """
        x = self.dense(z).view(len(z), self._widths[0], BASE_PX, BASE_PX)
        x = leaky_relu(self.start(x, labels), SLOPE)
        maps = [x]
        for k, (conv, norm) in enumerate(zip(self.up, self.norms, strict=True), start=1):
            x = conv(interpolate(x, scale_factor=2.0, mode="nearest"))
            x = leaky_relu(norm(x, labels), SLOPE)
            if k >= self._first_gated:
                x = self.gates[k - self._first_gated](maps[max(k - 4, 0)], x)
            maps.append(x)
        # float32 before the squashing: bf16 would leave steps of 1/256 that real images do not have
        return torch.tanh(self.to_image(x).float())

    def sample_latent(self, n: int, *, seed: int, start: int) -> Tensor:
        """Return latents float32 (n, latent_dim) on the CPU; latent i depends only on (seed, start + i)."""
        return normal_latents(n, self.latent_dim, seed=seed, start=start)


class Discriminator(nn.Module):
    """Images and classes → logits: a convolution, a residual halving per further width, then dense.

    widths: of the maps at half the image's size, a quarter, … 4 px.
    """

    def __init__(
        self,
        *,
        n_classes: int | None,
        image_size_px: int,
        channels: int,
        widths: list[int],
        minibatch_std: bool,
        seed: int,
    ) -> None:
        """Build on the CPU; weights are a function of `seed` and leave the global random state alone."""
        super().__init__()
        self.n_classes, self.image_size_px, self.channels = n_classes, image_size_px, channels
        self.head = "linear" if n_classes is None else "projection"
        _check(image_size_px, [0, *widths], "gan.discriminator")
        with torch.random.fork_rng(devices=[]):
            self.stem = nn.Conv2d(channels, widths[0], 4, stride=2, padding=1)
            self.down = nn.ModuleList(_Down(a, b) for a, b in pairwise(widths))
            self.batch = MinibatchStd() if minibatch_std else nn.Identity()
            self.last = nn.Conv2d(widths[-1] + minibatch_std, widths[-1], 3, padding=1)
            self.dense = nn.Linear(widths[-1] * BASE_PX**2, 1)
            self.projection = None if n_classes is None else Projection(n_classes, widths[-1])
        _initialise(self, mix_seed(seed, "discriminator"))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images (B, channels, H, H) in [-1, 1] to logits float32 (B,); positive means real.

        labels: classes int64 (B,).
        """
        x = leaky_relu(self.stem(x), SLOPE)
        for block in self.down:
            x = block(x)
        x = leaky_relu(self.last(self.batch(x)), SLOPE)
        logits: Tensor = self.dense(x.flatten(1)).squeeze(1).float()
        return logits if self.projection is None else logits + self.projection(x, labels) / BASE_PX


class _Norm(nn.Module):
    """Batch norm, of a class where there are any."""

    def __init__(self, n_classes: int | None, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width) if n_classes is None else ConditionalBatchNorm(n_classes, width)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        y: Tensor = self.norm(x, labels) if isinstance(self.norm, ConditionalBatchNorm) else self.norm(x)
        return y


class _Excitation(nn.Module):
    """Gates maps, channel by channel, by those of a smaller size (Liu et al. 2021, equation 2)."""

    def __init__(self, small: int, large: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(small, large, 4)
        self.excite = nn.Conv2d(large, large, 1)

    def forward(self, small: Tensor, large: Tensor) -> Tensor:
        """Map (B, C, h, w) and (B, D, H, W) to (B, D, H, W)."""
        pooled = nn.functional.adaptive_avg_pool2d(small, 4)
        return large * torch.sigmoid(self.excite(nn.functional.silu(self.squeeze(pooled))))


class _Down(nn.Module):
    """Halves the side: two convolutions beside a mean and a 1×1 one."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(a, a, 3, padding=1)
        self.second = nn.Conv2d(a, b, 4, stride=2, padding=1)
        self.skip = nn.Conv2d(a, b, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, a, H, W) to (B, b, H / 2, W / 2)."""
        y = leaky_relu(self.second(leaky_relu(self.first(x), SLOPE)), SLOPE)
        z: Tensor = (y + self.skip(avg_pool2d(x, 2))) * 0.5**0.5
        return z


def _check(image_size_px: int, widths: list[int], where: str) -> None:
    """Refuse a size that the widths do not lead to."""
    reached = BASE_PX * 2 ** (len(widths) - 1)
    if len(widths) < 2 or image_size_px != reached:
        raise UserError(
            f"{where}: its widths make {reached} px (4 px doubled per width), got {image_size_px} px; "
            f"set {where}.widths or {where}.image_size_px"
        )


def _initialise(module: nn.Module, seed: int) -> None:
    """Draw weights by He et al. 2015 for LeakyReLU, biases 0; embeddings N(0, 0.02)."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight, SLOPE, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, 0.0, 0.02, generator=generator)
