"""The custom CNN of Talukdar et al. (paper id `talukdar`): their best model that is trained from nothing.

Layers as listed: conv 32 k3, conv 64 k3, max-pool 2, conv 128 k3, max-pool 3, flatten, dense 120, 120,
60, dropout 0.2, dense 1. ReLU after each (not stated; the usual choice), "valid" padding and pools that
drop the remainder (Keras' defaults, which the authors used).

Parameters at 128 x 128 x 3 with one output: 6,259,209. The paper prints 1,177,801, which this list
cannot have at 128 x 128 whatever the padding, strides or place of the pools: we build the list.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cxr.classifier.base import Classifier, Init, initialise
from cxr.errors import UserError

__all__ = ["TalukdarCNN"]

SMALLEST_PX = 14  # below it nothing is left after the second pool


class TalukdarCNN(Classifier):
    """Three convolutions, two pools, four dense layers; returns logits where the paper has a sigmoid."""

    def __init__(
        self, *, image_size_px: int, channels: Literal[1, 3], n_outputs: int, dropout: float, init: Init
    ) -> None:
        super().__init__()
        if image_size_px < SMALLEST_PX:
            raise UserError(
                f"classifier.image_size_px: got {image_size_px}, expected at least {SMALLEST_PX}; "
                "set classifier.image_size_px=128 cache.size_px=128"
            )
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"classifier.dropout: got {dropout}, expected [0, 1); set classifier.dropout=0.2")
        self.image_size_px, self.channels, self.n_outputs = image_size_px, channels, n_outputs
        self.weights, self.last_conv = "random", "conv3"
        side = ((image_size_px - 4) // 2 - 2) // 3  # 20 at 128 px
        self.conv1 = nn.Conv2d(channels, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.conv3 = nn.Conv2d(64, 128, 3)
        self.head = nn.Sequential(
            nn.Linear(128 * side * side, 120),
            nn.ReLU(),
            nn.Linear(120, 120),
            nn.ReLU(),
            nn.Linear(120, 60),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(60, n_outputs),
        )
        initialise(self, init)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, channels, H, W) in [-1, 1] to logits (B, n_outputs)."""
        x = F.relu(self.conv1(images))
        # ReLU is monotone, so it commutes with max-pooling: after the pool it is the same function on
        # 1/4 and 1/9 of the values (the step is 1.1 to 1.2 x faster on a CPU).
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = F.relu(F.max_pool2d(self.conv3(x), 3))
        logits: Tensor = self.head(x.flatten(1))
        return logits
