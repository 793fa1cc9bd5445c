"""CliqueNet S0 to S3 in the ImageNet form (Yang et al., CVPR 2018); a baseline of `acrnet`.

Within a block every layer feeds every other. Stage I fills the layers in turn from the block's input X₀ and
the layers before; Stage II updates each from the newest of all the others, without X₀:
    X_i  = g(W_0i ∗ X_0 + Σ_{0<l<i} W_li ∗ X_l)
    X_i' = g(Σ_{0<l<i} W_li ∗ X_l' + Σ_{m>i} W_mi ∗ X_m)
W are 1 × 1, g goes on to the layer's 3 × 3; both stages share these, batch normalisations are their own.
Normalisation and ReLU come before each convolution, as in the authors' code. Stage II is what is passed on
and, beside X₀, read out (the variant that the authors found best): 1 × 1 to half the channels, global
average, all four blocks into one dense layer.

Parameters with 1,000 outputs, without and with attention in the transitions:
    S0 5,703,728 / 6,245,330   S1 7,956,776 / 8,740,046   S2 10,003,756 / 11,008,376   S3 13,170,904 / 14,383,024
`acrnet` takes "the original internal parameters"; its released code has S3 with attention.

Departure: pools adapt to the map (the authors' fixed kernels are for 224 px and elsewhere lose the border).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr.classifier.base import Classifier, Init, initialise

__all__ = ["CliqueBlock", "CliqueNet", "Variant"]

Variant = Literal["S0", "S1", "S2", "S3"]

STEM = 64
# Channels per layer and layers, block by block.
VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "S0": ((36, 64, 100, 80), (5, 6, 6, 6)),
    "S1": ((36, 80, 120, 100), (5, 6, 6, 6)),
    "S2": ((36, 80, 150, 120), (5, 5, 6, 6)),
    "S3": ((40, 80, 160, 160), (6, 6, 6, 6)),
}


class CliqueNet(Classifier):
    """Stem, four clique blocks with transitions between, a read-out of each block."""

    def __init__(
        self,
        *,
        image_size_px: int,
        channels: Literal[1, 3],
        n_outputs: int,
        variant: Variant,
        attention: bool,
        init: Literal["he"] | Init,
    ) -> None:
        super().__init__()
        self.image_size_px, self.channels, self.n_outputs = image_size_px, channels, n_outputs
        self.stem = nn.Sequential(
            nn.Conv2d(channels, STEM, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(STEM),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.blocks, self.transitions, self.readouts = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        source, n_features = STEM, 0
        for width, n_layers in zip(*VARIANTS[variant], strict=True):
            if self.blocks:
                self.transitions.append(Transition(source, attention))
            self.blocks.append(CliqueBlock(source, width, n_layers))
            n_read = source + width * n_layers
            self.readouts.append(_readout(n_read))
            n_features += n_read // 2
            source = width * n_layers
        self.head = nn.Linear(n_features, n_outputs)
        self.weights, self.last_conv = "random", f"readouts.{len(self.readouts) - 1}"
        if init == "he":
            _initialise_he(self)
        else:
            initialise(self, init)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, channels, H, W) in [-1, 1] to logits (B, n_outputs)."""
        x = self.stem(images)
        read = []
        for number, (block, readout) in enumerate(zip(self.blocks, self.readouts, strict=True)):
            if number:
                x = self.transitions[number - 1](x)
            features = block(x)
            read.append(readout(torch.cat([x, features], dim=1)).mean(dim=(2, 3)))
            x = features
        logits: Tensor = self.head(torch.cat(read, dim=1))
        return logits


class CliqueBlock(nn.Module):
    """`n_layers` layers of `width` channels, each connected to every other and to the input."""

    def __init__(self, source: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.source, self.width = source, width
        others = (n_layers - 1) * width
        # The 1 x 1 weights that end in layer i, side by side: from X_0, then from the other layers in their
        # order. Stage I needs those from X_0 and the layers before i, a prefix; Stage II all but X_0's, a suffix.
        self.pairs = nn.ModuleList(nn.Conv2d(source + others, width, 1, bias=False) for _ in range(n_layers))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(n_layers))
        self.norms_in_1 = nn.ModuleList(nn.BatchNorm2d(source + i * width) for i in range(n_layers))
        self.norms_in_2 = nn.ModuleList(nn.BatchNorm2d(others) for _ in range(n_layers))
        self.norms_mid_1 = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(n_layers))
        self.norms_mid_2 = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(n_layers))

    def forward(self, x0: Tensor) -> Tensor:
        """Map X_0 (B, source, H, W) to the Stage II features (B, n_layers · width, H, W), layer by layer."""
        layers: list[Tensor] = []
        for i, (norm_in, norm_mid) in enumerate(zip(self.norms_in_1, self.norms_mid_1, strict=True)):
            n_used = self.source + i * self.width
            layers.append(self._update(i, [x0, *layers], norm_in, norm_mid, slice(0, n_used)))
        for i, (norm_in, norm_mid) in enumerate(zip(self.norms_in_2, self.norms_mid_2, strict=True)):
            others = layers[:i] + layers[i + 1 :]
            layers[i] = self._update(i, others, norm_in, norm_mid, slice(self.source, None))
        return torch.cat(layers, dim=1)

    def _update(
        self, i: int, inputs: list[Tensor], norm_in: nn.Module, norm_mid: nn.Module, columns: slice
    ) -> Tensor:
        """Return layer i (B, width, H, W) from `inputs`, whose 1 × 1 weights are `columns` of its pairs."""
        pair = self.pairs[i]
        assert isinstance(pair, nn.Conv2d)
        x = F.conv2d(F.relu(norm_in(torch.cat(inputs, dim=1))), pair.weight[:, columns])
        updated: Tensor = self.convs[i](F.relu(norm_mid(x)))
        return updated


class Transition(nn.Module):
    """BN-ReLU-1 × 1, channel attention if wanted, average pool 2; the border of an odd side stays."""

    def __init__(self, width: int, attention: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1, bias=False))
        self.attention = (
            nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, width), nn.Sigmoid())
            if attention
            else None
        )
        self.pool = nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H / 2, W / 2), rounded up."""
        x = self.conv(x)
        if self.attention is not None:
            x = x * self.attention(x.mean(dim=(2, 3)))[:, :, None, None]
        pooled: Tensor = self.pool(x)
        return pooled


def _readout(n_read: int) -> nn.Sequential:
    """Return what maps a block's input and features (B, n_read, h, w) to maps of half the channels."""
    half = n_read // 2
    return nn.Sequential(
        nn.BatchNorm2d(n_read),
        nn.ReLU(),
        nn.Conv2d(n_read, half, 1, bias=False),
        nn.BatchNorm2d(half),
        nn.ReLU(),
    )


def _initialise_he(module: nn.Module) -> None:
    """Draw convolutions from N(0, 2 / fan-out) and zero the dense biases, as the authors' code does."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
