"""DCGAN of Talukdar et al., Table 1: 64×64 chest X-rays, 3,750,275 and 404,801 parameters.

Departures and readings:
- The paper's generator ends in a sigmoid, images in [0, 1]. Images inside our models are in [-1, 1], so the
  output is 2·sigmoid(x) - 1 (= tanh(x/2)): the same network, another unit.
- The discriminator returns the logit; its sigmoid lives in the loss.
- Latent distribution not stated: N(0, 1), as in the Keras DCGAN example whose layers the table repeats.
- Initialisation not stated: Glorot uniform, zero biases, the default of Keras, which the authors used.
- Table 1 prints "Dropout (0.2)" in two rows with shifted columns: read as one, before the dense layer.
No batch normalisation anywhere: a batch of real and fake images may be one tensor, and DDP needs no care.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from cxr.gan.latent import mix_seed, normal_latents
from cxr.gan.layers import (
    ConditionalBatchNorm,
    Init,
    MinibatchStd,
    Projection,
    base_px,
    initialise,
    transposed_conv,
)

__all__ = ["Discriminator", "Generator"]


class Generator(nn.Module):
    """Latents → images.

    Dense to `widths[0]` maps, a transposed convolution (k 4, s 2) per further width, a convolution (k 5).
    The paper: latent_dim 100, widths [128, 128, 256, 512], 64 px, 3 channels → 8×8 → 16 → 32 → 64.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        image_size_px: int,
        channels: int,
        widths: list[int],
        negative_slope: float,
        init: Init,
        seed: int,
        n_classes: int | None = None,
    ) -> None:
        """Build on the CPU; weights are a function of `seed` and leave the global random state alone.

        n_classes: adds a conditional batch norm after each transposed convolution; the paper has none.
        """
        super().__init__()
        self.latent_dim, self.image_size_px, self.channels = latent_dim, image_size_px, channels
        self.n_classes = n_classes
        self.negative_slope = negative_slope
        self._widths = list(widths)
        self._base_px = base_px(image_size_px, len(widths) - 1, "gan.generator")
        with torch.random.fork_rng(devices=[]):
            self.dense = nn.Linear(latent_dim, widths[0] * self._base_px**2)
            self.up = nn.ModuleList(
                nn.ConvTranspose2d(a, b, kernel_size=4, stride=2, padding=1) for a, b in pairwise(widths)
            )
            self.to_image = nn.Conv2d(widths[-1], channels, kernel_size=5, padding=2)
        told = widths[1:] if n_classes is not None else []
        self.norms = nn.ModuleList(ConditionalBatchNorm(n_classes or 0, width) for width in told)
        initialise(self, init, mix_seed(seed, "generator"))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim) ~ N(0, 1) to images float32 (B, channels, H, H) in [-1, 1].

        labels: classes int64 (B,), for `n_classes` only.
        """
        size = self._base_px
        x = self.dense(z).view(-1, size, size, self._widths[0]).permute(0, 3, 1, 2)  # Keras' order: (H, W, C)
        for k, layer in enumerate(self.up):
            x = transposed_conv(layer, x)
            x = self.norms[k](x, labels) if self.norms else x
            x = nn.functional.leaky_relu_(x, self.negative_slope)
        # float32 before the squashing: bf16 would leave steps of 1/256 that real images do not have
        return torch.tanh(0.5 * self.to_image(x).float())

    def sample_latent(self, n: int, *, seed: int, start: int) -> Tensor:
        """Return latents float32 (n, latent_dim) on the CPU; latent i depends only on (seed, start + i)."""
        return normal_latents(n, self.latent_dim, seed=seed, start=start)


class Discriminator(nn.Module):
    """Images → logits: one strided convolution (k 4, s 2, LeakyReLU) per width, dropout, dense 1.

    The paper: widths [64, 128, 128], 64 px, 3 channels.
    """

    def __init__(
        self,
        *,
        image_size_px: int,
        channels: int,
        widths: list[int],
        negative_slope: float,
        dropout: float,
        init: Init,
        seed: int,
        n_classes: int | None = None,
        minibatch_std: bool = False,
    ) -> None:
        """Build on the CPU; weights are a function of `seed` and leave the global random state alone.

        n_classes: of a projection; minibatch_std: a map before the dense layer. The paper has neither.
        """
        super().__init__()
        self.image_size_px, self.channels, self.n_classes = image_size_px, channels, n_classes
        self.head = "linear" if n_classes is None else "projection"
        self.negative_slope = negative_slope
        final_px = base_px(image_size_px, len(widths), "gan.discriminator")
        with torch.random.fork_rng(devices=[]):
            self.down = nn.ModuleList(
                nn.Conv2d(a, b, kernel_size=4, stride=2, padding=1) for a, b in pairwise([channels, *widths])
            )
            self.dropout = nn.Dropout(dropout)
            self.batch = MinibatchStd() if minibatch_std else nn.Identity()
            self.dense = nn.Linear((widths[-1] + minibatch_std) * final_px**2, 1)
            self.projection = None if n_classes is None else Projection(n_classes, widths[-1])
        initialise(self, init, mix_seed(seed, "discriminator"))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images (B, channels, H, H) in [-1, 1] to logits float32 (B,); positive means real.

        labels: classes int64 (B,), for `n_classes` only.
        """
        for layer in self.down:
            x = nn.functional.leaky_relu_(layer(x), self.negative_slope)
        logits: Tensor = self.dense(self.dropout(self.batch(x).flatten(1))).squeeze(1).float()
        return logits if self.projection is None else logits + self.projection(x, labels)
