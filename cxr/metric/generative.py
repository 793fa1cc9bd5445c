"""Kernel Inception Distance on features of one's choice: images → features → score, pure numpy.

KID (Bińkowski et al. 2018): the unbiased squared MMD under k(x, y) = (x·y/d + 1)³, averaged over random
subsets. Unlike FID it has no bias at small samples: identical distributions give 0 ± noise at any n, and the
value may be negative. Subset size min(1000, n // 2), where n is the smaller of the two samples.

A score's name is its protocol: `kid_pixel16` is KID on images averaged down to 16×16 pixels in [-1, 1]. It
needs no pretrained network and sees coarse anatomy, exposure and diversity, but no fine texture; it is made
to choose between epochs of one GAN and must not be compared with an Inception KID.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError

__all__ = ["Kid", "kid", "pixel_features", "subset_size", "unbiased_mmd2"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Kid:
    """A KID with what it was measured on; `std` is over subsets (no interval: the subsets overlap)."""

    value: float
    std: float
    n_real: int
    n_fake: int
    subset_size: int
    n_subsets: int


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


def subset_size(n_real: int, n_fake: int) -> int:
    """Return KID's subset size for these sample counts: min(1000, n // 2)."""
    return min(1000, min(n_real, n_fake) // 2)


def unbiased_mmd2(x: Floats, y: Floats) -> float:
    """Return the unbiased squared MMD of features (m, d) and (m, d) under the cubic polynomial kernel."""
    m, d = x.shape
    xx, yy, xy = ((a @ b.T / d + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2.0 * xy.mean())


def kid(real: Floats, fake: Floats, *, n_subsets: int, seed: int) -> Kid:
    """Return KID between features (n_real, d) and (n_fake, d); needs at least 4 of each.

    Subsets are drawn without replacement from one seeded generator, so equal inputs give equal bits.
    """
    size = subset_size(len(real), len(fake))
    if size < 2:
        raise UserError(
            f"KID: got {len(real)} real and {len(fake)} generated images, expected at least 4 of each; "
            "give the validation part more images (split.val) or generate more"
        )
    rng = np.random.default_rng(seed)
    values = [
        unbiased_mmd2(
            real[rng.choice(len(real), size, replace=False)], fake[rng.choice(len(fake), size, replace=False)]
        )
        for _ in range(n_subsets)
    ]
    return Kid(float(np.mean(values)), float(np.std(values)), len(real), len(fake), size, n_subsets)
