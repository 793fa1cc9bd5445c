"""ACRnet, the adaptive cross-transfer residual network (Wang, Zhang, Zhao 2021, Table 3 and Fig. 2; `acrnet`).

24 blocks of four convolutions and a dense layer ("97 layers"). Number the input of a block 0 and its
convolutions 1 to 4. Residuals run from layer 0 to the end of layer 3 and from 1 to the end of 4; gates
(squeeze-excite) from 0 to the end of 2 and from 2 to the end of 4. So no gate and residual start and end
together, where the residual would carry past the gate what the gate holds back.

Table 3 for 224 px: blocks 4, 4, 4, 6, 6 with 60, 120, 240, 480, 960 channels on 112, 56, 28, 14, 7 px;
average pool 7, dense 3. Read literally, with every kernel 3 × 3, it has 261,737,583 parameters with 3
outputs. The authors' released code does not run as it is, is narrower (15, 30, 45, 50 channels) and
alternates 3 × 3 and 1 × 1: `kernel_sizes` and `width_multiplier` make such a variant.

Readings, where the paper is silent:
- Batch normalisation after each convolution; ReLU after it, or after the sum that a residual ends in.
- The first convolution of a stage has stride 2; the residual from layer 0 is then a 1 × 1 convolution with
  that stride and batch normalisation, as in He et al. 2016. Elsewhere residuals are the identity.
- A gate narrows to a quarter of its source's channels (of its target's at the image, which has three).
- The average pool is global, the same at 224 px, so that other sizes work.
- Dropout is among what the authors tuned, and not in Table 3: 0.
"""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cxr.classifier.base import Classifier, Init, initialise
from cxr.errors import UserError

__all__ = ["ACRBlock", "ACRnet"]

CHANNELS = (60, 120, 240, 480, 960)


class ACRnet(Classifier):
    """Five stages of blocks, each halving the image; returns logits where the paper has a softmax."""

    def __init__(
        self,
        *,
        image_size_px: int,
        channels: Literal[1, 3],
        n_outputs: int,
        blocks: list[int],
        kernel_sizes: list[int],
        width_multiplier: float,
        dropout: float,
        init: Init,
    ) -> None:
        super().__init__()
        _check(blocks, kernel_sizes, width_multiplier, dropout)
        self.image_size_px, self.channels, self.n_outputs = image_size_px, channels, n_outputs
        self.weights, self.last_conv = "random", "stages"
        source: int = channels
        stages = []
        for n_blocks, full_width in zip(blocks, CHANNELS, strict=True):
            width = max(1, round(full_width * width_multiplier))
            first = ACRBlock(source, width, kernel_sizes, halve=True)
            rest = [ACRBlock(width, width, kernel_sizes, halve=False) for _ in range(n_blocks - 1)]
            stages.append(nn.Sequential(first, *rest))
            source = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(source, n_outputs)
        )
        initialise(self, init)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, channels, H, W) in [-1, 1] to logits (B, n_outputs)."""
        logits: Tensor = self.head(self.stages(images))
        return logits


class ACRBlock(nn.Module):
    """Four convolutions, two residuals and two gates; `gate_0_2` runs from layer 0 to the end of layer 2."""

    def __init__(self, source: int, width: int, kernel_sizes: list[int], halve: bool) -> None:
        super().__init__()
        k1, k2, k3, k4 = kernel_sizes
        self.conv1 = _conv(source, width, k1, halve)
        self.conv2 = _conv(width, width, k2, False)
        self.conv3 = _conv(width, width, k3, False)
        self.conv4 = _conv(width, width, k4, False)
        self.gate_0_2 = _gate(source, width)
        self.gate_2_4 = _gate(width, width)
        same = source == width and not halve
        self.residual_0_3: nn.Module = nn.Identity() if same else _conv(source, width, 1, halve)

    def forward(self, x0: Tensor) -> Tensor:
        """Map (B, source, H, W) to (B, width, H, W), or to half the side, rounded up."""
        y1 = F.relu(self.conv1(x0))
        y2 = F.relu(self.conv2(y1)) * self.gate_0_2(x0)
        y3 = F.relu(self.conv3(y2) + self.residual_0_3(x0))
        return F.relu(self.conv4(y3) * self.gate_2_4(y2) + y1)


class _HalvingConv1x1(nn.Conv2d):
    """A 1 × 1 convolution of stride 2, as one of stride 1 on every second position: the same function.

    With stride 2, few input channels (the image's) and channels last, oneDNN's backward pass writes beyond
    its buffer and the process dies, at once or later (torch 2.13 on a CPU).
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return super().forward(input[:, :, ::2, ::2])


def _conv(source: int, width: int, kernel_size: int, halve: bool) -> nn.Sequential:
    """Return a convolution that keeps the side or halves it, and its batch normalisation."""
    if halve and kernel_size == 1:
        conv: nn.Conv2d = _HalvingConv1x1(source, width, 1, bias=False)
    else:
        stride = 2 if halve else 1
        conv = nn.Conv2d(source, width, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width))


def _gate(source: int, width: int) -> nn.Sequential:
    """Return the adaptive structure: maps (B, source, H, W) to factors (B, width, 1, 1) in (0, 1)."""
    hidden = source // 4 or width // 4 or 1
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(source, hidden, 1),
        nn.ReLU(),
        nn.Conv2d(hidden, width, 1),
        nn.Sigmoid(),
    )


def _check(blocks: list[int], kernel_sizes: list[int], width_multiplier: float, dropout: float) -> None:
    """Refuse what no ACRnet can be built from."""
    if len(blocks) != len(CHANNELS) or min(blocks) < 1:
        raise UserError(
            f"classifier.blocks: got {blocks}, expected {len(CHANNELS)} numbers above 0, one per stage; "
            "set classifier.blocks=[4,4,4,6,6]"
        )
    if len(kernel_sizes) != 4 or any(k < 1 or k % 2 == 0 for k in kernel_sizes):
        raise UserError(
            f"classifier.kernel_sizes: got {kernel_sizes}, expected 4 odd numbers, one per convolution of a "
            "block; set classifier.kernel_sizes=[3,3,3,3]"
        )
    if not (math.isfinite(width_multiplier) and width_multiplier > 0):
        raise UserError(
            f"classifier.width_multiplier: got {width_multiplier}, expected a finite number above 0; "
            "set classifier.width_multiplier=1.0"
        )
    if not 0.0 <= dropout < 1.0:
        raise UserError(f"classifier.dropout: got {dropout}, expected [0, 1); set classifier.dropout=0.0")
