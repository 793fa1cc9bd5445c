"""Areas under the ROC and precision-recall curves of many weighted resamples from one sort, and ROC points.

By hand because scikit-learn scores one resample at a time (a sort each); it is the oracle of the tests. A ranking
needs at least two positive and two negative images: with one, the score is the rank of that image, and every
resample that draws it says the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

__all__ = ["FEWEST", "auprc", "auroc", "ranked_areas", "roc_points"]

FEWEST = 2  # images of either kind that a ranking needs
_CHUNK = 2_000_000  # resamples × images, at most, in a table held at once: 16 MB

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def auroc(target: npt.ArrayLike, score: npt.ArrayLike) -> float | None:
    """Area under the ROC curve of (N,) 0/1 targets, ties counted half; None below two of a class."""
    y, s = _binary(target, score)
    return _optional(ranked_areas(y, s, np.ones((1, y.size)), np.arange(y.size))[0][0])


def auprc(target: npt.ArrayLike, score: npt.ArrayLike) -> float | None:
    """Average precision, sum over thresholds of (recall step × precision); None below two of a class."""
    y, s = _binary(target, score)
    return _optional(ranked_areas(y, s, np.ones((1, y.size)), np.arange(y.size))[1][0])


def roc_points(target: npt.ArrayLike, score: npt.ArrayLike) -> tuple[Floats, Floats] | None:
    """Return (false positive rate, true positive rate), each (K,) from 0 to 1; None below two of a class."""
    y, s = _binary(target, score)
    if not _enough(y):
        return None
    n_positive = int(y.sum())
    order = np.argsort(-s, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(s[order]) != 0, True])
    true_positive = np.cumsum(y[order])[last]
    false_positive = last + 1 - true_positive
    return (
        np.r_[0.0, false_positive / (y.size - n_positive)],
        np.r_[0.0, true_positive / n_positive],
    )


def ranked_areas(y: Bools, score: Floats, weights: Floats, groups: Ints) -> tuple[Floats, Floats]:
    """AUROC and average precision of every resample (R,), from one sort; ties share one threshold.

    Both change only where there are positives. So images are added up in stretches: each threshold that has a
    positive, and all images between two of those. A sparse matrix of stretches by patients does it without an
    (images, resamples) table; its sums are of whole numbers, so exact in any order.
    """
    n_resamples = weights.shape[0]
    area, precision = np.full(n_resamples, np.nan), np.full(n_resamples, np.nan)
    if not _enough(y):
        return area, precision
    order = np.argsort(-score, kind="stable")
    y, groups = y[order], groups[order]
    ends = np.r_[np.flatnonzero(np.diff(score[order]) != 0) + 1, y.size]
    starts, hits = np.r_[0, ends[:-1]], np.r_[0, np.cumsum(y)]
    bearing = np.flatnonzero(hits[ends] > hits[starts])
    starts, ends = starts[bearing], ends[bearing]
    between = np.r_[
        0, np.stack([starts, ends], axis=1).ravel(), y.size
    ]  # before, threshold, between, threshold, …
    shape = (between.size - 1, weights.shape[1])
    of_all = csr_array((np.ones(y.size), groups, between), shape)
    of_positive = csr_array((np.ones(hits[-1]), groups[y], np.r_[0, hits[ends]]), (bearing.size, shape[1]))
    rows = max(1, _CHUNK // y.size)
    for first in range(0, n_resamples, rows):
        w = np.ascontiguousarray(weights[first : first + rows].T)
        positive, total = of_positive @ w, of_all @ w
        here = total[1::2].copy()
        np.cumsum(total, axis=0, out=total)
        tp, predicted = np.cumsum(positive, axis=0), total[1::2]
        n_positive = tp[-1]
        n_negative = total[-1] - n_positive
        below = (
            n_negative - (predicted - tp) + (here - positive) / 2
        )  # negatives ranked below, those of the tie half
        with np.errstate(divide="ignore", invalid="ignore"):
            a = (positive * below).sum(axis=0) / (n_positive * n_negative)
            b = np.where(positive > 0, positive * tp / predicted, 0.0).sum(axis=0) / n_positive
        defined = (n_positive > 0) & (n_negative > 0)
        area[first : first + rows] = np.where(defined, a, np.nan)
        precision[first : first + rows] = np.where(defined, b, np.nan)
    return area, precision


def _enough(y: Bools) -> bool:
    """Say whether a ranking of these images is one: at least two positive and two negative."""
    return bool(min(y.sum(), (~y).sum()) >= FEWEST)


def _binary(target: npt.ArrayLike, score: npt.ArrayLike) -> tuple[Bools, Floats]:
    y, s = np.asarray(target, dtype=np.float64), np.asarray(score, dtype=np.float64)
    if y.shape != s.shape or y.ndim != 1:
        raise ValueError(f"target {y.shape} and score {s.shape} must both be (images,)")
    if not np.isfinite(s).all() or not np.isin(y, (0.0, 1.0)).all():
        raise ValueError("targets must be 0 or 1 and scores finite")
    return y > 0.5, s


def _optional(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
