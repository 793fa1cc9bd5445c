"""From bootstrap draws to 95 % intervals and p-values: Student's t with the bootstrap's standard error.

Why not percentiles of the draws: they hold where a score is far from its limits, but of an AUROC of .97 to .99 on 100
to 150 patients, which is what papers of this field report, only 83 to 92 % hold the truth instead of 95 %. What held
in the simulation (docs/results/coverage.md):

- a score in [0, 1]: value ± t × SE on the logit scale, SE by the delta method (for AUROC: Kottas et al. 2014;
  for proportions: Agresti 2013, 1.4). It cannot leave [0, 1] and is longer towards the middle.
- a difference of two scores of the same patients: on the logit scale too, `cxr.metric.paired_interval`.

SE is the standard deviation over resamples, times sqrt(u / (u - strata)), since resampling u units shrinks the
variance by that (Davison & Hinkley 1997, 2.3.2); t has u - strata degrees of freedom. u is the effective number of the
patients that bear on a score (`cxr.metric.resample.patients_bearing`). Every fold of a cross-validation is a stratum.

Seeds add the variance of their mean, s² / S, with S - 1 degrees of freedom; parts are put together as Welch (1947)
and Satterthwaite (1946) do. With two or three seeds the interval is wide: so little is known. s² holds how each training
answers these patients, which resampling the patients holds too (patients × seeds of a two-way layout; Owen 2007, Ann.
Appl. Stat. 1:386): the resamples show how large that is, and it is taken off once (`ScoredArm.seed_part`).

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

__all__ = [
    "INTERVAL",
    "TAIL",
    "Estimate",
    "Limits",
    "Part",
    "difference_interval",
    "error_interval",
    "logit",
    "score_interval",
    "spread",
    "t_point",
]

INTERVAL = "95 % patient bootstrap t"
TAIL = 0.025

Floats = npt.NDArray[np.float64]
Part = tuple[float, float]  # a variance and its degrees of freedom; below 0: what another part holds too
Limits = tuple[float | None, float | None, float | None]  # low, high and, of a difference, p


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
    value: float, drawn: Floats, units: float, strata: int = 1, seeds: Sequence[Part] = ()
) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a score in [0, 1]; (None, None) where one unit or none bears on it.

    Args:
        value: on all images.
        drawn: (R,) of the resamples, NaN where undefined.
        units: effective number of the patients that bear on the score; more than `strata`, else no interval.
        seeds: parts of the variance of the mean over seeds, each with its degrees of freedom.
    """
    found = spread(drawn, units, strata, seeds)
    if found is None:
        return None, None
    se, df = found
    if not 0 < value < 1:
        exact = TAIL ** (1 / units)
        low, high = np.nanpercentile(drawn, (100 * TAIL, 100 - 100 * TAIL))
        return (min(float(low), exact), 1.0) if value >= 1 else (0.0, max(float(high), 1 - exact))
    middle, half = logit(value), t_point(df) * se / (value * (1 - value))
    return _logistic(middle - half), _logistic(middle + half)


def error_interval(
    value: float, drawn: Floats, noise: Floats, units: float, strata: int = 1, seeds: Sequence[Part] = ()
) -> tuple[float | None, float | None]:
    """Return the 95 % interval of an error that is a sum of absolute gaps (ECE), as `score_interval`.

    A sample overstates it, since noise has a size too, and most where there is nothing but noise. With the gaps g of
    the bins, |sum|ĝ| - sum|g|| ≤ sum|ĝ - g|: value less the 95 % point of `noise` is a lower bound, exact for a
    calibrated model and cautious for others, and 0 where a calibrated model may show as much in such a sample. As the
    sample overstates, value + t × SE is an upper bound.

    Args:
        noise: (R,) sum of |resampled gap - gap|, `cxr.metric.calibration.weighted_noise`.
    """
    found = spread(drawn, units, strata, seeds)
    if found is None:
        return None, None
    of_patients = float(np.nanpercentile(noise, 95)) ** 2 * units / (units - strata)
    of_seeds = sum(t_point(k) ** 2 * variance for variance, k in seeds)
    se, df = found
    return max(value - math.sqrt(of_patients + of_seeds), 0.0), min(value + t_point(df) * se, 1.0)


def difference_interval(value: float, drawn: Floats, units: float) -> Limits:
    """Return low, high and p of the mean of one difference per image: value ± t × SE on its own scale.

    For scores that are means over images (of heat maps). Of scores near 1 `paired_interval` is the one that holds.
    """
    found = spread(drawn, units, 1, ())
    if found is None:
        return None, None, None
    se, df = found
    half = t_point(df) * se
    if se == 0:
        return value, value, 1.0 if value == 0 else None
    from scipy.stats import t

    return max(value - half, -1.0), min(value + half, 1.0), float(2 * t.sf(abs(value) / se, df))


def spread(drawn: Floats, units: float, strata: int, seeds: Sequence[Part]) -> tuple[float, float] | None:
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


def t_point(df: float) -> float:
    """Upper 2.5 % point of Student's t; finite, so that no spread times it is none."""
    from scipy.stats import t

    return min(float(t.ppf(1 - TAIL, df)), 1e9)


def logit(x: float) -> float:
    """Log odds of a share strictly between 0 and 1."""
    return math.log(x / (1 - x))


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0
