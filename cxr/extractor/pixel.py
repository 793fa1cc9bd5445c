"""Block-averaged pixels: features that need no network, for coarse anatomy, exposure and diversity."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cxr.errors import UserError
from cxr.extractor.base import Extractor

__all__ = ["PixelExtractor"]


class PixelExtractor(Extractor):
    """Means over blocks of pixels in [-1, 1]; the same for every size of image that `size_px` divides.

    Sees no fine texture: made to choose between epochs of one GAN, not to be compared with Inception's scores.
    """

    def __init__(self, *, size_px: int) -> None:
        """`size_px`: images are averaged down to size_px × size_px features."""
        if size_px < 1:
            raise UserError(
                f"extractor.size_px: got {size_px}, expected at least 1; set extractor.size_px=16"
            )
        self.size_px, self.network = size_px, None
        self.name, self.layer = f"pixel{size_px}", ""
        self.protocol: dict[str, Any] = {
            "extractor": "block-averaged pixels",
            "weights_sha256": None,
            "dimensions": size_px * size_px,
            "input_px": size_px,
            "resize": "mean over blocks",
            "quantisation": "none: the mean of a block is not rounded",
            "channels": "one",
            "range": "[-1, 1]",
        }

    def answer(self, images: Tensor) -> tuple[Tensor, None]:
        """Map uint8 (B, 1, S, S) to float32 (B, size_px²) in [-1, 1]; a UserError unless size_px divides S."""
        side = images.shape[-1]
        if side % self.size_px:
            raise UserError(
                f"extractor.size_px: {side}×{side} images cannot be averaged to {self.size_px}×{self.size_px}; "
                "expected a divisor of their side; set extractor.size_px=16, or another divisor"
            )
        means = F.avg_pool2d(images.double(), side // self.size_px)
        return (means / 127.5 - 1.0).flatten(1).float(), None
