"""Scores of a classifier, in plain numpy: accuracy, precision, recall, specificity, F1, AUROC, AUPRC, ECE, confusion.

One algorithm serves the point value and the bootstrap: every score takes the image weights of R resamples
at once and returns R values, and the point value is the resample in which each image counts once. Inside,
"not defined" is NaN; `scores` turns it into None, which a reader sees as "n/a".

Conventions, tested against scikit-learn:
- single-label, two classes: the second class is predicted when its probability is above `threshold`;
  single-label, more classes: the most probable one; multi-label: each label above `threshold`.
- precision of a class that is never predicted is 0 (scikit-learn's `zero_division=0`; it is what makes the
  .36 of a one-class model); a class with no image in the target has no recall, so no macro score exists.
- specificity of a class is the share of the images without it that are not given it (one class against the rest);
  a class that every image has leaves it undefined, and with it the macro score.
- AUROC and AUPRC (average precision, no interpolation) need at least two positive and two negative images. The mean
  AUROC over the classes exists where each of them does.
- `ece15` is the expected calibration error over 15 bins: of the most probable class in a single-label task; in a
  multi-label one of each label (`ece15/<label>`), and their mean. See `cxr.metric.calibration`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxr.metric.calibration import BINS, weighted_ece
from cxr.metric.ranking import auprc, auroc, ranked_areas, roc_points

__all__ = [
    "ECE",
    "METRICS",
    "PER_CLASS",
    "WEIGHTED",
    "auprc",
    "auroc",
    "confusion_matrix",
    "decide",
    "metric_names",
    "roc_points",
    "scores",
    "weighted_scores",
]

METRICS = ("accuracy", "precision_macro", "recall_macro", "f1_macro", "specificity_macro")
WEIGHTED = ("precision_weighted", "recall_weighted", "f1_weighted")  # by the images of each class
PER_CLASS = ("precision", "recall", "f1", "specificity", "auroc", "auprc")  # each a name "<score>/<class>"
ECE = f"ece{BINS}"

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def metric_names(classes: Sequence[str]) -> list[str]:
    """Return the names of all scores in the order of a report: overall, the mean AUROC, ECE, class by class.

    The last ones, ECE by class, exist in a multi-label task only.
    """
    by_class = [f"{score}/{c}" for score in (*PER_CLASS, ECE) for c in classes]
    return [*METRICS, *WEIGHTED, "auroc_macro", ECE, *by_class]


def decide(prob: npt.ArrayLike, *, multi_label: bool, threshold: float) -> Bools:
    """Turn probabilities (N, C) into decisions (N, C), one True per row unless `multi_label`."""
    p = np.asarray(prob, dtype=np.float64)
    if multi_label:
        return p > threshold
    chosen = (p[:, 1] > threshold).astype(np.int64) if p.shape[1] == 2 else p.argmax(axis=1)
    return np.asarray(chosen[:, None] == np.arange(p.shape[1])[None, :])


def confusion_matrix(target: npt.ArrayLike, prob: npt.ArrayLike, *, threshold: float) -> Ints:
    """Return counts (C, C) of a single-label task, rows true, columns predicted, from (N, C) and (N, C)."""
    true = _one_hot(np.asarray(target, dtype=np.float64))
    return true.T.astype(np.int64) @ decide(prob, multi_label=False, threshold=threshold).astype(np.int64)


def scores(
    target: npt.ArrayLike, prob: npt.ArrayLike, classes: Sequence[str], *, multi_label: bool, threshold: float
) -> dict[str, float | None]:
    """Return every score of `metric_names` for target and probability tables, both (N, C).

    Args:
        target: 1 or 0 per class; NaN (unknown) is allowed in a multi-label table and left out of its label.
        prob: probabilities in [0, 1], finite.

    Raises:
        ValueError: shapes differ, a probability is not finite, or a single-label row has not exactly one 1.
    """
    n = np.asarray(target).shape[0]
    values = weighted_scores(
        target,
        prob,
        classes,
        multi_label=multi_label,
        threshold=threshold,
        groups=np.arange(n),
        weights=np.ones((1, n)),
    )
    return {name: _optional(value[0]) for name, value in values.items()}


def weighted_scores(
    target: npt.ArrayLike,
    prob: npt.ArrayLike,
    classes: Sequence[str],
    *,
    multi_label: bool,
    threshold: float,
    groups: npt.ArrayLike,
    weights: npt.ArrayLike,
    names: Sequence[str] | None = None,
) -> dict[str, Floats]:
    """Return R values of each score, one per resample; NaN where a resample leaves it undefined.

    Args:
        groups: (N,) which of G clusters (patients) each image belongs to.
        weights: (R, G) how often each cluster was drawn; an image weighs what its cluster weighs.
        names: the scores wanted (all when None); the per-class ones cost a sort and R×N sums each.
    """
    y, p = np.asarray(target, dtype=np.float64), np.asarray(prob, dtype=np.float64)
    g, w = np.asarray(groups, dtype=np.int64), np.asarray(weights, dtype=np.float64)
    if y.shape != p.shape or y.ndim != 2 or y.shape[1] != len(classes):
        raise ValueError(f"target {y.shape} and prob {p.shape} must both be (images, {len(classes)} classes)")
    if not np.isfinite(p).all():
        raise ValueError("a probability is NaN or infinite")
    if not multi_label:
        _one_hot(y)
    wanted = set(metric_names(classes) if names is None else names)
    found: dict[str, Floats] = {}
    if any(name.startswith(ECE) for name in wanted):
        found |= _calibrated(y, p, g, w, multi_label, classes)
    if any(not name.startswith(("auroc", "auprc", ECE)) for name in wanted):
        answers = decide(p, multi_label=multi_label, threshold=threshold)
        found |= _counted(y, answers, g, w, multi_label, classes)
    for c, name in enumerate(classes):
        if wanted & {f"auroc/{name}", f"auprc/{name}", "auroc_macro"}:
            known = ~np.isnan(y[:, c])
            areas = ranked_areas(y[known, c] > 0.5, p[known, c], w, g[known])
            found[f"auroc/{name}"], found[f"auprc/{name}"] = areas
    if "auroc_macro" in wanted:
        found["auroc_macro"] = np.mean([found[f"auroc/{name}"] for name in classes], axis=0)
    return {name: found[name] for name in metric_names(classes) if name in wanted and name in found}


def _calibrated(
    y: Floats, p: Floats, groups: Ints, weights: Floats, multi_label: bool, classes: Sequence[str]
) -> dict[str, Floats]:
    """ECE of the most probable class, or of each label and their mean."""
    if not multi_label:
        return {ECE: weighted_ece(y, p, None, groups, weights)}
    by_label = {f"{ECE}/{name}": weighted_ece(y, p, c, groups, weights) for c, name in enumerate(classes)}
    return {ECE: np.mean(list(by_label.values()), axis=0), **by_label}


def _counted(
    y: Floats, predicted: Bools, groups: Ints, weights: Floats, multi_label: bool, classes: Sequence[str]
) -> dict[str, Floats]:
    """Scores that need counts only: sum true/false positives per cluster once, then weigh the clusters."""
    known, true = ~np.isnan(y), y > 0.5
    cells = np.stack(
        [true & predicted, known & ~true & predicted, true & ~predicted, known & ~true & ~predicted]
    )
    per_group = np.zeros((weights.shape[1], cells.shape[0] * y.shape[1]))
    np.add.at(per_group, groups, cells.transpose(1, 0, 2).reshape(y.shape[0], -1).astype(np.float64))
    tp, fp, fn, tn = (weights @ per_group).reshape(weights.shape[0], 4, y.shape[1]).transpose(1, 0, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        # one label per image: true positives over all classes are the correct images
        accuracy = (
            (tp + tn).sum(1) / (tp + fp + fn + tn).sum(1) if multi_label else tp.sum(1) / (tp + fn).sum(1)
        )
        recall = tp / (tp + fn)  # NaN for a class without images: no macro score then
        precision = np.where(tp + fp > 0, tp / (tp + fp), np.where(tp + fn > 0, 0.0, np.nan))
        f1 = np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan)
        specificity = tn / (tn + fp)  # NaN where every image has the class
    means = (accuracy, precision.mean(1), recall.mean(1), f1.mean(1), specificity.mean(1))
    overall = dict(zip(METRICS, means, strict=True))
    named = (("precision", precision), ("recall", recall), ("f1", f1))
    by_class = (*named, ("specificity", specificity))
    with np.errstate(invalid="ignore"):
        share = (tp + fn) / (tp + fn).sum(1, keepdims=True)  # a class without images weighs nothing
    overall |= {f"{score}_weighted": (share * np.nan_to_num(v)).sum(1) for score, v in named}
    return overall | {f"{score}/{name}": v[:, c] for score, v in by_class for c, name in enumerate(classes)}


def _one_hot(target: Floats) -> Bools:
    if not (np.isin(target, (0.0, 1.0)).all() and (target.sum(axis=1) == 1).all()):
        raise ValueError("a single-label target must have exactly one 1 per row and 0 elsewhere")
    return target > 0.5


def _optional(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
