"""The diversity of synthetic images beside that of real ones, and the caution where a GAN has collapsed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.data.picked import Picked
from cxr.metric.diversity import (
    Diversity,
    Share,
    collapsed,
    disjoint_pairs,
    diversity,
    most_pairs,
    msssim,
    near_duplicates,
)

__all__ = ["diversity_record"]

Pixels = npt.NDArray[np.uint8] | Picked
Groups = npt.NDArray[np.integer]


def diversity_record(
    real: tuple[Pixels, Groups], synthetic: tuple[Pixels, Groups], *, n_pairs: int, seed: int
) -> dict[str, Any] | None:
    """Return the diversity of images uint8 (N, S, S) with their classes (N,), two sets of one size.

    {"msssim": {"name", "real", "synthetic"}, "near_duplicates": {the same}, "collapsed": why, or None}; each value
    with its 95 % interval and number of pairs, which both sets have alike. None where no two images are of a class.
    """
    n = min(n_pairs, most_pairs(real[1]), most_pairs(synthetic[1]))
    if n < 1:
        return None
    size_px = int(real[0].shape[1])
    of_real, of_made = (_pairs(images, groups, n, seed) for images, groups in (real, synthetic))
    near = [near_duplicates(values, of_real, size_px) for values in (of_real, of_made)]
    means = [diversity(values, size_px) for values in (of_real, of_made)]
    return {
        "msssim": {"name": means[0].name, "real": _of_mean(means[0]), "synthetic": _of_mean(means[1])},
        "near_duplicates": {
            "name": near[0].name,
            "real": _of_share(near[0]),
            "synthetic": _of_share(near[1]),
        },
        "collapsed": collapsed(near[1], near[0]),
    }


def _pairs(images: Pixels, groups: Groups, n_pairs: int, seed: int) -> npt.NDArray[np.float64]:
    pairs = disjoint_pairs(groups, n_pairs, seed=seed)
    return msssim(images[pairs[:, 0]], images[pairs[:, 1]])


def _of_mean(one: Diversity) -> dict[str, Any]:
    return {
        "value": one.mean,
        "low": one.low,
        "high": one.high,
        "interval": "95 % normal, over pairs",
        "n_pairs": one.n_pairs,
    }


def _of_share(one: Share) -> dict[str, Any]:
    return {
        "value": one.value, "low": one.low, "high": one.high, "interval": "95 % Wilson", "count": one.count,
        "n_pairs": one.n_pairs,
    }  # fmt: skip
