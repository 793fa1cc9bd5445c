"""What a result says beside its scores: operating points chosen on validation, and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.errors import UserError
from cxr.metric.classification import decide
from cxr.metric.operating_point import choose_point, point_estimates, point_labels, rule_names, to_record
from cxr.metric.resample import Resamples
from cxr.metric.result import check_predictions, tables

__all__ = ["lacking_warnings", "one_class_warning", "operating_points"]


def operating_points(
    test: pd.DataFrame,
    validation: pd.DataFrame | None,
    classes: Sequence[str],
    resamples: Resamples,
    *,
    multi_label: bool,
    at_specificity: float,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Choose thresholds on validation predictions, judge them on the test ones; return entries and warnings."""
    if not 0 < at_specificity < 1:
        raise UserError(
            f"at_specificity is {at_specificity:g}, expected a fraction between 0 and 1; set at_specificity=0.9"
        )
    if validation is None or validation.empty:
        return [], ["no operating points: they are chosen on validation images and the split has none"]
    chosen_on = check_predictions(validation, classes, "validation")
    if both := set(chosen_on["image_id"]) & set(test["image_id"]):
        raise ValueError(f"{len(both)} images are in validation and test, {min(both)!r} first")
    target, prob, patients = tables(chosen_on, classes)
    test_target, test_prob, _ = tables(test, classes)
    n_patients = len({p for p in patients if p is not None}) + patients.count(None)
    found, none = [], []
    for label in point_labels(classes, multi_label=multi_label):
        c = list(classes).index(label)
        for rule in rule_names(at_specificity):
            point = choose_point(target[:, c], prob[:, c], rule, at_specificity)
            if point is None:
                none.append(f"{label} ({rule})")
                continue
            judged = point_estimates([(test_target[:, c], [test_prob[:, c]], [point.threshold], resamples)])
            found.append(to_record(label, point, judged, n_patients))
    if none:
        told = "validation has fewer than two images with it or without it, or no threshold tells them apart"
        return found, [f"no operating point of {', '.join(none)}: {told}"]
    return found, []


def lacking_warnings(
    target: npt.NDArray[np.float64], resamples: Resamples, classes: Sequence[str], *, multi_label: bool
) -> list[str]:
    """Return in how many resamples classes have no positive (or no negative) image though the test set has some."""
    warnings = []
    n_resamples = len(resamples.weights)
    for kind, found in (("positives", target == 1), ("negatives", (target == 0) & multi_label)):
        of_patient = np.zeros((resamples.n_patients, len(classes)))
        np.add.at(of_patient, resamples.groups, found)
        lacking = (resamples.weights @ of_patient == 0).sum(axis=0) * found.any(axis=0)
        if lacking.any():
            names = ", ".join(name for name, n in zip(classes, lacking, strict=True) if n)
            warnings.append(
                f"up to {lacking.max()} of {n_resamples} resamples lack {kind} of {names}: left out of their scores"
            )
    return warnings


def one_class_warning(
    target: npt.NDArray[np.float64],
    prob: npt.NDArray[np.float64],
    classes: Sequence[str],
    *,
    multi_label: bool,
    threshold: float,
) -> str | None:
    """Return the warning for a model that gives every image the same answer, or None.

    Two models of the talukdar paper did so and were reported with the base rate as their accuracy.
    """
    predicted = decide(prob, multi_label=multi_label, threshold=threshold)
    failure = "a preprocessing or optimiser failure, not a result"
    if (predicted != predicted[0]).any() or not (target != target[0]).any():
        return None  # answers differ, or the test set itself holds one class only
    if multi_label:
        always = [name for name, yes in zip(classes, predicted[0], strict=True) if yes]
        return f"gives every image the same labels ({', '.join(always) or 'none'}): {failure}"
    only = int(predicted[0].argmax())
    return f"predicts only {classes[only]} (the base rate, {100 * target[:, only].mean():.2f} %): {failure}"
