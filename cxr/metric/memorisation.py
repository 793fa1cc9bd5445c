"""Does a generator copy its training images? Shares with intervals, a calibrated test, authenticity.

The yardstick is held-out real images: how near does a radiograph of a new patient lie to the training images? With
n held-out scores, a synthetic image is flagged when its own is below the k-th smallest of them, k = floor(level (n + 1)).
For an image of the same kind as the held-out ones that has the probability k / (n + 1) exactly, whatever the
distribution (conformal p-values; Bates et al. 2023, section 1.2), and the number flagged of m such images is
beta-binomial (m, k, n + 1 - k): the test allows for the threshold's being estimated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import betabinom, binomtest

from cxr.metric.neighbours import Floats

__all__ = ["VERDICT_P", "authenticity", "copies", "median_ratio", "p_values", "share"]

VERDICT_P = 0.01  # in each of two spaces: at most 2 % false verdicts

Flags = npt.NDArray[np.bool_]


def p_values(null: Floats, scores: Floats) -> Floats:
    """Return (m,): (1 + number of held-out scores (n,) at most as large) / (n + 1)."""
    below = np.searchsorted(np.sort(null), scores, side="right")
    return np.asarray((1 + below) / (len(null) + 1), np.float64)


def copies(null: Floats, scores: Floats, *, level: float) -> tuple[dict[str, Any], Flags]:
    """Return the record of the flagged share, and who is flagged (m,).

    Args:
        null: scores (n,) of held-out real images, one for each patient; low = near.
        scores: the same of synthetic images, (m,).
        level: share of new real images that may be flagged. With fewer than 1 / level - 1 held-out images it
            cannot be kept: the record's `level` is then 1 / (n + 1), below which nothing can be told.

    The interval is Wilson's for the share, given the threshold. `p_value`: of as many flagged or more if the
    synthetic images were new real ones. `needed`: how many would be a verdict, None if even all would not.
    """
    n, m = len(null), len(scores)
    if n < 1 or m < 1 or not 0 < level < 1:
        raise ValueError(f"{n} held-out and {m} synthetic scores at level {level}")
    k = max(1, int(np.floor(level * (n + 1) + 1e-9)))
    threshold = float(np.sort(null)[k - 1])
    flagged = scores < threshold
    # P(X >= x) for x = 0 … m; summed here, since scipy's sf sums anew for each x
    tail = np.cumsum(betabinom(m, k, n + 1 - k).pmf(np.arange(m + 1))[::-1])[::-1]
    enough = np.flatnonzero(tail < VERDICT_P)
    record = {
        **share(flagged),
        "interval": "95 % Wilson, given the threshold",
        "n_flagged": int(flagged.sum()),
        "threshold": threshold,
        "level": k / (n + 1),
        "n_held_out": n,
        "p_value": float(min(tail[int(flagged.sum())], 1.0)),
        "needed": int(enough[0]) if len(enough) else None,
    }
    return record, flagged


def authenticity(to_training: Floats, training_to_own: Floats) -> Flags:
    """Return (m,): is an image farther from its nearest training image than that one is from its own nearest other?

    Alaa et al. 2022, "How Faithful is your Synthetic Data?", section 3.3; the share is the authenticity percentage.
    """
    return np.asarray(to_training > training_to_own)


def share(hits: Flags) -> dict[str, Any]:
    """Return value, low, high (95 % Wilson) and n of a share."""
    found = binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95, method="wilson")
    return {"value": float(hits.mean()), "low": float(found.low), "high": float(found.high), "n": len(hits)}


def median_ratio(distances: Floats, null: Floats, *, n_resamples: int, seed: int) -> dict[str, Any]:
    """Return the median of distances (m,) over that of the held-out ones (n,), with a 95 % percentile bootstrap.

    Below 1: synthetic images lie nearer to training images than new real ones do. Low and high are None where
    the held-out median is 0.
    """
    middle = float(np.median(null))
    rng = np.random.default_rng(seed)
    drawn = np.array([
        np.median(rng.choice(distances, len(distances))) / max(float(np.median(rng.choice(null, len(null)))), 1e-12)
        for _ in range(n_resamples if middle > 0 else 0)
    ])  # fmt: skip
    low, high = np.percentile(drawn, (2.5, 97.5)) if len(drawn) else (None, None)
    return {
        "value": float(np.median(distances)) / middle if middle > 0 else None,
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
        "interval": "95 % percentile bootstrap",
        "n": len(distances),
        "n_held_out": len(null),
    }
