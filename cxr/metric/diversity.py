"""Diversity of a set of images: MS-SSIM of random pairs, and whether a generator has collapsed. Pure functions.

MS-SSIM (Wang, Simoncelli & Bovik 2003) of two images is 1 where they are equal. Its mean over random pairs of a set
measures how alike the images are (Odena et al. 2017, section 4.2): lower is more diverse. Radiographs are alike by
nature, so it is read beside the same number for real images only, under the same protocol.

The name is the protocol: `msssim_pairs100_scales3_window11` is the mean over 100 pairs at 3 scales, each half the one
before, in 11-pixel Gaussian windows (σ 1.5). Wang's five scales need 176 pixels; smaller images get fewer, whose
weights are Wang's first ones, rescaled to sum 1. Pairs share no image, so that they are independent and the intervals
hold: n images make at most n // 2 pairs. Where images have classes, pairs are of one class (Odena et al.): a class that
has collapsed would hide among the others.

A mean cannot tell a generator of two images from a merely dull one. What a collapse leaves are pairs that are the
same image: all of them with one mode, half with two, one in k with k equal modes. A pair is a near-duplicate when it
is less than half as far apart (1 - MS-SSIM) as all but the closest 5 % of the real pairs. The threshold comes from
the real images, so it holds for any image size, data set and number of scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from cxr.errors import UserError

__all__ = [
    "MAX_DUPLICATES",
    "Diversity",
    "Share",
    "collapsed",
    "disjoint_pairs",
    "diversity",
    "most_pairs",
    "msssim",
    "msssim_name",
    "near_duplicates",
    "near_duplicates_name",
    "scales",
]

WINDOW_PX = 11
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2
CLOSEST_REAL = 5.0  # percent of the real pairs that may be nearer than what "near" is measured by
MAX_DUPLICATES = 0.1  # a tenth of the pairs: what a generator of ten equally frequent images makes
_BLOCK = 16  # pairs at a time: memory, and the same bits however many pairs there are
_Z = 1.959963984540054  # 97.5th percentile of the normal distribution

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Diversity:
    """Mean MS-SSIM of independent pairs with its 95 % interval (normal, over pairs); `values` (n_pairs,) of each pair.

    `low` and `high` are None with a single pair.
    """

    name: str
    mean: float
    low: float | None
    high: float | None
    n_pairs: int
    values: Floats


@dataclass(frozen=True)
class Share:
    """A share of pairs with its 95 % Wilson interval (Wilson 1927), which is defined at 0 and 1 too."""

    name: str
    value: float
    low: float
    high: float
    count: int
    n_pairs: int


def scales(size_px: int) -> int:
    """Return at how many scales images of a side are compared.

    As many as the library takes: it asks for side // (scales - 1)² > 10, which leaves the coarsest 11 pixels.
    """
    if size_px < 11:
        raise UserError(
            f"MS-SSIM: got images of {size_px} pixels, expected at least {WINDOW_PX}, its window; raise cache.size_px "
            "or set callback.generative_score.n_pairs=null"
        )
    return max(
        k
        for k in range(1, 6)
        if size_px // max(1, k - 1) ** 2 >= WINDOW_PX and size_px >> (k - 1) >= WINDOW_PX
    )


def msssim_name(n_pairs: int, size_px: int) -> str:
    """Return the name of the mean MS-SSIM, which is its protocol."""
    return f"msssim_{_protocol(n_pairs, size_px)}"


def near_duplicates_name(n_pairs: int, size_px: int) -> str:
    """Return the name of the share of near-duplicates, which is its protocol."""
    return f"near_duplicates_{_protocol(n_pairs, size_px)}"


def _protocol(n_pairs: int, size_px: int) -> str:
    return f"pairs{n_pairs}_scales{scales(size_px)}_window{WINDOW_PX}"


def most_pairs(groups: npt.NDArray[np.integer]) -> int:
    """Return how many disjoint pairs there are within the groups of images, whose ids (n,) are given."""
    return int((np.unique(groups, return_counts=True)[1] // 2).sum())


def disjoint_pairs(groups: npt.NDArray[np.integer], n_pairs: int, *, seed: int) -> Ints:
    """Return random positions (n_pairs, 2) of images of one group each, none twice; a function of its arguments.

    groups: the class of each image (n,), all 0 without classes. Groups occur about as often as they have images.
    """
    if not 1 <= n_pairs <= most_pairs(groups):
        raise UserError(
            f"diversity: got {len(groups)} images of {len(np.unique(groups))} classes for {n_pairs} pairs, expected two "
            "of a class for each pair and at least one pair; give more images, or set n_pairs=null while training"
        )
    rng = np.random.default_rng([seed, len(groups)])
    found = []
    for group in np.unique(groups):
        order = rng.permutation(np.flatnonzero(groups == group))
        found.append(order[: len(order) // 2 * 2].reshape(-1, 2))
    return rng.permutation(np.concatenate(found))[:n_pairs].astype(np.int64)


def msssim(first: Pixels, second: Pixels) -> Floats:
    """Return the MS-SSIM (N,) of uint8 images (N, S, S) with others, in [0, 1].

    torchmetrics, which tests compare with a version in scipy. It averages over the windows inside the image, but at
    the coarsest scale over all, borders reflected. Where two images are less alike than by chance, a scale's
    structure is negative and counts as 0 (a negative number has no fractional power).
    """
    weights = WEIGHTS[: scales(first.shape[-1])]
    betas = tuple(weight / sum(weights) for weight in weights)
    parts = []
    for start in range(0, len(first), _BLOCK):
        one, other = (
            torch.from_numpy(np.ascontiguousarray(images[start : start + _BLOCK])).float().unsqueeze(1)
            for images in (first, second)
        )
        values = multiscale_structural_similarity_index_measure(
            one,
            other,
            reduction="none",
            data_range=255.0,
            betas=betas,
            normalize="relu",
            kernel_size=WINDOW_PX,
        )
        assert isinstance(values, torch.Tensor)
        parts.append(values.double().numpy())
    return np.concatenate(parts) if parts else np.zeros(0)


def diversity(values: Floats, size_px: int) -> Diversity:
    """Return the diversity of a set from the MS-SSIM (n_pairs,) of its disjoint pairs of images of a side."""
    n, mean = len(values), float(values.mean())
    half = _Z * float(values.std(ddof=1)) / n**0.5 if n > 1 else None
    low, high = (None, None) if half is None else (max(mean - half, 0.0), min(mean + half, 1.0))
    return Diversity(msssim_name(n, size_px), mean, low, high, n, values)


def near_duplicates(values: Floats, real: Floats, size_px: int) -> Share:
    """Return the share of pairs that are near-duplicates by the measure of the real pairs, see above."""
    near = 0.5 * float(np.percentile(1.0 - real, CLOSEST_REAL))
    n, count = len(values), int((1.0 - values < near).sum())
    share, z2 = count / n, _Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * (share * (1 - share) / n + z2 / (4 * n**2)) ** 0.5
    low, high = max(centre - half, 0.0), min(centre + half, 1.0)
    return Share(near_duplicates_name(n, size_px), share, low, high, count, n)


def collapsed(synthetic: Share, real: Share) -> str | None:
    """Return why a generator counts as collapsed, with the numbers; None where nothing shows that it has.

    It has when more than a tenth of its pairs are near-duplicates beyond the share among real ones, surely: the lower
    end of the interval counts. So one image repeated, two modes, and up to five equal ones at a hundred pairs; six to
    ten only with more. Dull or blurred images alone are no collapse.
    """
    if synthetic.low <= real.value + MAX_DUPLICATES:
        return None
    return (
        f"{synthetic.count} of {synthetic.n_pairs} pairs of generated images are near-duplicates "
        f"({100 * synthetic.value:.0f} %, 95 % interval {100 * synthetic.low:.0f}–{100 * synthetic.high:.0f} %; "
        f"real: {real.count} of {real.n_pairs})"
    )
