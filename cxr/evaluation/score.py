"""From a classifier's answers on real and synthetic images to their scores, with intervals and the real-real null.

Both estimates are biased at small n, FID upwards and IS downwards, and a resample of a sample is biased once more, so
a percentile interval lies on the wrong side of the value (of FID at a true distance of 0 it excludes 0). Intervals
are basic ones, 2 value - percentile (Davison & Hinkley 1997, 5.2.1), which take that bias off, cut at what the score
can be. The printed value, biased as everyone's is, may therefore lie outside its interval. Real images are drawn by
patient, synthetic ones singly. They hold for this GAN and this classifier: a second training of either is not in
them. With some tens of images they are too narrow (IS of 40: about 90 % instead of 95 %).

The null cuts the patients into two halves, again and again: FID of one half to the other is what real images score
at that n. Beside it stands the FID of as many synthetic images to the same half. Above the null: something differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError
from cxr.metric.frechet import distance, frechet_distance, resampled_moments
from cxr.metric.inception_score import inception_score, resampled_inception_scores
from cxr.metric.resample import Resamples, draw_patients

__all__ = ["INTERVAL", "Answers", "frechet_record", "inception_records", "shares_warning"]

INTERVAL = "95 % basic bootstrap"
_TAILS = (2.5, 97.5)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """What a classifier says of a set of images.

    Attributes:
        probabilities: (N, C), rows summing to 1.
        logits: (N, K), K = 1 where two classes share one output.
        patients: one per image; None, as for every synthetic image, is one of its own.
    """

    probabilities: Floats
    logits: Floats
    patients: Sequence[str | None]

    def resamples(self, n_resamples: int, seed: int) -> Resamples:
        """Draw its patients."""
        return draw_patients(self.patients, n_resamples=n_resamples, seed=seed)


def inception_records(
    real: Answers, synthetic: Answers, *, splits: int, n_resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Return {"real", "synthetic"}: value, low, high, std over splits, n, n_patients of each IS."""
    found = {}
    for stream, (name, one) in enumerate((("real", real), ("synthetic", synthetic))):
        score = inception_score(one.probabilities, splits=splits, seed=seed)
        resamples = one.resamples(n_resamples, _seed(seed, stream))
        drawn = resampled_inception_scores(one.probabilities, resamples, splits=splits, seed=seed)
        low, high = _basic(score.value, drawn, (1.0, float(one.probabilities.shape[1])))
        found[name] = {
            "value": score.value,
            "low": low,
            "high": high,
            "interval": INTERVAL,
            "std_over_splits": score.std,
            "n": len(one.probabilities),
            "n_patients": resamples.n_patients if name == "real" else None,
        }
    return found


def frechet_record(
    real: Floats,
    synthetic: Floats,
    patients: Sequence[str | None],
    *,
    n_resamples: int,
    n_halves: int,
    seed: int,
) -> dict[str, Any]:
    """Return FID of features (N, d) and (M, d): value, low, high, counts, `null` and `same_n`.

    `null` is real against real over `n_halves` cuts of the patients into halves, `same_n` as many synthetic
    images against the same halves: the mean, and the 2.5th and 97.5th percentile over cuts, which says how
    much the cut matters and is no interval. Both None with fewer than two patients or too few images to cut.
    """
    value = frechet_distance(real, synthetic)
    streams = [draw_patients(p, n_resamples=n_resamples, seed=_seed(seed, i))
               for i, p in enumerate((patients, [None] * len(synthetic)))]  # fmt: skip
    drawn = distance(resampled_moments(real, streams[0]), resampled_moments(synthetic, streams[1]))
    low, high = _basic(value, drawn, (0.0, math.inf))
    null, same_n = _halves(real, synthetic, streams[0].groups, n_halves, _seed(seed, 2))
    return {
        "value": value,
        "low": low,
        "high": high,
        "interval": INTERVAL,
        "n_real": len(real),
        "n_patients": streams[0].n_patients,
        "n_synthetic": len(synthetic),
        "null": null,
        "same_n": same_n,
    }


def shares_warning(real: dict[str, int], synthetic: dict[str, int]) -> str | None:
    """Return the warning that the sets mix their classes otherwise, which alone makes a distance; or None."""
    shares = [
        {name: n / max(sum(counts.values()), 1) for name, n in counts.items()} for counts in (real, synthetic)
    ]
    gaps = {name: abs(shares[0].get(name, 0.0) - shares[1].get(name, 0.0)) for name in {**real, **synthetic}}
    worst = max(gaps, key=lambda name: gaps[name])
    if gaps[worst] <= 0.05:
        return None
    told = " and ".join(f"{100 * share.get(worst, 0.0):.0f} %" for share in shares)
    return f"{worst} is {told} of the real and the synthetic images: part of the distance is that mixture"


def _halves(
    real: Floats, synthetic: Floats, groups: Ints, n_halves: int, seed: int
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return null and same_n, see `frechet_record`."""
    rng = np.random.default_rng(seed)
    sizes = np.bincount(groups)
    rows: list[tuple[float, float, int, int]] = []
    for _ in range(n_halves if len(sizes) > 1 else 0):
        order = rng.permutation(len(sizes))
        # the first patients up to half of the images, at least one and not all
        cut = int(np.clip(np.searchsorted(np.cumsum(sizes[order]), len(groups) / 2) + 1, 1, len(sizes) - 1))
        first = np.isin(groups, order[:cut])
        n = min(int((~first).sum()), len(synthetic))
        if first.sum() < 2 or n < 2:
            continue
        other = rng.choice(np.flatnonzero(~first), n, replace=False)
        made = rng.choice(len(synthetic), n, replace=False)
        half = real[first]
        pair = (frechet_distance(half, real[other]), frechet_distance(half, synthetic[made]))
        rows.append((*pair, int(first.sum()), n))
    if not rows:
        return None, None
    table = np.array(rows)
    counts = {"n_first": float(table[:, 2].mean()), "n_second": float(table[:, 3].mean()), "cuts": len(rows)}
    return _spread(table[:, 0], counts), _spread(table[:, 1], counts)


def _spread(values: Floats, counts: dict[str, Any]) -> dict[str, Any]:
    low, high = _percentiles(values)
    return {"value": float(values.mean()), "low": low, "high": high, **counts}


def _basic(value: float, drawn: Floats, within: tuple[float, float]) -> tuple[float | None, float | None]:
    """Return 2 value - percentiles, cut to what the score can be."""
    low, high = _percentiles(drawn)
    if low is None or high is None:
        return None, None
    return float(np.clip(2 * value - high, *within)), float(np.clip(2 * value - low, *within))


def _percentiles(drawn: Floats) -> tuple[float | None, float | None]:
    defined = drawn[np.isfinite(drawn)]
    if defined.size == 0:
        return None, None
    low, high = np.percentile(defined, _TAILS)
    return float(low), float(high)


def _seed(seed: int, stream: int) -> int:
    """Return a seed of its own for each stream, so that real and synthetic draws are independent."""
    if seed < 0:
        raise UserError(f"seed: got {seed}, expected 0 or more; set seed=0")
    return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])
