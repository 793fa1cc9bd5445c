"""95 % interval and p of the difference of two scores of the same patients, found on the logit scale.

On its own scale value ± t × SE fails near 1 (of AUROCs near .99 on 100 patients 87 % hold, docs/results/coverage.md): a
set that happens to rank well shows a small difference and a small SE at once. So both scores are taken to the logit
scale, where (A, B) ± t × SE is an ellipse whose tilt is their correlation, and the interval runs from the least to the
greatest A - B on it, as a profile likelihood interval does (Cox & Hinkley 1974, 9.3; Zou & Yue 2013, Stat. Med.
32:5077, go from the single logit intervals to the difference for the same reason). p is the t of the difference of
the logits: the ellipse meets the line A = B where p ≥ .05, so p < .05 and an interval without 0 are one statement.

The ellipse's axes are the difference of the logits and the level that is uncorrelated with it, each as long as its
own t × SE: two seeds say little about the difference of two arms, and no less about how hard the test images are.

A score at its limit (every image right) does not vary. It stands at (u + 1/2) / (u + 1) for u patients, and its exact
binomial bound (see `cxr.metric.interval`) is taken for its t × SE, uncorrelated with the other's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxr.metric.interval import TAIL, Limits, Part, logit, spread, t_point

__all__ = ["paired_interval"]

Floats = npt.NDArray[np.float64]
_ROUND = np.linspace(0, 2 * np.pi, 1440, endpoint=False)  # extremes on an ellipse to 2e-6 of its width


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

    defined = ~np.isnan(drawn[0] + drawn[1])
    if units <= strata or defined.sum() < 2:
        return None, None, None
    (x, of_x, parts_x), (y, of_y, parts_y) = (
        _on_logit(value, one[defined], units, strata, part)
        for value, one, part in zip(values, drawn, seeds, strict=True)
    )

    def of(a: float, b: float) -> tuple[float, float]:
        """SE and degrees of freedom of a x + b y."""
        parts = [*_times(parts_x, a), *_times(parts_y, b)]
        found = spread(a * of_x + b * of_y, units, strata, parts)
        assert found is not None  # units and draws were seen to
        return found

    (se, df), (se_x, _), (se_y, _) = of(1, -1), of(1, 0), of(0, 1)
    # w x + (1 - w) y is uncorrelated with x - y
    w = 0.5 + (se_y**2 - se_x**2) / (2 * se**2) if se > 0 else 0.5
    se_level, df_level = of(w, 1 - w)
    apart, level = t_point(df) * se * np.sin(_ROUND), t_point(df_level) * se_level * np.cos(_ROUND)
    around = expit(x + level + (1 - w) * apart) - expit(y + level - w * apart)
    value = values[0] - values[1]
    p = float(2 * t.sf(abs(x - y) / se, df)) if se > 0 else float(x == y)
    return min(float(around.min()), value), max(float(around.max()), value), p


def _on_logit(
    value: float, drawn: Floats, units: float, strata: int, seeds: Sequence[Part]
) -> tuple[float, Floats, Sequence[Part]]:
    """Where a score stands on the logit scale, its draws there, and the parts of variance they do not hold."""
    if 0 < value < 1:
        slope = value * (1 - value)
        return logit(value), (drawn - value) / slope, _times(seeds, 1 / slope)
    near, df = (units + 0.5) / (units + 1), units - strata
    exact = (logit(near) - logit(TAIL ** (1 / units))) / t_point(df)
    se = max(exact, float(drawn.std(ddof=1)) / (near * (1 - near)))
    return math.copysign(logit(near), value - 0.5), np.zeros(drawn.size), [(se**2, df)]


def _times(parts: Sequence[Part], factor: float) -> list[Part]:
    return [(factor**2 * variance, df) for variance, df in parts]
