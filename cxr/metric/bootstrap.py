"""95 % intervals by resampling patients, for one run, the mean over seeds, and the difference of arms.

Method. Images of one patient are alike, so the patient is the unit: each of `n_resamples` resamples draws as
many patients as there are, with replacement, and takes all their images (Field & Welsh 2007); the score varies over
resamples as it would over test sets, and `cxr.metric.interval` makes the interval of that. An image without a patient
id is its own patient. Resamples depend only on the set of patient ids and on `seed`, never on the order of rows or on
the model, so two models tested on the same images see the same resamples and their difference is paired.

Several seeds of one arm are tested on the same images. The value is the mean over seeds of the score, each
resample is applied to all seeds jointly, and `low`, `high` say how that mean varies with the patients: they
hold for these trained models. How much training itself varies is shown beside it: `per_seed`, their standard
deviation, and `low_seeds`, `high_seeds`, an interval over patients and trainings, wide with 2 or 3 seeds.

Cross-validation. A seed has one model per fold, and each fold its own test images. The score of a seed is the
unweighted mean over the folds of the score on the fold's images (the papers' "5-fold mean"), not the score of all
images pooled, since probabilities of different models share no scale. Patients are drawn within each fold, as many
as it has, independently of the other folds: the folds are strata, and a patient lies in one fold only. Resample r
of the mean is the mean over folds of their r-th resamples; seeds are then averaged, a seed being all its folds. The
interval holds for these models on these folds. It does not cover how the scores vary with the partition into folds,
and folds share most of their training images, which no estimator from one partition can make up for (Bengio &
Grandvalet 2004).

A score that a fold's test images do not define (a class is absent) is averaged over the folds that define it;
their number is `n_folds`. Resamples that do not define it in one of those are left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxr.metric.classification import ECE
from cxr.metric.interval import (
    INTERVAL,
    Estimate,
    Limits,
    Part,
    error_interval,
    score_interval,
)
from cxr.metric.paired_interval import paired_interval
from cxr.metric.resample import Answers, Resamples, draw_patients
from cxr.metric.scored_arm import ScoredArm

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

Floats = npt.NDArray[np.float64]
NO_LIMITS: Limits = (None, None, None)


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
    arm = ScoredArm(folds, classes, multi_label, threshold, names)
    found = {}
    for name in arm.names:
        value, drawn, _, _ = arm.summary(name)
        seeds = arm.seed_part(name)
        over_both = _alone(arm, name, seeds) if seeds else NO_LIMITS
        per_seed = arm.value[name].tolist()
        found[name] = _estimate(arm, name, value, drawn, per_seed, _alone(arm, name, []), over_both)
    return found


def _alone(arm: ScoredArm, name: str, seeds: Sequence[Part]) -> Limits:
    """Return the interval of a score of one arm, over patients and `seeds`."""
    value, drawn, units, strata = arm.summary(name)
    if not strata:
        return NO_LIMITS
    if name.startswith(ECE):
        return *error_interval(value, drawn, arm.noise(name), units, strata, seeds), None
    return *score_interval(value, drawn, units, strata, seeds), None


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
    """Return score(A) - score(B) of two arms with the same folds; fold by fold they share the resamples.

    A difference of ECE has no interval: each is overstated by an amount of its own.
    """
    weights = [[fold.resamples.weights for fold in folds] for folds in (folds_a, folds_b)]
    if len(folds_a) != len(folds_b) or not all(map(np.array_equal, *weights)):
        raise ValueError("arms are paired on the same folds and the same resamples")
    a = ScoredArm(folds_a, classes, multi_label, threshold, names)
    b = ScoredArm(folds_b, classes, multi_label, threshold, names)
    found = {}
    for name in a.names:
        (value_a, drawn_a, units, strata), (value_b, drawn_b, _, _) = a.summary(name), b.summary(name)
        per_a, per_b = a.value[name], b.value[name]
        per_seed = (per_a - per_b).tolist() if per_a.size == per_b.size else []
        seeds = (a.seed_part(name), b.seed_part(name))
        over_patients = over_both = NO_LIMITS
        if strata and not name.startswith(ECE):
            over_patients = paired_interval((value_a, value_b), (drawn_a, drawn_b), units, strata)
            if all(seeds):
                over_both = paired_interval((value_a, value_b), (drawn_a, drawn_b), units, strata, seeds)
        found[name] = _estimate(
            a if per_a.size <= per_b.size else b, name, value_a - value_b, np.asarray(drawn_a - drawn_b),
            per_seed, over_patients, over_both,
        )  # fmt: skip
    return found


def _estimate(
    arm: ScoredArm,
    name: str,
    value: float,
    drawn: Floats,
    per_seed: Sequence[float],
    over_patients: Limits,
    over_both: Limits,
) -> Estimate:
    defined = not np.isnan(value)
    (low, high, p), (low_seeds, high_seeds, p_seeds) = over_patients, over_both
    return Estimate(
        value=value if defined else None,
        low=low,
        high=high,
        low_seeds=low_seeds,
        high_seeds=high_seeds,
        per_seed=tuple(per_seed) if defined else (),
        n=sum(int(fold.resamples.groups.size) for fold in arm.folds),
        n_patients=sum(fold.resamples.n_patients for fold in arm.folds),
        n_seeds=arm.value[name].size,
        n_undefined=int(np.isnan(drawn).sum()),
        n_folds=len(arm.defining[name]),
        p=p,
        p_seeds=p_seeds,
    )
