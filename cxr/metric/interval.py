"""From bootstrap draws to 95 % intervals and p-values: Student's t with the bootstrap's standard error.

Why not percentiles of the draws: they hold where a score is far from its limits, but of an AUROC of .97 to .99 on 100
to 150 patients, which is what papers of this field report, only 86 to 91 % hold the truth instead of 95 %. BCa intervals
(Efron 1987) mend most of that and fail for differences of AUROC (85 to 91 %). What held best in the simulation
(docs/results/coverage.md):

- a score in [0, 1]: value ± t × SE on the logit scale, SE by the delta method (for AUROC: Kottas et al. 2014;
  for proportions: Agresti 2013, 1.4). It cannot leave [0, 1] and is longer towards the middle.
- a difference of scores: value ± t × SE on its own scale; p is of the same t, so p < .05 and an interval without 0
  are one statement.

SE is the standard deviation over resamples, times sqrt(u / (u - strata)), since resampling u units shrinks the
variance by that (Davison & Hinkley 1997, 2.3.2); t has u - strata degrees of freedom. u counts the patients that bear
on a score: those with the class for its recall, the rarer side for its AUROC, all for accuracy. Every fold of a
cross-validation is a stratum.

Seeds add the variance of their mean, s² / k, with k - 1 degrees of freedom; parts are put together as Welch (1947)
and Satterthwaite (1946) do. With two or three seeds the interval is wide: so little is known.

At the limit (every image right) nothing varies: there the bound is the exact binomial one for u patients,
.025^(1/u) (Clopper & Pearson 1934), or the percentiles where they reach further.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["INTERVAL", "Estimate", "Part", "biased_interval", "difference_interval", "score_interval"]

INTERVAL = "95 % patient bootstrap t"
_TAIL = 0.025

Floats = npt.NDArray[np.float64]
Part = tuple[float, float]  # a variance and its degrees of freedom


@dataclass(frozen=True)
class Estimate:
    """A score or a difference of scores, a fraction in [-1, 1]; None where it is not defined.

    Attributes:
        value: mean over seeds of the score on all test images.
        low, high: 95 % interval over patients.
        low_seeds, high_seeds: 95 % interval over patients and seeds; None with one seed.
        per_seed: one value per seed (a difference of arms with unlike seed counts has none).
        n, n_patients: test images and patients.
        n_seeds: runs averaged (the smaller count, for a difference).
        n_undefined: resamples left out.
        n_folds: test sets that define the score; 1 without cross-validation, 0 where none does.
        p, p_seeds: two-sided p-value of "no difference" over patients, over patients and seeds; of a
            difference only.
    """

    value: float | None
    low: float | None
    high: float | None
    low_seeds: float | None
    high_seeds: float | None
    per_seed: tuple[float, ...]
    n: int
    n_patients: int
    n_seeds: int
    n_undefined: int
    n_folds: int = 1
    p: float | None = None
    p_seeds: float | None = None

    @property
    def seed_std(self) -> float | None:
        """Sample standard deviation over seeds; None below two."""
        return float(np.std(self.per_seed, ddof=1)) if len(self.per_seed) > 1 else None

    def to_record(self) -> dict[str, Any]:
        """Return the form that `result.json` holds."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "n_patients": self.n_patients,
        }


def score_interval(
    value: float, drawn: Floats, units: int, strata: int = 1, seeds: Sequence[Part] = ()
) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a score in [0, 1]; (None, None) where one unit or none bears on it.

    Args:
        value: on all images.
        drawn: (R,) of the resamples, NaN where undefined.
        units: patients that bear on the score; more than `strata`, else there is no interval.
        seeds: variance of the mean over seeds and its degrees of freedom.
    """
    found = _spread(drawn, units, strata, seeds)
    if found is None:
        return None, None
    se, df = found
    if not 0 < value < 1:
        exact = _TAIL ** (1 / units)
        low, high = np.nanpercentile(drawn, (100 * _TAIL, 100 - 100 * _TAIL))
        return (min(float(low), exact), 1.0) if value >= 1 else (0.0, max(float(high), 1 - exact))
    middle, half = math.log(value / (1 - value)), _t(df) * se / (value * (1 - value))
    return _logistic(middle - half), _logistic(middle + half)


def biased_interval(
    value: float, drawn: Floats, units: int, strata: int = 1, seeds: Sequence[Part] = ()
) -> tuple[float | None, float | None]:
    """Return the 95 % interval of an error in [0, 1] that a sample overstates (ECE); arguments as in `score_interval`.

    A resample overstates it once more than the sample does, so their difference estimates the bias and is taken off:
    (2 value - mean of draws) ± t × SE, cut to [0, 1]. The value itself, biased as everyone's is, may lie outside.
    """
    found = _spread(drawn, units, strata, seeds)
    if found is None:
        return None, None
    se, df = found
    middle, half = 2 * value - float(np.nanmean(drawn)), _t(df) * se
    return min(max(middle - half, 0.0), 1.0), max(min(middle + half, 1.0), 0.0)


def difference_interval(
    value: float, drawn: Floats, units: int, strata: int = 1, seeds: Sequence[Part] = ()
) -> tuple[float | None, float | None, float | None]:
    """Return low, high and the two-sided p of "no difference"; arguments as in `score_interval`.

    Arms that answer alike on every image differ by 0, from 0 to 0, p = 1.
    """
    found = _spread(drawn, units, strata, seeds)
    if found is None:
        return None, None, None
    se, df = found
    half = _t(df) * se
    if se == 0:
        return value, value, 1.0 if value == 0 else None
    from scipy.stats import t

    return max(value - half, -1.0), min(value + half, 1.0), float(2 * t.sf(abs(value) / se, df))


def _spread(drawn: Floats, units: int, strata: int, seeds: Sequence[Part]) -> tuple[float, float] | None:
    """Standard error and degrees of freedom of patients and seeds together."""
    defined = drawn[~np.isnan(drawn)]
    if units <= strata or defined.size < 2:
        return None
    own = float(defined.var(ddof=1)) * units / (units - strata)
    own = 0.0 if own < 1e-24 else own  # rounding of equal draws
    parts = [(own, float(units - strata)), *seeds]
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0, float(units - strata)
    return math.sqrt(total), total**2 / sum(variance**2 / df for variance, df in parts)


def _t(df: float) -> float:
    """Upper 2.5 % point of Student's t."""
    from scipy.stats import t

    return float(t.ppf(1 - _TAIL, df))


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0
