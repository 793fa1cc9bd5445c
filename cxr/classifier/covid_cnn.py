"""The CustomCNN of Calabrese and Marabotto (paper id `covidgan`, figure 13), trained from nothing.

Layers as printed: batch norm, conv 64 k3 same, max-pool 2, conv 64 k3 same, max-pool 2, dropout, conv 32 k3
valid, max-pool 2, dropout, flatten, dense 128, dropout, dense 3. At 224 x 224 x 3 with three outputs 3,043,695
numbers as Keras counts them: 3,043,689 parameters and the 6 running statistics of the batch norm.

Not stated: ReLU after the convolutions too ("all of the fully connected layers use relu"), the rates of the
dropouts (0.25 after convolutions, 0.5 before the last layer, the rate of the paper's ResNet50). The batch norm
has Keras' momentum and epsilon, 0.99 and 1e-3 (Keras' 0.99 is PyTorch's 0.01).
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cxr.classifier.base import Classifier, Init, initialise
from cxr.errors import UserError

__all__ = ["CovidCNN"]

SMALLEST_PX = 16  # below it nothing is left after the third pool


class CovidCNN(Classifier):
    """Batch norm, three convolutions each with a pool, two dense layers; logits where the paper has a softmax."""

    def __init__(
        self,
        *,
        image_size_px: int,
        channels: Literal[1, 3],
        n_outputs: int,
        conv_dropout: float,
        dropout: float,
        init: Init,
    ) -> None:
        """`conv_dropout` comes after the second and third pool, `dropout` before the last layer."""
        super().__init__()
        if image_size_px < SMALLEST_PX:
            raise UserError(
                f"classifier.image_size_px: got {image_size_px}, expected at least {SMALLEST_PX}; "
                "set classifier.image_size_px=224 cache.size_px=224"
            )
        for name, rate in (("conv_dropout", conv_dropout), ("dropout", dropout)):
            if not 0.0 <= rate < 1.0:
                raise UserError(f"classifier.{name}: got {rate}, expected [0, 1); set classifier.{name}=0.25")
        self.image_size_px, self.channels, self.n_outputs = image_size_px, channels, n_outputs
        self.weights, self.last_conv = "random", "conv3"
        side = (image_size_px // 4 - 2) // 2  # 27 at 224 px
        self.norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 32, 3)
        self.conv_dropout = nn.Dropout(conv_dropout)
        self.head = nn.Sequential(
            nn.Linear(32 * side * side, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, n_outputs)
        )
        initialise(self, init)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, channels, H, W) in [-1, 1] to logits (B, n_outputs)."""
        # ReLU commutes with the pool: the same function on a quarter of the values.
        x = F.relu(F.max_pool2d(self.conv1(self.norm(images)), 2))
        x = self.conv_dropout(F.relu(F.max_pool2d(self.conv2(x), 2)))
        x = self.conv_dropout(F.relu(F.max_pool2d(self.conv3(x), 2)))
        logits: Tensor = self.head(x.flatten(1))
        return logits
