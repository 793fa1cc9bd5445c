"""A small diffusion model (Karras et al. 2022, "EDM") behind the face of a generator: latent in, image out.

It is here to be compared with GANs of the same cost, so it must train on one CPU core. The U-Net is our own, as a
library's (diffusers' UNet2DModel) is written for GPUs, brings a hub client along, and has neither the preconditioning
nor the folded input that make a network of this size work: `patch` x `patch` pixels become channels before the first
convolution (space-to-depth), so that at 64 px nothing is computed at more than 32.

- Network: residual blocks of group norm, SiLU, convolution (k 3); noise level and class scale and shift the second norm
  (Dhariwal & Nichol 2021). No attention: at 8 px convolutions see the whole chest.
- Preconditioning: Karras et al. 2022, Table 1. The image is taken from the noisy one and the network in shares such that
  the network's input and target have variance 1 at every noise level.
- Sampler: DPM-Solver++(2M) (Lu et al. 2022) on the noise levels of Karras et al., Eq. 5: deterministic, second order, one
  pass a step where Heun's takes two. The latent is the first noise, so an image is a function of latent and class.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pixel_shuffle, pixel_unshuffle, silu

from cxr.errors import UserError
from cxr.gan.latent import mix_seed, normal_latents
from cxr.gan.layers import base_px, initialise

__all__ = ["Denoiser", "Generator", "noise_levels"]

GROUP = 8  # maps that a group norm takes together


class Generator(nn.Module):
    """Latents and classes → images, by `denoiser`, which is what training trains.

    By default 64 px, 1 channel, widths [32, 64, 128] at 32, 16 and 8 px.
    """

    def __init__(
        self,
        *,
        n_classes: int,
        image_size_px: int,
        channels: int,
        patch: int,
        widths: list[int],
        n_blocks: int,
        embedding_dim: int,
        sigma_data: float,
        sigma_min: float,
        sigma_max: float,
        rho: float,
        n_steps: int,
        seed: int,
    ) -> None:
        """Build on the CPU; weights are a function of `seed` and leave the global random state alone."""
        super().__init__()
        if not 0 < sigma_min < sigma_max < math.inf or n_steps < 1:
            raise UserError(
                f"gan.generator: noise from sigma_max={sigma_max} to sigma_min={sigma_min} in n_steps={n_steps}, expected "
                "a fall to above 0 in 1 or more; set gan.generator.sigma_max=80 gan.generator.sigma_min=0.002"
            )
        if bad := [width for width in widths if width < GROUP or width % GROUP]:
            raise UserError(
                f"gan.generator.widths: got {bad[0]}, expected multiples of {GROUP}; set gan.generator.widths=[32,64,128]"
            )
        if patch < 1 or image_size_px % patch:
            raise UserError(
                f"gan.generator.patch: {image_size_px} px are no whole number of {patch} px; set gan.generator.patch=2"
            )
        if len(widths) > 1:
            base_px(image_size_px // patch, len(widths) - 1, "gan.generator")
        self.n_classes, self.image_size_px, self.channels = n_classes, image_size_px, channels
        self.latent_dim = channels * image_size_px**2
        self.sigma_min, self.sigma_max, self.rho, self.n_steps = sigma_min, sigma_max, rho, n_steps
        with torch.random.fork_rng(devices=[]):
            network = UNet(channels * patch**2, widths, n_blocks, n_classes, embedding_dim)
        initialise(network, "glorot", mix_seed(seed, "generator"))
        network.quieten()
        self.denoiser: nn.Module = Denoiser(network, patch, sigma_data)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Map latents (B, latent_dim) ~ N(0, 1) and classes int64 (B,) to images float32 (B, channels, H, H) in [-1, 1]."""
        side = self.image_size_px
        sigmas = noise_levels(self.n_steps, self.sigma_min, self.sigma_max, self.rho)
        x = sigmas[0] * z.view(len(z), self.channels, side, side)
        before: Tensor | None = None  # the image as the step before saw it
        for i, (sigma, following) in enumerate(pairwise(sigmas)):
            image: Tensor = self.denoiser(x, torch.full((len(z),), sigma, device=z.device), labels)
            if following == 0.0:
                return image.clamp(-1.0, 1.0)
            step, aim = math.log(sigma / following), image
            if before is not None:
                aim = image + (image - before) * (0.5 * step / math.log(sigmas[i - 1] / sigma))
            x = aim + (x - aim) * (following / sigma)
            before = image
        raise AssertionError("the last noise level is 0")

    def sample_latent(self, n: int, *, seed: int, start: int) -> Tensor:
        """Return latents float32 (n, latent_dim) on the CPU; latent i depends only on (seed, start + i)."""
        return normal_latents(n, self.latent_dim, seed=seed, start=start)


class Denoiser(nn.Module):
    """A network with Karras et al.'s preconditioning; `patch` x `patch` pixels are its channels.

    sigma_data: standard deviation of the images' pixels in [-1, 1].
    """

    def __init__(self, network: nn.Module, patch: int, sigma_data: float) -> None:
        super().__init__()
        self.network, self.patch, self.sigma_data = network, patch, sigma_data

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """Map images with noise (B, C, H, H), its deviations float32 (B,), classes int64 (B,) to images float32."""
        s = sigma.float().view(-1, 1, 1, 1)
        total = (s.square() + self.sigma_data**2).sqrt()
        output = self.network(pixel_unshuffle(noisy / total, self.patch), sigma.log() / 4, labels)
        # float32 from here: 16 bits would leave steps that images do not have
        output = pixel_shuffle(output.float(), self.patch)
        return noisy * (self.sigma_data / total).square() + output * (s * self.sigma_data / total)


class UNet(nn.Module):
    """Maps (B, C, h, h), log noise levels (B,) and classes (B,) → maps (B, C, h, h)."""

    def __init__(
        self, channels: int, widths: list[int], n_blocks: int, n_classes: int, embedding_dim: int
    ) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", 2.0 ** torch.arange(-2, 6) * math.pi, persistent=False)
        self.level = nn.Linear(16, embedding_dim)
        self.label = nn.Embedding(n_classes, embedding_dim)
        self.mix = nn.Linear(embedding_dim, embedding_dim)
        self.from_image = nn.Conv2d(channels, widths[0], kernel_size=3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, kept = widths[0], [widths[0]]
        for w in widths:
            level = nn.ModuleList()
            for _ in range(n_blocks):
                level.append(Block(width, w, embedding_dim))
                width = w
                kept.append(w)
            self.down.append(level)
        for w in reversed(widths):
            level = nn.ModuleList()
            for _ in range(n_blocks):
                level.append(Block(width + kept.pop(), w, embedding_dim))
                width = w
            self.up.append(level)
        self.norm = nn.GroupNorm(widths[0] // GROUP, widths[0])
        self.to_image = nn.Conv2d(widths[0], channels, kernel_size=3, padding=1)

    def quieten(self) -> None:
        """Make the last convolutions' first weights small: a block begins as nearly the identity."""
        lasts = [block.last for block in self.modules() if isinstance(block, Block)]
        with torch.no_grad():
            for layer in (*lasts, self.to_image):
                layer.weight.mul_(0.01)

    def forward(self, x: Tensor, level: Tensor, labels: Tensor) -> Tensor:
        waves = level[:, None] * self.frequencies
        told = self.level(torch.cat((waves.sin(), waves.cos()), dim=1)) + self.label(labels)
        told = silu(self.mix(silu(told)))
        x, kept = self.from_image(x), []
        for i, blocks in enumerate(self.down):
            x = avg_pool2d(x, 2) if i else x
            for block in cast(nn.ModuleList, blocks):
                x = block(x, told)
                kept.append(x)
        for i, blocks in enumerate(self.up):
            x = interpolate(x, scale_factor=2, mode="nearest") if i else x
            for block in cast(nn.ModuleList, blocks):
                x = block(torch.cat((x, kept.pop()), dim=1), told)
        return cast(Tensor, self.to_image(silu(self.norm(x))))


class Block(nn.Module):
    """A residual block that is told the noise level and the class (B, embedding_dim)."""

    def __init__(self, n_in: int, n_out: int, embedding_dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(n_in // GROUP, n_in), nn.GroupNorm(n_out // GROUP, n_out)
        self.first = nn.Conv2d(n_in, n_out, kernel_size=3, padding=1)
        self.last = nn.Conv2d(n_out, n_out, kernel_size=3, padding=1)
        self.told = nn.Linear(embedding_dim, 2 * n_out)
        self.past = nn.Conv2d(n_in, n_out, kernel_size=1) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.told(told)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(self.first(silu(self.norm1(x)))) * (1 + scale) + shift
        return cast(Tensor, self.past(x) + self.last(silu(h)))


def noise_levels(n_steps: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """Return n_steps falling noise levels, then 0 (Karras et al. 2022, Eq. 5)."""
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    falls = [(top + i / max(n_steps - 1, 1) * (bottom - top)) ** rho for i in range(n_steps)]
    return [*falls, 0.0]
