"""Inception Score of class probabilities: exp of the mean divergence of each image from the mean of all.

IS (Salimans et al. 2016) = exp(mean KL(p_i || p̄)) = exp(H(p̄) - mean H(p_i)). It lies in [1, number of classes],
grows with confident answers and with a spread of classes, and never looks at a real image: a generator that
repeats one good image per class reaches the maximum. Kept because papers print it.

The estimate is biased low at small n (p̄ is one of few), the more so within splits, so n and splits are part of
the protocol. The classifier's bias cancels nowhere: two scores compare only by the same classifier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError
from cxr.metric.resample import Resamples

__all__ = ["InceptionScore", "inception_score", "resampled_inception_scores"]

_WEIGHTS = 2**21  # of images in resamples, held at once: 16 MB

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class InceptionScore:
    """The mean over splits; `std` over them (of the population, as torch-fidelity), None with one split."""

    value: float
    std: float | None
    per_split: tuple[float, ...]


def inception_score(probabilities: npt.ArrayLike, *, splits: int, seed: int | None) -> InceptionScore:
    """Return the IS of probabilities (N, C), rows summing to 1.

    Args:
        splits: the images are cut into this many nearly equal parts, each scored alone.
        seed: of the order in which they are cut; None cuts them as they stand.

    Raises:
        UserError: no classes to tell apart, fewer images than splits, or a value that is no probability.
    """
    p = _checked(probabilities, splits)
    scores = [_scores(p[part], np.ones((1, len(part))))[0] for part in _parts(len(p), splits, seed)]
    spread = float(np.std(scores)) if splits > 1 else None
    return InceptionScore(float(np.mean(scores)), spread, tuple(float(s) for s in scores))


def resampled_inception_scores(
    probabilities: npt.ArrayLike, resamples: Resamples, *, splits: int, seed: int | None
) -> Floats:
    """Return the IS of each resample, (R,); an image stays in its split, NaN where a split was not drawn."""
    p = _checked(probabilities, splits)
    step = max(1, _WEIGHTS // len(p))
    parts = _parts(len(p), splits, seed)
    found = np.empty(len(resamples.weights))
    for start in range(0, len(found), step):
        some = resamples.weights[start : start + step]
        found[start : start + step] = np.mean(
            [_scores(p[part], some[:, resamples.groups[part]].astype(np.float64)) for part in parts], axis=0
        )
    return found


def _checked(probabilities: npt.ArrayLike, splits: int) -> Floats:
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] < 2:
        raise UserError(f"IS: got probabilities of shape {p.shape}, expected (images, at least 2 classes)")
    if not 1 <= splits <= len(p):
        raise UserError(f"IS: {len(p)} images cannot be cut into {splits} splits; set splits=1")
    if not np.isfinite(p).all() or (p < 0).any() or np.abs(p.sum(axis=1) - 1).max() > 1e-4:
        raise UserError(
            "IS: expected probabilities of exclusive classes: finite, not negative, rows that sum to 1"
        )
    return p


def _parts(n: int, splits: int, seed: int | None) -> list[Ints]:
    """Cut n positions as torch-fidelity does: part i is [i n / splits, (i + 1) n / splits)."""
    order = np.arange(n) if seed is None or splits == 1 else np.random.default_rng(seed).permutation(n)
    return [order[i * n // splits : (i + 1) * n // splits] for i in range(splits)]


def _scores(p: Floats, weights: Floats) -> Floats:
    """Return the IS of p (n, C) under each row of weights (R, n); NaN where all weights are 0."""
    total = weights.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, within = weights @ p / total[:, None], weights @ _entropy(p) / total
    # rounding may leave a divergence of -1e-17
    return np.asarray(np.exp(np.maximum(_entropy(mean) - within, 0.0)))


def _entropy(p: Floats) -> Floats:
    """Entropy (n,) in nats of each row of p (n, C); 0 log 0 = 0."""
    return np.asarray(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1))
