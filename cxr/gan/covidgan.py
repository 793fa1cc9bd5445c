"""CovidGAN of Calabrese & Marabotto, section 7.2: an AC-GAN at 112×112; 22,298,666 and 1,871,619 parameters (2 classes).

Departures and readings:
- "Noise … normal distribution with 0.02 standard deviation" is taken at its word, `latent_std` 0.02. It may
  be the first weights' deviation in the tutorial code that the text follows; 1.0 is the usual latent.
- The printed discriminator, widths 64 … 512 with strides alternating from 1 to 2, has 2,757,123 parameters and
  ends at 28×28; the text says "approximately 2 million" and 7×7. Two lists come near 2 million: 32 … 512
  with strides 2, 1, 2, 1, 2 (1,871,619, alternating as printed, ends at 14×14: the default, as the nearest)
  and with strides 1, 2, 2, 2, 2 (1,645,827, ends at 7×7 as printed). All are a matter of `widths` and `strides`.
- Padding at stride 2 not stated: 1 on every side, and 2 with output padding 1 in the generator.
- ReLU after the dense layer of the noise; first weights N(0, 0.02); batch norm's momentum and epsilon those of
  torch: not stated.
- The discriminator returns logits; sigmoid and softmax live in the losses.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from cxr.errors import UserError
from cxr.gan.latent import mix_seed, normal_latents
from cxr.gan.layers import (
    ConditionalBatchNorm,
    MinibatchStd,
    Projection,
    base_px,
    initialise,
    transposed_conv,
)

__all__ = ["Discriminator", "Generator"]


class Generator(nn.Module):
    """Latents and classes → images.

    Noise: dense to `widths[0]` maps. Class: embedding, dense to one map. Together: a transposed convolution
    (k 5, s 2) per further width, batch norm, ReLU; one more to the image, tanh.
    The paper: latent_dim 100, embedding_dim 50, widths [1024, 512, 256, 128], 112 px, 3 channels.
    """

    def __init__(
        self,
        *,
        n_classes: int,
        latent_dim: int,
        latent_std: float,
        embedding_dim: int,
        image_size_px: int,
        channels: int,
        widths: list[int],
        seed: int,
        conditional_norm: bool = False,
    ) -> None:
        """Build on the CPU; weights are a function of `seed` and leave the global random state alone.

        conditional_norm: batch norms hear the class, too; the paper's do not.
        """
        super().__init__()
        self.n_classes, self.latent_dim, self.latent_std = n_classes, latent_dim, latent_std
        self.image_size_px, self.channels = image_size_px, channels
        self._side = base_px(image_size_px, len(widths), "gan.generator")
        with torch.random.fork_rng(devices=[]):
            self.noise = nn.Linear(latent_dim, widths[0] * self._side**2)
            self.embedding = nn.Embedding(n_classes, embedding_dim)
            self.label = nn.Linear(embedding_dim, self._side**2)
            self.up = nn.ModuleList(
                nn.ConvTranspose2d(a, b, kernel_size=5, stride=2, padding=2, output_padding=1)
                for a, b in pairwise([widths[0] + 1, *widths[1:], channels])
            )
            self.norms = nn.ModuleList(
                ConditionalBatchNorm(n_classes, b) if conditional_norm else nn.BatchNorm2d(b)
                for b in widths[1:]
            )
        initialise(self, "dcgan", mix_seed(seed, "generator"))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Map latents (B, latent_dim) and classes int64 (B,) to images float32 (B, channels, H, H) in [-1, 1]."""
        side = self._side
        noise = torch.relu(self.noise(z)).view(len(z), -1, side, side)
        label = self.label(self.embedding(labels)).view(len(z), 1, side, side)
        x = torch.cat((noise, label), dim=1)
        for layer, norm in zip(self.up, self.norms, strict=False):  # the last layer has no batch norm
            x = transposed_conv(layer, x)
            x = torch.relu_(norm(x, labels) if isinstance(norm, ConditionalBatchNorm) else norm(x))
        # float32 before the squashing: bf16 would leave steps of 1/256 that real images do not have
        return torch.tanh(transposed_conv(self.up[-1], x).float())

    def sample_latent(self, n: int, *, seed: int, start: int) -> Tensor:
        """Return latents float32 (n, latent_dim) on the CPU; latent i depends only on (seed, start + i)."""
        return self.latent_std * normal_latents(n, self.latent_dim, seed=seed, start=start)


class Discriminator(nn.Module):
    """Images → logits of real and of each class: blocks of convolution (k 3), batch norm, LeakyReLU, dropout.

    By default widths [32, 64, 128, 256, 512] with strides [2, 1, 2, 1, 2], 112 px, 3 channels.
    """

    def __init__(
        self,
        *,
        n_classes: int,
        image_size_px: int,
        channels: int,
        widths: list[int],
        strides: list[int],
        negative_slope: float,
        dropout: float,
        seed: int,
        head: Literal["auxiliary", "projection"] = "auxiliary",
        minibatch_std: bool = False,
    ) -> None:
        """Build on the CPU; weights are a function of `seed` and leave the global random state alone.

        head: auxiliary names the class, as the paper's; projection is told it. minibatch_std: a map more before the
        dense layers; the paper has none.
        """
        super().__init__()
        self.n_classes, self.image_size_px, self.channels = n_classes, image_size_px, channels
        self.head = head
        if len(strides) != len(widths) or not set(strides) <= {1, 2}:
            raise UserError(
                f"gan.discriminator.strides: got {strides}, expected a 1 or 2 for each of {len(widths)} widths; "
                "set gan.discriminator.strides=[…]"
            )
        side = base_px(image_size_px, strides.count(2), "gan.discriminator")
        blocks: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            for (a, b), stride in zip(pairwise([channels, *widths]), strides, strict=True):
                blocks += [nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b)]
                blocks += [nn.LeakyReLU(negative_slope, inplace=True), nn.Dropout(dropout)]
            self.blocks = nn.Sequential(*blocks)
            self.batch = MinibatchStd() if minibatch_std else nn.Identity()
            n_features = (widths[-1] + minibatch_std) * side**2
            self.real = nn.Linear(n_features, 1)
            self.label: nn.Module
            if head == "auxiliary":
                self.label = nn.Linear(n_features, n_classes)
            else:
                self.label = Projection(n_classes, widths[-1])
        initialise(self, "dcgan", mix_seed(seed, "discriminator"))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor] | Tensor:
        """Map images (B, channels, H, H) in [-1, 1] to float32 logits: (B,), positive means real, and (B, n_classes).

        With a projection to the first alone; labels: classes int64 (B,), for it only.
        """
        maps = self.blocks(x)
        features = self.batch(maps).flatten(1)
        logits: Tensor = self.real(features).squeeze(1).float()
        if self.head == "projection":
            told: Tensor = self.label(maps, labels)
            return logits + told
        classes: Tensor = self.label(features).float()
        return logits, classes
