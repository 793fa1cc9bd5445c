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

Cross-validation. A seed has one model per fold, and each fold its own test images. The score of a seed is the
unweighted mean over the folds of the score on the fold's images (the papers' "5-fold mean"), not the score of all
images pooled, since probabilities of different models share no scale. Patients are drawn within each fold, as many
as it has, independently of the other folds: the folds are strata, and a patient lies in one fold only. Resample r
of the mean is the mean over folds of their r-th resamples; seeds are then averaged and drawn as above, a seed being
all its folds. The interval holds for these models on these folds. It does not cover how the scores vary with the
partition into folds, and folds share most of their training images, which no estimator from one partition can
make up for (Bengio & Grandvalet 2004).

A score that a fold's test images do not define (a class is absent) is averaged over the folds that define it;
their number is `n_folds`. Resamples that do not define it in one of those are left out and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.metric.classification import metric_names, weighted_scores
from cxr.metric.resample import Resamples, draw_patients

__all__ = [
    "INTERVAL",
    "Answers",
    "Estimate",
    "Resamples",
    "draw_patients",
    "estimate",
    "estimate_folds",
    "paired_difference",
    "paired_difference_folds",
]

INTERVAL = "95 % patient bootstrap"
_TAILS = (2.5, 97.5)

Floats = npt.NDArray[np.float64]


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
class Answers:
    """A test set (all of it, or a fold) and what the model of each seed answers on it.

    Attributes:
        target: (N, C) of 0, 1 (NaN where unknown, multi-label only).
        probs: one (N, C) table of probabilities per seed, rows in the order of `target`.
        resamples: of its patients.
    """

    target: npt.ArrayLike
    probs: Sequence[npt.ArrayLike]
    resamples: Resamples


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
    tested = [Answers(target, probs, resamples)]
    return estimate_folds(tested, classes, multi_label=multi_label, threshold=threshold, names=names)


def estimate_folds(
    folds: Sequence[Answers],
    classes: Sequence[str],
    *,
    multi_label: bool,
    threshold: float,
    names: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """Return each score with its intervals for a cross-validation; every fold has the same seeds."""
    arm = _Arm(folds, classes, multi_label, threshold, names)
    rng = np.random.default_rng([folds[0].resamples.seed, 1])
    found = {}
    for name in arm.names:
        values, drawn, both = arm.value[name], arm.drawn[name].mean(0), arm.with_seeds(name, rng)
        per_seed = tuple(values.tolist())
        found[name] = _estimate(
            float(values.mean()), per_seed, drawn, both, values.size, folds, arm.n_folds[name]
        )
    return found


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
    folds_a, folds_b = [Answers(target, probs_a, resamples)], [Answers(target, probs_b, resamples)]
    return paired_difference_folds(
        folds_a, folds_b, classes, multi_label=multi_label, threshold=threshold, names=names
    )


def paired_difference_folds(
    folds_a: Sequence[Answers],
    folds_b: Sequence[Answers],
    classes: Sequence[str],
    *,
    multi_label: bool,
    threshold: float,
    names: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """Return score(A) - score(B) of two arms with the same folds; fold by fold they share the resamples."""
    drawn = [[fold.resamples.weights for fold in folds] for folds in (folds_a, folds_b)]
    if len(folds_a) != len(folds_b) or not all(map(np.array_equal, *drawn)):
        raise ValueError("arms are paired on the same folds and the same resamples")
    a = _Arm(folds_a, classes, multi_label, threshold, names)
    b = _Arm(folds_b, classes, multi_label, threshold, names)
    rng = np.random.default_rng([folds_a[0].resamples.seed, 2])
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
            folds_a,
            a.n_folds[name],
        )
    return found


class _Arm:
    """Scores of all seeds of one arm: `value[name]` (S,) on all images, `drawn[name]` (S, R) per resample.

    Both are means over the folds that define the score, `n_folds[name]` of them.
    """

    def __init__(
        self,
        folds: Sequence[Answers],
        classes: Sequence[str],
        multi_label: bool,
        threshold: float,
        names: Sequence[str] | None,
    ) -> None:
        if not folds or not folds[0].probs or len({len(fold.probs) for fold in folds}) > 1:
            raise ValueError("needs the predictions of at least one run, and of as many in every fold")
        tables = [_tables(fold, classes, multi_label, threshold, names) for fold in folds]
        self.names = [n for n in metric_names(classes) if n in tables[0][0]]
        self.n_folds: dict[str, int] = {}
        self.value: dict[str, Floats] = {}
        self.drawn: dict[str, Floats] = {}
        for name in self.names:
            scored = np.stack([[table[name] for table in of_fold] for of_fold in tables])  # (F, S, 1 + R)
            defined = ~np.isnan(scored[:, :, 0]).any(axis=1)  # a question of the targets, alike in all seeds
            mean = scored[defined].mean(axis=0) if defined.any() else scored[0]
            self.n_folds[name] = int(defined.sum())
            self.value[name], self.drawn[name] = mean[:, 0], mean[:, 1:]

    def with_seeds(self, name: str, rng: np.random.Generator) -> Floats | None:
        """Means (R,) over seeds drawn with replacement, spread corrected for their small number."""
        drawn = self.drawn[name]
        k = drawn.shape[0]
        if k < 2:
            return None
        picked = np.take_along_axis(drawn, rng.integers(k, size=drawn.shape), axis=0).mean(0)
        mean = drawn.mean(0)
        return np.asarray(mean + np.sqrt(k / (k - 1)) * (picked - mean))


def _tables(
    tested: Answers, classes: Sequence[str], multi_label: bool, threshold: float, names: Sequence[str] | None
) -> list[Mapping[str, Floats]]:
    """Return each seed's scores (1 + R,): on all images, then per resample."""
    resamples = tested.resamples
    weights = np.concatenate([np.ones((1, resamples.n_patients)), resamples.weights])
    scored = partial(
        weighted_scores, classes=classes, multi_label=multi_label, threshold=threshold, names=names
    )
    return [scored(tested.target, prob, groups=resamples.groups, weights=weights) for prob in tested.probs]


def _estimate(
    value: float,
    per_seed: tuple[float, ...],
    means: Floats,
    both: Floats | None,
    n_seeds: int,
    folds: Sequence[Answers],
    n_folds: int,
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
        n=sum(int(fold.resamples.groups.size) for fold in folds),
        n_patients=sum(fold.resamples.n_patients for fold in folds),
        n_seeds=n_seeds,
        n_undefined=int(np.isnan(means).sum()),
        n_folds=n_folds,
    )


def _interval(drawn: Floats) -> tuple[float | None, float | None]:
    defined = drawn[~np.isnan(drawn)]
    if defined.size == 0:
        return None, None
    low, high = np.percentile(defined, _TAILS)
    return float(low), float(high)
