"""Pixel features for the KID of a GAN's training; the score itself is in `cxr.metric.kid`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError
from cxr.metric.kid import Kid, kid, subset_size, unbiased_mmd2

__all__ = ["Floats", "Kid", "kid", "pixel_features", "subset_size", "unbiased_mmd2"]

Floats = npt.NDArray[np.float64]


def pixel_features(images: npt.NDArray[np.uint8], size_px: int = 16) -> Floats:
    """Average uint8 images (N, H, H) over blocks to float64 features (N, size_px²) in [-1, 1]."""
    n, height, width = images.shape
    if height % size_px or width % size_px:
        raise UserError(
            f"pixel features: {height}×{width} images cannot be averaged to {size_px}×{size_px}; "
            "expected a multiple; set callback.generative_score.feature_px to a divisor"
        )
    blocks = images.reshape(n, size_px, height // size_px, size_px, width // size_px)
    means: Floats = blocks.mean(axis=(2, 4), dtype=np.float64).reshape(n, size_px * size_px)
    return means / 127.5 - 1.0
