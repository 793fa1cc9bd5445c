"""InceptionV2 = BN-Inception (Ioffe & Szegedy 2015, Fig. 5), a baseline of `acrnet`, input 224.

Conv 7 × 7 / 2 64, max-pool, conv 1 × 1 64, conv 3 × 3 192, max-pool, ten Inception modules, global average
pool, dense. Every convolution is followed by batch normalisation and ReLU. Without the dense layer:
10,270,240 parameters with convolution biases, as in the public ports, 10,260,224 without (batch normalisation
subtracts a bias again, so they change nothing but the count).

Readings and departures:
- The first convolution is an ordinary one as in the ports; the paper's is depthwise-separable.
- No auxiliary classifiers, as in the ports, and no dropout, which the paper's faster variants remove.
- Batch-norm momentum is 0.1 in torch's sense: the paper's framework writes the same as 0.9, and ports that
  copied 0.9 into torch keep hardly any memory of earlier batches.
- Pools of stride 2 cover the border at every size; at 224 px they are the ports' (ceiling mode).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr.classifier.base import Classifier, Init, initialise

__all__ = ["InceptionModule", "InceptionV2"]

BN_MOMENTUM = 0.1


class Row(NamedTuple):
    """Channels of one module: each branch's reduction and its width; no `one` and `project`: stride 2."""

    one: int | None
    three: tuple[int, int]
    double: tuple[int, int]
    pool: Literal["avg", "max"]
    project: int | None


TABLE: dict[str, Row] = {
    "3a": Row(64, (64, 64), (64, 96), "avg", 32),
    "3b": Row(64, (64, 96), (64, 96), "avg", 64),
    "3c": Row(None, (128, 160), (64, 96), "max", None),
    "4a": Row(224, (64, 96), (96, 128), "avg", 128),
    "4b": Row(192, (96, 128), (96, 128), "avg", 128),
    "4c": Row(160, (128, 160), (128, 160), "avg", 128),
    "4d": Row(96, (128, 192), (160, 192), "avg", 128),
    "4e": Row(None, (128, 192), (192, 256), "max", None),
    "5a": Row(352, (192, 320), (160, 224), "avg", 128),
    "5b": Row(352, (192, 320), (192, 224), "max", 128),
}


class InceptionV2(Classifier):
    """Stem, ten Inception modules, dense; 1,024 features."""

    def __init__(
        self,
        *,
        image_size_px: int,
        channels: Literal[1, 3],
        n_outputs: int,
        conv_bias: bool,
        init: Init,
    ) -> None:
        super().__init__()
        self.image_size_px, self.channels, self.n_outputs = image_size_px, channels, n_outputs
        self.weights, self.last_conv = "random", "inception_5b"
        self.conv1 = _conv(channels, 64, 7, conv_bias, stride=2)
        self.conv2_reduce = _conv(64, 64, 1, conv_bias)
        self.conv2 = _conv(64, 192, 3, conv_bias)
        width = 192
        for name, row in TABLE.items():
            module = InceptionModule(width, row, conv_bias)
            self.add_module(f"inception_{name}", module)
            width = module.width
        self.head = nn.Linear(width, n_outputs)
        initialise(self, init)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, channels, H, W) in [-1, 1] to logits (B, n_outputs)."""
        x = _halve(self.conv1(images))
        x = _halve(self.conv2(self.conv2_reduce(x)))
        for name in TABLE:
            x = self.get_submodule(f"inception_{name}")(x)
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


class InceptionModule(nn.Module):
    """Branches 1 × 1, 3 × 3, two 3 × 3, and a pool, side by side; `width` is what they make together."""

    def __init__(self, source: int, row: Row, conv_bias: bool) -> None:
        super().__init__()
        stride = 2 if row.project is None else 1
        self.branch_1 = None if row.one is None else _conv(source, row.one, 1, conv_bias)
        self.branch_3 = nn.Sequential(
            _conv(source, row.three[0], 1, conv_bias),
            _conv(row.three[0], row.three[1], 3, conv_bias, stride=stride),
        )
        self.branch_3_3 = nn.Sequential(
            _conv(source, row.double[0], 1, conv_bias),
            _conv(row.double[0], row.double[1], 3, conv_bias),
            _conv(row.double[1], row.double[1], 3, conv_bias, stride=stride),
        )
        self.pool = row.pool
        self.project = None if row.project is None else _conv(source, row.project, 1, conv_bias)
        self.width = (row.one or 0) + row.three[1] + row.double[1] + (row.project or source)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, source, H, W) to (B, width, H, W), or half the side, rounded up, where the stride is 2."""
        branches = [] if self.branch_1 is None else [self.branch_1(x)]
        branches += [self.branch_3(x), self.branch_3_3(x)]
        if self.project is None:
            branches.append(_halve(x))
        elif self.pool == "avg":
            branches.append(self.project(F.avg_pool2d(x, 3, stride=1, padding=1)))
        else:
            branches.append(self.project(F.max_pool2d(x, 3, stride=1, padding=1)))
        return torch.cat(branches, dim=1)


def _conv(source: int, width: int, kernel_size: int, bias: bool, stride: int = 1) -> nn.Sequential:
    """Return convolution, batch normalisation and ReLU; the side stays, or is halved by stride 2."""
    return nn.Sequential(
        nn.Conv2d(source, width, kernel_size, stride, padding=kernel_size // 2, bias=bias),
        nn.BatchNorm2d(width, momentum=BN_MOMENTUM),
        nn.ReLU(),
    )


def _halve(x: Tensor) -> Tensor:
    """Max-pool 3 × 3 / 2 a map without negative values to half its side, rounded up as convolutions do.

    An odd side first gets a line of zeros, which no maximum of such a map is below: without it the pool
    would give one position less than the convolutions beside it.
    """
    odd = (0, x.shape[3] % 2, 0, x.shape[2] % 2)
    return F.max_pool2d(F.pad(x, odd) if any(odd) else x, 3, stride=2, ceil_mode=True)
