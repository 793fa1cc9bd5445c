"""DCGAN of Salehinejad et al., Figure 1: 256×256 chest X-rays from z ~ U(-1, 1)^128 by way of 1,024 maps.

Stated: the latents, the projection to 1,024 maps, six fractionally strided convolutions up to 256×256, six
convolutions and a sigmoid in the discriminator. Where the paper is silent, Radford et al. 2016, whose DCGAN
it extends from four convolutions to six:
- Maps halve with every doubling of the side: 1,024 at 4×4, then 512, 256, 128, 64, 32, and the image. The
  discriminator is the mirror image, with one dense layer to the logit after its six convolutions.
- Kernels 5×5, stride 2; batch norm everywhere but at the generator's output and the discriminator's input;
  ReLU and tanh in the generator, LeakyReLU 0.2 in the discriminator; no bias before a batch norm.
- First weights N(0, 0.02).
- One channel: the images are gray.
These make 19,561,185 and 17,480,385 parameters; the paper prints no count.
The discriminator returns the logit; the sigmoid of eq. 1 lives in the loss.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from cxr.gan.latent import Law, mix_seed, uniform_latents
from cxr.gan.layers import ConditionalBatchNorm, MinibatchStd, Projection, base_px, in_turn, initialise

__all__ = ["Discriminator", "Generator"]


class Generator(nn.Module):
    """Latents → images: dense to `widths[0]` maps, then a fractionally strided convolution per width.

    The paper: latent_dim 128, widths [1024, 512, 256, 128, 64, 32] (all but the first ours), 256 px.
    """

    latent_law: ClassVar[Law] = "uniform"

    def __init__(
        self,
        *,
        latent_dim: int,
        image_size_px: int,
        channels: int,
        widths: list[int],
        seed: int,
        n_classes: int | None = None,
    ) -> None:
        """Build on the CPU; weights are a function of `seed` and leave the global random state alone.

        n_classes: makes its batch norms conditional; the paper has a GAN per class.
        """
        super().__init__()
        self.latent_dim, self.image_size_px, self.channels = latent_dim, image_size_px, channels
        self.n_classes = n_classes
        side = base_px(image_size_px, len(widths), "gan.generator")
        with torch.random.fork_rng(devices=[]):
            layers: list[nn.Module] = [
                nn.Linear(latent_dim, widths[0] * side**2, bias=False),
                nn.Unflatten(1, (widths[0], side, side)),
            ]
            for k, (a, b) in enumerate(pairwise([*widths, channels]), start=1):
                layers.append(nn.BatchNorm2d(a) if n_classes is None else ConditionalBatchNorm(n_classes, a))
                layers.append(nn.ReLU(inplace=True))
                layers.append(nn.ConvTranspose2d(a, b, 5, 2, 2, output_padding=1, bias=k == len(widths)))
        self.layers = nn.Sequential(*layers)
        initialise(self, "dcgan", mix_seed(seed, "generator"))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim) ~ U(-1, 1) to images float32 (B, channels, H, H) in [-1, 1].

        labels: classes int64 (B,), for `n_classes` only.
        """
        # float32 before the squashing: bf16 would leave steps of 1/256 that real images do not have
        return torch.tanh(in_turn(self.layers, z, labels).float())

    def sample_latent(self, n: int, *, seed: int, start: int) -> Tensor:
        """Return latents float32 (n, latent_dim) on the CPU; latent i depends only on (seed, start + i)."""
        return uniform_latents(n, self.latent_dim, seed=seed, start=start)


class Discriminator(nn.Module):
    """Images → logits: a strided convolution (k 5, s 2, LeakyReLU) per width, dense 1.

    widths [32, 64, 128, 256, 512, 1024], 256 px: the generator's, mirrored.
    """

    def __init__(
        self,
        *,
        image_size_px: int,
        channels: int,
        widths: list[int],
        negative_slope: float,
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
        side = base_px(image_size_px, len(widths), "gan.discriminator")
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            for k, (a, b) in enumerate(pairwise([channels, *widths])):
                layers.append(nn.Conv2d(a, b, 5, 2, 2, bias=k == 0))
                layers += [nn.BatchNorm2d(b)] if k > 0 else []
                layers.append(nn.LeakyReLU(negative_slope, inplace=True))
            self._n_features = len(layers)  # layers up to the last width's maps
            layers += [MinibatchStd()] if minibatch_std else []
            layers += [nn.Flatten(), nn.Linear((widths[-1] + minibatch_std) * side**2, 1)]
            self.projection = None if n_classes is None else Projection(n_classes, widths[-1])
        self.layers = nn.Sequential(*layers)
        initialise(self, "dcgan", mix_seed(seed, "discriminator"))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images (B, channels, H, H) in [-1, 1] to logits float32 (B,); positive means real.

        labels: classes int64 (B,), for `n_classes` only.
        """
        features = self.layers[: self._n_features](x)
        logits: Tensor = self.layers[self._n_features :](features).squeeze(1).float()
        return logits if self.projection is None else logits + self.projection(features, labels)
