"""Mean ROC curve of an arm and the band around it: resampled patients, percentiles at each false positive rate.

The band is vertical (sensitivity at a given false positive rate; Fawcett 2006, section 8.1, averages curves so) and
pointwise: at each single rate 95 % of the resampled curves lie between its limits; a whole curve leaves it more
often. Written by hand, since no kept library draws whole patients and averages over seeds and folds as our scores do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.metric.bootstrap import Answers

__all__ = ["RocBand", "roc_band"]

Floats = npt.NDArray[np.float64]
FEWEST = 2  # images of either kind that a curve needs, as for AUROC


@dataclass(frozen=True)
class RocBand:
    """Sensitivity (G,) with its 95 % limits at false positive rates (G,) from 0 to 1.

    `curves` (runs, G): the single runs whose mean is `mean`. `n_resamples`: those that define every fold's curve.
    """

    rate: Floats
    mean: Floats
    low: Floats
    high: Floats
    curves: Floats
    n_resamples: int


def roc_band(folds: Sequence[Answers], label: int, *, n_grid: int = 201) -> RocBand | None:
    """Return the mean curve of one label over seeds, then folds, with its band; None where no fold defines it.

    Args:
        folds: each test set with one probability table per seed and its resamples of patients; patients of unlike
            folds are drawn independently, all seeds of a fold share a draw, as in `cxr.metric.bootstrap`.
        label: column of the target and probability tables. Images whose label is not known (NaN) are left out.
    """
    grid = np.linspace(0, 1, n_grid)
    means, drawn, single = [], [], []
    for fold in folds:
        truth = np.asarray(fold.target, dtype=np.float64)[:, label]
        known = ~np.isnan(truth)
        y, groups = truth[known], fold.resamples.groups[known]
        if min(y.sum(), (1 - y).sum()) < FEWEST:
            continue
        ranked = [_ranked(np.asarray(prob, dtype=np.float64)[known, label]) for prob in fold.probs]
        curves = [_at(grid, y, *one, np.ones(y.size)) for one in ranked]
        single += curves
        means.append(np.mean(curves, axis=0))
        resampled = np.empty((fold.resamples.weights.shape[0], n_grid))
        for r, weights in enumerate(fold.resamples.weights):
            each = weights[groups]
            resampled[r] = np.mean([_at(grid, y, *one, each) for one in ranked], axis=0)
        drawn.append(resampled)
    if not means:
        return None
    of_arm = np.mean(drawn, axis=0)
    of_arm = of_arm[~np.isnan(of_arm).any(axis=1)]
    mean = np.mean(means, axis=0)
    low, high = np.percentile(of_arm, (2.5, 97.5), axis=0) if len(of_arm) else (mean, mean)
    return RocBand(grid, mean, low, high, np.stack(single), len(of_arm))


def _ranked(score: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the order from the highest score, and in it the last place of each tie."""
    order = np.argsort(-score, kind="stable")
    return order, np.flatnonzero(np.r_[np.diff(score[order]) != 0, True])


def _at(
    grid: Floats, y: Floats, order: npt.NDArray[np.int64], last: npt.NDArray[np.int64], weights: Floats
) -> Floats:
    """Return sensitivity at each rate of `grid`, images weighted; NaN where a resample lacks one kind."""
    w, truth = weights[order], y[order]
    hits, alarms = np.cumsum(w * truth)[last], np.cumsum(w * (1 - truth))[last]
    if hits[-1] < FEWEST or alarms[-1] < FEWEST:
        return np.full(grid.size, np.nan)
    return np.interp(grid, np.r_[0.0, alarms / alarms[-1]], np.r_[0.0, hits / hits[-1]])
