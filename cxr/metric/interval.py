"""From bootstrap draws to 95 % intervals and p-values: Student's t with the bootstrap's standard error.

Why not percentiles of the draws: they hold where a score is far from its limits, but of an AUROC of .97 to .99 on 100
to 150 patients, which is what papers of this field report, only 86 to 91 % hold the truth instead of 95 %. What held
in the simulation (docs/results/coverage.md):

- a score in [0, 1]: value ± t × SE on the logit scale, SE by the delta method (for AUROC: Kottas et al. 2014;
  for proportions: Agresti 2013, 1.4). It cannot leave [0, 1] and is longer towards the middle.
- a difference of two scores of the same patients: both are taken to the logit scale, where (a, b) ± t × SE is an
  ellipse whose tilt is their correlation; the interval runs from the least to the greatest A - B on it, as a profile
  likelihood interval does (Cox & Hinkley 1974, 9.3; Zou & Yue 2013, Stat. Med. 32:5077, go from the single logit
  intervals to the difference for the same reason). On its own scale value ± t × SE fails near 1: a set
  that happens to rank well shows a small difference and a small SE at once. p is the t of the difference of the
  logits: the ellipse meets the line A = B where p ≥ .05, so p < .05 and an interval without 0 are one statement.

SE is the standard deviation over resamples, times sqrt(u / (u - strata)), since resampling u units shrinks the
variance by that (Davison & Hinkley 1997, 2.3.2); t has u - strata degrees of freedom. u is the effective number of the
patients that bear on a score (`cxr.metric.resample.patients_bearing`). Every fold of a cross-validation is a stratum.

Seeds add the variance of their mean, s² / k, with k - 1 degrees of freedom; parts are put together as Welch (1947)
and Satterthwaite (1946) do. s² holds how each training answers these patients, which resampling the patients holds
too: that share (patients × seeds, as in a two-way layout with random effects; Owen 2007, Ann. Appl. Stat. 1:386) is
counted once. With two or three seeds the interval is wide: so little is known.

At the limit (every image right) nothing varies: there the bound is the exact binomial one for u patients,
.025^(1/u) (Clopper & Pearson 1934), or the percentiles where they reach further. In a difference such a score
stands at (u + 1/2) / (u + 1), as far from that bound as t × SE is long, uncorrelated with the other.
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
    "Estimate",
    "Part",
    "difference_interval",
    "error_interval",
    "paired_interval",
    "score_interval",
]

INTERVAL = "95 % patient bootstrap t"
_TAIL = 0.025
_ROUND = np.linspace(0, 2 * np.pi, 1440, endpoint=False)  # extremes on an ellipse to 2e-6 of its width

Floats = npt.NDArray[np.float64]
Part = tuple[float, float, float]  # a variance, its degrees of freedom, what of it the draws hold already
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
        seeds: variance of the mean over seeds, its degrees of freedom, and the share that `drawn` varies by.
    """
    found = _spread(drawn, units, strata, seeds)
    if found is None:
        return None, None
    se, df = found
    if not 0 < value < 1:
        exact = _TAIL ** (1 / units)
        low, high = np.nanpercentile(drawn, (100 * _TAIL, 100 - 100 * _TAIL))
        return (min(float(low), exact), 1.0) if value >= 1 else (0.0, max(float(high), 1 - exact))
    middle, half = _logit(value), _t(df) * se / (value * (1 - value))
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
    found = _spread(drawn, units, strata, seeds)
    if found is None:
        return None, None
    widen = units / (units - strata)
    of_patients = float(np.nanpercentile(noise, 95)) ** 2 * widen
    of_seeds = sum(_t(k) ** 2 * max(variance - counted * widen, 0.0) for variance, k, counted in seeds)
    se, df = found
    return max(value - math.sqrt(of_patients + of_seeds), 0.0), min(value + _t(df) * se, 1.0)


def paired_interval(
    values: tuple[float, float],
    drawn: tuple[Floats, Floats],
    units: float,
    strata: int = 1,
    seeds: tuple[Sequence[Part], Sequence[Part]] = ((), ()),
) -> Limits:
    """Return low, high and the two-sided p of "no difference" for A - B, two scores in [0, 1] of the same patients.

    Arms that answer alike on every image differ by 0, from 0 to 0, p = 1, unless both are at a limit.

    Args:
        values: of A and of B on all images.
        drawn: (R,) each, of the same resamples.
        units, strata: as in `score_interval`.
        seeds: of A and of B; trained apart, so their variances add.
    """
    from scipy.special import expit
    from scipy.stats import t

    found = _spread(drawn[0] - drawn[1], units, strata, [*seeds[0], *seeds[1]])
    alone = [_spread(one, units, strata, part) for one, part in zip(drawn, seeds, strict=True)]
    if found is None or alone[0] is None or alone[1] is None:
        return None, None, None
    (together, df), (sd_a, sd_b) = found, (alone[0][0], alone[1][0])
    value = values[0] - values[1]
    x, half_x = _on_logit(values[0], sd_a, df, units)
    y, half_y = _on_logit(values[1], sd_b, df, units)
    r = 0.0
    if all(0 < one < 1 for one in values):
        if together == 0 and value == 0:
            return 0.0, 0.0, 1.0
        if min(sd_a, sd_b) > 0:
            r = min(max((sd_a**2 + sd_b**2 - together**2) / (2 * sd_a * sd_b), -1.0), 1.0)
    across = half_x * np.cos(_ROUND)
    beside = half_y * (r * np.cos(_ROUND) + math.sqrt(1 - r**2) * np.sin(_ROUND))
    around = expit(x + across) - expit(y + beside)
    half = math.sqrt(max(half_x**2 + half_y**2 - 2 * r * half_x * half_y, 0.0))
    p = float(2 * t.sf(abs(x - y) / half * _t(df), df)) if half > 0 else float(x == y)
    return min(float(around.min()), value), max(float(around.max()), value), p


def difference_interval(value: float, drawn: Floats, units: float) -> Limits:
    """Return low, high and p of the mean of one difference per image: value ± t × SE on its own scale.

    For scores that are means over images (of heat maps). Of scores near 1 `paired_interval` is the one that holds.
    """
    found = _spread(drawn, units, 1, ())
    if found is None:
        return None, None, None
    se, df = found
    half = _t(df) * se
    if se == 0:
        return value, value, 1.0 if value == 0 else None
    from scipy.stats import t

    return max(value - half, -1.0), min(value + half, 1.0), float(2 * t.sf(abs(value) / se, df))


def _spread(drawn: Floats, units: float, strata: int, seeds: Sequence[Part]) -> tuple[float, float] | None:
    """Standard error and degrees of freedom of patients and seeds together."""
    defined = drawn[~np.isnan(drawn)]
    if units <= strata or defined.size < 2:
        return None
    widen = units / (units - strata)
    own = float(defined.var(ddof=1)) * widen
    own = 0.0 if own < 1e-24 else own  # rounding of equal draws
    total = own + sum(max(variance - counted * widen, 0.0) for variance, _, counted in seeds)
    if total == 0:
        return 0.0, float(units - strata)
    doubt = own**2 / (units - strata) + sum(variance**2 / df for variance, df, _ in seeds)
    return math.sqrt(total), total**2 / doubt


def _on_logit(value: float, se: float, df: float, units: float) -> tuple[float, float]:
    """Where a score of [0, 1] stands on the logit scale, and how far its 95 % interval reaches from there."""
    if 0 < value < 1:
        return _logit(value), _t(df) * se / (value * (1 - value))
    near = (units + 0.5) / (units + 1)
    half = max(_logit(near) - _logit(_TAIL ** (1 / units)), _t(df) * se / (near * (1 - near)))
    return math.copysign(_logit(near), value - 0.5), half


def _t(df: float) -> float:
    """Upper 2.5 % point of Student's t; finite, so that no spread times it is none."""
    from scipy.stats import t

    return min(float(t.ppf(1 - _TAIL, df)), 1e9)


def _logit(x: float) -> float:
    return math.log(x / (1 - x))


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0
