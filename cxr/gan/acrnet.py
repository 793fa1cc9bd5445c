"""DCGAN of Wang, Zhang, Zhao 2021 (rs-1015912/v1), Table 2: 256×256 chest X-rays, 3,615,232 and 2,804,224 parameters.

Departures and readings:
- The text gives the discriminator ReLU, the table LeakyReLU: the table. Its slope is not stated; 0.2 as in
  Radford et al. 2016.
- Biases of the convolutions not stated: none, as in the public DCGAN code whose layout the table has.
- Strides and padding not stated: 1×1 → 4×4 by stride 1, then doubling (stride 2, padding 1) up to 256×256.
- Latent distribution and first weights not stated: N(0, 1) and N(0, 0.02), as in that code.
- The discriminator returns the logit; its sigmoid lives in the loss.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from cxr.errors import UserError
from cxr.gan.latent import mix_seed, normal_latents
from cxr.gan.layers import ConditionalBatchNorm, MinibatchStd, Projection, in_turn, initialise

__all__ = ["Discriminator", "Generator"]

BASE_PX = 4  # the smallest map: every kernel is 4×4


class Generator(nn.Module):
    """Latents → images: a transposed convolution (k 4) per width and one to the image.

    Batch norm and ReLU after the first `n_batch_norm`, ReLU alone after the others, tanh at the end.
    The paper: latent_dim 100, widths [512, 256, 128, 64, 32, 16], 3 batch norms, 3 channels.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        image_size_px: int,
        channels: int,
        widths: list[int],
        n_batch_norm: int,
        seed: int,
        n_classes: int | None = None,
    ) -> None:
        """Build on the CPU; weights are a function of `seed` and leave the global random state alone.

        n_classes: makes its batch norms conditional; the paper has a GAN per class.
        """
        super().__init__()
        self.latent_dim, self.image_size_px, self.channels = latent_dim, image_size_px, channels
        self.n_classes = n_classes
        _check(image_size_px, widths, n_batch_norm, "gan.generator")
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            for k, (a, b) in enumerate(pairwise([latent_dim, *widths])):
                stride, padding = (1, 0) if k == 0 else (2, 1)
                layers.append(nn.ConvTranspose2d(a, b, 4, stride, padding, bias=False))
                if k < n_batch_norm:
                    layers.append(
                        nn.BatchNorm2d(b) if n_classes is None else ConditionalBatchNorm(n_classes, b)
                    )
                layers.append(nn.ReLU(inplace=True))
            layers.append(nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1, bias=False))
        self.layers = nn.Sequential(*layers)
        initialise(self, "dcgan", mix_seed(seed, "generator"))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim) ~ N(0, 1) to images float32 (B, channels, H, H) in [-1, 1].

        labels: classes int64 (B,), for `n_classes` only.
        """
        # float32 before the squashing: bf16 would leave steps of 1/256 that real images do not have
        return torch.tanh(in_turn(self.layers, z[:, :, None, None], labels).float())

    def sample_latent(self, n: int, *, seed: int, start: int) -> Tensor:
        """Return latents float32 (n, latent_dim) on the CPU; latent i depends only on (seed, start + i)."""
        return normal_latents(n, self.latent_dim, seed=seed, start=start)


class Discriminator(nn.Module):
    """Images → logits: a strided convolution (k 4, LeakyReLU) per width and one to the logit.

    Batch norm after the last `n_batch_norm` of the widths. The paper: widths [16, 32, 64, 128, 256, 512],
    3 batch norms, 3 channels.
    """

    def __init__(
        self,
        *,
        image_size_px: int,
        channels: int,
        widths: list[int],
        n_batch_norm: int,
        negative_slope: float,
        seed: int,
        n_classes: int | None = None,
        minibatch_std: bool = False,
    ) -> None:
        """Build on the CPU; weights are a function of `seed` and leave the global random state alone.

        n_classes: of a projection; minibatch_std: a map before the last convolution. The paper has neither.
        """
        super().__init__()
        self.image_size_px, self.channels, self.n_classes = image_size_px, channels, n_classes
        self.head = "linear" if n_classes is None else "projection"
        _check(image_size_px, widths, n_batch_norm, "gan.discriminator")
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            for k, (a, b) in enumerate(pairwise([channels, *widths])):
                layers.append(nn.Conv2d(a, b, 4, 2, 1, bias=False))
                layers += [nn.BatchNorm2d(b)] if k >= len(widths) - n_batch_norm else []
                layers.append(nn.LeakyReLU(negative_slope, inplace=True))
            layers += [MinibatchStd()] if minibatch_std else []
            layers.append(nn.Conv2d(widths[-1] + minibatch_std, 1, BASE_PX, bias=False))
            self.projection = None if n_classes is None else Projection(n_classes, widths[-1])
        self._n_features = len(layers) - 1 - minibatch_std  # layers up to the last width's maps
        self.layers = nn.Sequential(*layers)
        initialise(self, "dcgan", mix_seed(seed, "discriminator"))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images (B, channels, H, H) in [-1, 1] to logits float32 (B,); positive means real.

        labels: classes int64 (B,), for `n_classes` only.
        """
        features = self.layers[: self._n_features](x)
        logits: Tensor = self.layers[self._n_features :](features).flatten().float()
        return logits if self.projection is None else logits + self.projection(features, labels)


def _check(image_size_px: int, widths: list[int], n_batch_norm: int, where: str) -> None:
    """Refuse a size that the widths do not lead to, and more batch norms than there are layers."""
    reached = BASE_PX * 2 ** len(widths)
    if not widths or image_size_px != reached:
        raise UserError(
            f"{where}: {len(widths)} widths make {reached} px (4 px doubled per width), got {image_size_px} px; "
            f"set {where}.widths or {where}.image_size_px"
        )
    if not 0 <= n_batch_norm <= len(widths):
        raise UserError(
            f"{where}.n_batch_norm: got {n_batch_norm}, expected 0 … {len(widths)}, one per width at most; "
            f"set {where}.n_batch_norm=…"
        )
