"""The DCNN of Salehinejad et al. (paper id `salehinejad`, section 2.2): "fundamentally similar to AlexNet".

Stated: 256 x 256 in, a first kernel of 5 x 5 that keeps the size (equation 3), ReLU before each 2 x 2
max-pool (equation 4), flatten 4,096, an MLP with one hidden layer, softmax over 5 classes (equation 6);
convolution weights from a normal distribution, biases 0.1.

Not stated, and chosen here:
    stages      five, since 4,096 = 8 x 8 x 64 and 8 = 256 / 2^5; AlexNet has five convolutions too
    widths      16, 32, 64, 64, 64; only the last follows from 4,096
    kernels     5, then 3 ("different kernel sizes", printed in a figure only)
    hidden      1,024, ReLU
    weight std  of He et al. 2015, √(2 / fan-in), the one for ReLU; dense layers alike
    dropout     none is mentioned, none is here
Parameters at 256 x 256 x 1 with 5 outputs: 4,297,861.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cxr.classifier.base import Classifier
from cxr.errors import UserError

__all__ = ["SalehinejadDCNN"]


class SalehinejadDCNN(Classifier):
    """Convolution, ReLU and pool for each stage, one hidden layer; returns logits where the paper has a softmax."""

    def __init__(
        self,
        *,
        image_size_px: int,
        channels: Literal[1, 3],
        n_outputs: int,
        widths: list[int],
        kernel_sizes: list[int],
        hidden: int,
        weight_std: float | None,
        bias: float,
    ) -> None:
        """`widths` and `kernel_sizes` (odd) have a number for each stage; `weight_std` None is √(2 / fan-in)."""
        super().__init__()
        if len(widths) != len(kernel_sizes) or not widths or any(k % 2 == 0 for k in kernel_sizes):
            raise UserError(
                f"classifier.kernel_sizes: got {kernel_sizes}, expected an odd number for each of the "
                f"{len(widths)} widths; set classifier.kernel_sizes=[5{',3' * (len(widths) - 1)}]"
            )
        smallest = 2 ** len(widths)
        if image_size_px < smallest:
            raise UserError(
                f"classifier.image_size_px: got {image_size_px}, expected at least {smallest} for "
                f"{len(widths)} pools; set classifier.image_size_px=256 cache.size_px=256"
            )
        self.image_size_px, self.channels, self.n_outputs = image_size_px, channels, n_outputs
        self.weights, self.last_conv = "random", f"convs.{len(widths) - 1}"
        self.convs = nn.ModuleList(
            nn.Conv2d(before, width, kernel, padding=kernel // 2)
            for before, width, kernel in zip([channels, *widths], widths, kernel_sizes, strict=False)
        )
        side = image_size_px // smallest  # 8 at 256 px
        self.hidden = nn.Linear(widths[-1] * side * side, hidden)
        self.out = nn.Linear(hidden, n_outputs)
        _initialise(self, weight_std, bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, channels, H, W) in [-1, 1] to logits (B, n_outputs)."""
        x = images
        for conv in self.convs:
            x = F.relu(
                F.max_pool2d(conv(x), 2)
            )  # ReLU commutes with the pool: same function, a quarter the work
        logits: Tensor = self.out(F.relu(self.hidden(x.flatten(1))))
        return logits


def _initialise(module: nn.Module, weight_std: float | None, bias: float) -> None:
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            if weight_std is None:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            else:
                nn.init.normal_(layer.weight, std=weight_std)
            assert layer.bias is not None
            nn.init.constant_(layer.bias, bias)
