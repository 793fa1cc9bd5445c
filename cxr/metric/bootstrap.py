"""95 % intervals by resampling patients, for one run, the mean over seeds, and the difference of arms.

Method. Images of one patient are alike, so the patient is the unit: each of `n_resamples` resamples draws as
many patients as there are, with replacement, and takes all their images; the interval holds the 2.5th to the
97.5th percentile of the score (Efron's percentile interval, Efron & Tibshirani 1993, ch. 13; clusters as in
Field & Welsh 2007). An image without a patient id is its own patient. Resamples depend only on the set of
patient ids and on `seed`, never on the order of rows or on the model, so two models tested on the same images
see the same resamples and their difference is paired.

Several seeds of one arm are tested on the same images. The value is the mean over seeds of the score, each
resample is applied to all seeds jointly, and `low`, `high` say how that mean varies with the patients: they
hold for these trained models. How much training itself varies is shown beside it: `per_seed`, their standard
deviation, and `low_seeds`, `high_seeds`, an interval that also draws seeds with replacement, its seed part
widened by sqrt(k / (k - 1)) so that its variance is the unbiased one. With 2 to 5 seeds even that interval is
on the narrow side (it is normal, not Student): read it as a lower bound of the uncertainty.

Resamples in which a score is not defined (a rare class was not drawn) are left out and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.metric.classification import metric_names, weighted_scores

__all__ = ["INTERVAL", "Estimate", "Resamples", "draw_patients", "estimate", "paired_difference"]

INTERVAL = "95 % patient bootstrap"
_TAILS = (2.5, 97.5)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


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


@dataclass(frozen=True)
class Resamples:
    """Which patient each image belongs to, (N,) in [0, P), and how often each resample drew it, (R, P)."""

    groups: Ints
    weights: Floats
    seed: int

    @property
    def n_patients(self) -> int:
        """How many patients the test images come from."""
        return int(self.weights.shape[1])


def draw_patients(patients: Sequence[str | None], *, n_resamples: int, seed: int) -> Resamples:
    """Draw patients with replacement `n_resamples` times; one id per image, None = a patient of its own."""
    if len(patients) == 0 or n_resamples < 1:
        raise ValueError("needs at least one image and one resample")
    known = sorted(
        {p for p in patients if isinstance(p, str) and p}
    )  # sorted: the draw does not depend on the row order
    position = {p: i for i, p in enumerate(known)}
    groups = np.empty(len(patients), dtype=np.int64)
    n_groups = len(known)
    for i, patient in enumerate(patients):
        if isinstance(patient, str) and patient:  # None, NaN and "" are no ids
            groups[i] = position[patient]
        else:
            groups[i], n_groups = n_groups, n_groups + 1
    rng = np.random.default_rng(seed)
    weights = np.empty((n_resamples, n_groups))
    for r in range(n_resamples):
        weights[r] = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
    return Resamples(groups, weights, seed)


def estimate(
    target: npt.ArrayLike,
    probs: Sequence[npt.ArrayLike],
    classes: Sequence[str],
    resamples: Resamples,
    *,
    multi_label: bool,
    threshold: float,
    names: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """Return each score with its intervals, for one run (`[prob]`) or the mean of several seeds.

    Args:
        target: (N, C) of 0, 1 (NaN where unknown, multi-label only).
        probs: one (N, C) table of probabilities per seed, rows in the order of `target`.
        names: the scores wanted; all when None.
    """
    arm = _Arm(target, probs, classes, resamples, multi_label, threshold, names)
    rng = np.random.default_rng([resamples.seed, 1])
    return {
        name: _estimate(
            float(arm.value[name].mean()),
            tuple(arm.value[name].tolist()),
            arm.drawn[name].mean(0),
            arm.with_seeds(name, rng),
            arm.value[name].size,
            resamples,
        )
        for name in arm.names
    }


def paired_difference(
    target: npt.ArrayLike,
    probs_a: Sequence[npt.ArrayLike],
    probs_b: Sequence[npt.ArrayLike],
    classes: Sequence[str],
    resamples: Resamples,
    *,
    multi_label: bool,
    threshold: float,
    names: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """Return score(A) - score(B) with intervals; both arms are tested on the same images and resamples.

    Seeds of the two arms are drawn independently of each other: equal seeds do not make trainings on unlike
    training sets alike. `per_seed` still lists A minus B seed by seed where both have as many.
    """
    a = _Arm(target, probs_a, classes, resamples, multi_label, threshold, names)
    b = _Arm(target, probs_b, classes, resamples, multi_label, threshold, names)
    rng = np.random.default_rng([resamples.seed, 2])
    found = {}
    for name in a.names:
        with_a, with_b = a.with_seeds(name, rng), b.with_seeds(name, rng)
        both = None if with_a is None or with_b is None else with_a - with_b
        values_a, values_b = a.value[name], b.value[name]
        found[name] = _estimate(
            float(values_a.mean() - values_b.mean()),
            tuple((values_a - values_b).tolist()) if values_a.size == values_b.size else (),
            a.drawn[name].mean(0) - b.drawn[name].mean(0),
            both,
            min(values_a.size, values_b.size),
            resamples,
        )
    return found


class _Arm:
    """Scores of all seeds of one arm: `value[name]` (S,) on all images, `drawn[name]` (S, R) per resample."""

    def __init__(
        self,
        target: npt.ArrayLike,
        probs: Sequence[npt.ArrayLike],
        classes: Sequence[str],
        resamples: Resamples,
        multi_label: bool,
        threshold: float,
        names: Sequence[str] | None,
    ) -> None:
        if not probs:
            raise ValueError("needs the predictions of at least one run")
        everyone = np.ones((1, resamples.n_patients))
        weights = np.concatenate([everyone, resamples.weights])
        tables: list[Mapping[str, Floats]] = [
            weighted_scores(
                target,
                prob,
                classes,
                multi_label=multi_label,
                threshold=threshold,
                groups=resamples.groups,
                weights=weights,
                names=names,
            )
            for prob in probs
        ]
        self.names = [n for n in metric_names(classes) if n in tables[0]]
        self.value = {n: np.array([t[n][0] for t in tables]) for n in self.names}
        self.drawn = {n: np.stack([t[n][1:] for t in tables]) for n in self.names}

    def with_seeds(self, name: str, rng: np.random.Generator) -> Floats | None:
        """Means (R,) over seeds drawn with replacement, spread corrected for their small number."""
        drawn = self.drawn[name]
        k = drawn.shape[0]
        if k < 2:
            return None
        picked = np.take_along_axis(drawn, rng.integers(k, size=drawn.shape), axis=0).mean(0)
        mean = drawn.mean(0)
        return np.asarray(mean + np.sqrt(k / (k - 1)) * (picked - mean))


def _estimate(
    value: float,
    per_seed: tuple[float, ...],
    means: Floats,
    both: Floats | None,
    n_seeds: int,
    resamples: Resamples,
) -> Estimate:
    defined = not np.isnan(value)
    low, high = _interval(means) if defined else (None, None)
    low_seeds, high_seeds = _interval(both) if defined and both is not None else (None, None)
    return Estimate(
        value=value if defined else None,
        low=low,
        high=high,
        low_seeds=low_seeds,
        high_seeds=high_seeds,
        per_seed=per_seed if defined else (),
        n=int(resamples.groups.size),
        n_patients=resamples.n_patients,
        n_seeds=n_seeds,
        n_undefined=int(np.isnan(means).sum()),
    )


def _interval(drawn: Floats) -> tuple[float | None, float | None]:
    defined = drawn[~np.isnan(drawn)]
    if defined.size == 0:
        return None, None
    low, high = np.percentile(defined, _TAILS)
    return float(low), float(high)
