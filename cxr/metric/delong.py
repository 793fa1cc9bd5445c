"""DeLong's test of two AUROCs on the same images, each image its own patient (DeLong et al. 1988, Biometrics 44:837).

An AUROC is a mean over pairs; each positive's share of it (the negatives it outranks) and each negative's are
`structural components`, whose covariance between models gives the variance of any contrast of AUROCs. Components come
from mid-ranks in O(N log N) (Sun & Xu 2014, IEEE Signal Process. Lett. 21:1389, algorithm 2).

By hand, since no kept library has it (scipy, scikit-learn, statsmodels and torchmetrics do not). It takes images as
independent: where a patient has several, the variance is too small, so it must not be asked then.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from cxr.metric.ranking import FEWEST

__all__ = ["auroc_covariance", "delong"]

Floats = npt.NDArray[np.float64]
Tested = tuple[npt.ArrayLike, Sequence[npt.ArrayLike], Sequence[npt.ArrayLike]]


def auroc_covariance(target: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return AUROCs (K,) and their covariance (K, K) of K models.

    Args:
        target: (N,) of 0, 1, at least two of each.
        scores: (K, N).
    """
    y, s = np.asarray(target, dtype=np.float64) > 0.5, np.atleast_2d(np.asarray(scores, dtype=np.float64))
    m, n = int(y.sum()), int((~y).sum())
    if min(m, n) < FEWEST:
        raise ValueError(f"{m} positive and {n} negative images; DeLong's variance needs two of each")
    overall = rankdata(s, axis=1)
    positive = (
        overall[:, y] - rankdata(s[:, y], axis=1)
    ) / n  # (K, m): share of negatives below each positive
    negative = (
        1 - (overall[:, ~y] - rankdata(s[:, ~y], axis=1)) / m
    )  # (K, n): of positives above each negative
    areas = positive.mean(axis=1)
    covariance = np.atleast_2d(np.cov(positive)) / m + np.atleast_2d(np.cov(negative)) / n
    return areas, covariance


def delong(folds: Sequence[Tested]) -> tuple[float, float, float]:
    """Return the difference A - B of mean AUROCs, its standard error and the two-sided p of "no difference".

    The mean over seeds is a contrast of AUROCs on one test set; folds are independent, their mean adds variances.

    Args:
        folds: of each test set the targets (N,) of 0, 1, NaN (left out), and the scores (N,) of every seed of A
            and of B.
    """
    differences, variances = [], []
    for target, of_a, of_b in folds:
        y = np.asarray(target, dtype=np.float64)
        known = ~np.isnan(y)
        scores = np.asarray([*of_a, *of_b], dtype=np.float64)[:, known]
        areas, covariance = auroc_covariance(y[known], scores)
        contrast = np.r_[np.full(len(of_a), 1 / len(of_a)), np.full(len(of_b), -1 / len(of_b))]
        differences.append(float(contrast @ areas))
        variances.append(max(0.0, float(contrast @ covariance @ contrast)))
    difference, se = float(np.mean(differences)), float(np.sqrt(np.sum(variances))) / len(folds)
    if se < 1e-12:  # the arms rank all images alike
        return difference, 0.0, 1.0
    return difference, se, float(2 * norm.sf(abs(difference) / se))
