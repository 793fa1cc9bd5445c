"""Operating points of a class: thresholds chosen on validation images, judged on test images.

A threshold picked where the test images like it best flatters the model, so it is chosen on validation images only:

- `youden`: the largest sensitivity + specificity - 1 (Youden 1950);
- `specificity>=s`: the largest sensitivity among thresholds whose specificity on validation is at least s.

A class is given to an image when its probability is above the threshold, which lies halfway between two neighbouring
probabilities of validation images. Of equals the highest threshold is taken. The specificity on test images need not
reach s: that it may fall short is what the test is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.metric.bootstrap import Answers, Estimate, estimate_folds
from cxr.metric.ranking import roc_points
from cxr.metric.resample import Resamples

__all__ = [
    "SCORES",
    "OperatingPoint",
    "choose_point",
    "point_estimates",
    "point_labels",
    "rule_names",
    "to_record",
]

YOUDEN = "youden"
SCORES = ("sensitivity", "specificity", "precision")  # of a class at a threshold

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold for one class and what it does on the images it was chosen on.

    Attributes:
        rule: a name of `rule_names`.
        threshold: a probability in [0, 1); the class is given above it.
        sensitivity, specificity: on validation images, in [0, 1].
        n, n_positive: validation images whose label is known, those with the class.
    """

    rule: str
    threshold: float
    sensitivity: float
    specificity: float
    n: int
    n_positive: int


def rule_names(at_specificity: float) -> tuple[str, str]:
    """Return the names of the two rules."""
    return YOUDEN, f"specificity>={at_specificity:g}"


def point_labels(classes: Sequence[str], *, multi_label: bool) -> list[str]:
    """Return the classes that have operating points: all, of two exclusive ones the second (the first mirrors it)."""
    return list(classes[1:] if len(classes) == 2 and not multi_label else classes)


def choose_point(
    target: npt.ArrayLike, score: npt.ArrayLike, rule: str, at_specificity: float
) -> OperatingPoint | None:
    """Choose a threshold on validation targets (N,) of 0, 1, NaN (left out) and probabilities (N,).

    None below two positive or two negative images, or where no threshold beats giving the class to none:
    that finds no image (sensitivity 0) at specificity 1.
    """
    y, s = np.asarray(target, dtype=np.float64), np.asarray(score, dtype=np.float64)
    known = ~np.isnan(y)
    y, s = y[known], s[known]
    curve = roc_points(y, s)
    if curve is None:
        return None
    false_positive, true_positive = curve  # from no image given the class to all of them
    distinct = np.unique(s)[::-1]
    thresholds = np.r_[distinct[0], (distinct[:-1] + distinct[1:]) / 2, 0.0]
    if rule == YOUDEN:
        merit = true_positive - false_positive
    elif rule == rule_names(at_specificity)[1]:
        merit = np.where(1 - false_positive >= at_specificity - 1e-12, true_positive, -1.0)
    else:
        raise ValueError(f"no rule {rule!r}; expected one of {rule_names(at_specificity)}")
    best = int(merit.argmax())  # the first, so the highest threshold
    if merit[best] <= 1e-12:
        return None
    return OperatingPoint(
        rule, float(thresholds[best]), float(true_positive[best]), 1 - float(false_positive[best]), y.size, int(y.sum())
    )  # fmt: skip


def point_estimates(
    folds: Sequence[tuple[npt.ArrayLike, Sequence[npt.ArrayLike], Sequence[float], Resamples]],
) -> dict[str, Estimate]:
    """Return `SCORES` on test images with patient intervals: means over folds, then seeds.

    Args:
        folds: of each test set the targets (N,) of 0, 1, NaN, the probabilities (N,) of every seed, the threshold
            of every seed, and its resamples.
    """
    tested = [
        Answers(
            np.asarray(target, dtype=np.float64)[:, None],
            [(np.asarray(p) > t).astype(np.float64)[:, None] for p, t in zip(probs, thresholds, strict=True)],
            resamples,
        )
        for target, probs, thresholds, resamples in folds
    ]
    names = {"recall/it": "sensitivity", "specificity/it": "specificity", "precision/it": "precision"}
    found = estimate_folds(tested, ["it"], multi_label=True, threshold=0.5, names=list(names))
    return {names[name]: score for name, score in found.items()}


def to_record(
    label: str, point: OperatingPoint, test: dict[str, Estimate], n_patients: int
) -> dict[str, Any]:
    """Return an entry of `operating_points` in `result.json`; `n_patients` counts those of validation."""
    return {
        "class": label,
        "rule": point.rule,
        "threshold": point.threshold,
        "validation": {
            "sensitivity": point.sensitivity,
            "specificity": point.specificity,
            "n": point.n,
            "n_positive": point.n_positive,
            "n_patients": n_patients,
        },
        "test": {name: score.to_record() for name, score in test.items()},
    }
