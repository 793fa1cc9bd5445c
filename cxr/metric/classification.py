"""Scores of a classifier, in plain numpy: accuracy, macro precision/recall/F1, AUROC, AUPRC, confusion, ROC.

One algorithm serves the point value and the bootstrap: every score takes the image weights of R resamples
at once and returns R values, and the point value is the resample in which each image counts once. Inside,
"not defined" is NaN; `scores` turns it into None, which a reader sees as "n/a".

Conventions, tested against scikit-learn:
- single-label, two classes: the second class is predicted when its probability is above `threshold`;
  single-label, more classes: the most probable one; multi-label: each label above `threshold`.
- precision of a class that is never predicted is 0 (scikit-learn's `zero_division=0`; it is what makes the
  .36 of a one-class model); a class with no image in the target has no recall, so no macro score exists.
- AUROC and AUPRC (average precision, no interpolation) need at least two positive and two negative images: with
  one, the score is the rank of one image, and every resample that draws it says the same. The mean AUROC over
  the classes exists where each of them does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = [
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

METRICS = ("accuracy", "precision_macro", "recall_macro", "f1_macro")
WEIGHTED = ("precision_weighted", "recall_weighted", "f1_weighted")  # by the images of each class
PER_CLASS = ("precision", "recall", "f1", "auroc", "auprc")  # each a name "<score>/<class>"
FEWEST = 2  # images of either kind that a ranking needs
_CHUNK = 2_000_000  # weights held at once (resamples × images), 16 MB

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def metric_names(classes: Sequence[str]) -> list[str]:
    """Return the names of all scores in the order of a report: overall, the mean AUROC, class by class."""
    return [*METRICS, *WEIGHTED, "auroc_macro", *(f"{score}/{c}" for score in PER_CLASS for c in classes)]


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


def auroc(target: npt.ArrayLike, score: npt.ArrayLike) -> float | None:
    """Area under the ROC curve of (N,) 0/1 targets, ties counted half; None below two of a class."""
    y, s = _binary(target, score)
    return _optional(_ranked(y, s, np.ones((1, y.size)), np.arange(y.size))[0][0])


def auprc(target: npt.ArrayLike, score: npt.ArrayLike) -> float | None:
    """Average precision, sum over thresholds of (recall step × precision); None below two of a class."""
    y, s = _binary(target, score)
    return _optional(_ranked(y, s, np.ones((1, y.size)), np.arange(y.size))[1][0])


def roc_points(target: npt.ArrayLike, score: npt.ArrayLike) -> tuple[Floats, Floats] | None:
    """Return (false positive rate, true positive rate), each (K,) from 0 to 1; None below two of a class."""
    y, s = _binary(target, score)
    if not _enough(y):
        return None
    n_positive = int(y.sum())
    order = np.argsort(-s, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(s[order]) != 0, True])
    true_positive = np.cumsum(y[order])[last]
    false_positive = last + 1 - true_positive
    return (
        np.r_[0.0, false_positive / (y.size - n_positive)],
        np.r_[0.0, true_positive / n_positive],
    )


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
    if any(not name.startswith(("auroc", "auprc")) for name in wanted):
        answers = decide(p, multi_label=multi_label, threshold=threshold)
        found |= _counted(y, answers, g, w, multi_label, classes)
    for c, name in enumerate(classes):
        if wanted & {f"auroc/{name}", f"auprc/{name}", "auroc_macro"}:
            known = ~np.isnan(y[:, c])
            areas = _ranked(y[known, c] > 0.5, p[known, c], w, g[known])
            found[f"auroc/{name}"], found[f"auprc/{name}"] = areas
    if "auroc_macro" in wanted:
        found["auroc_macro"] = np.mean([found[f"auroc/{name}"] for name in classes], axis=0)
    return {name: found[name] for name in metric_names(classes) if name in wanted}


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
    overall = dict(zip(METRICS, (accuracy, precision.mean(1), recall.mean(1), f1.mean(1)), strict=True))
    named = (("precision", precision), ("recall", recall), ("f1", f1))
    share = (tp + fn) / (tp + fn).sum(1, keepdims=True)  # a class without images weighs nothing
    overall |= {f"{score}_weighted": (share * np.nan_to_num(v)).sum(1) for score, v in named}
    return overall | {f"{score}/{name}": v[:, c] for score, v in named for c, name in enumerate(classes)}


def _ranked(y: Bools, score: Floats, weights: Floats, groups: Ints) -> tuple[Floats, Floats]:
    """AUROC and average precision of every resample (R,), from one sort; ties share one threshold."""
    n_resamples = weights.shape[0]
    area, precision = np.full(n_resamples, np.nan), np.full(n_resamples, np.nan)
    if not _enough(y):
        return area, precision
    order = np.argsort(-score, kind="stable")
    y, groups = y[order], groups[order]
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) != 0])
    rows = max(1, _CHUNK // y.size)
    for first in range(0, n_resamples, rows):
        w = weights[first : first + rows][:, groups]
        positive = np.add.reduceat(w * y, starts, axis=1)
        total = np.add.reduceat(w, starts, axis=1)
        tp, predicted = np.cumsum(positive, axis=1), np.cumsum(total, axis=1)
        n_positive = tp[:, -1]
        n_negative = predicted[:, -1] - n_positive
        above = tp - positive / 2  # positives ranked above each tie group, those inside it counted half
        with np.errstate(divide="ignore", invalid="ignore"):
            a = ((total - positive) * above).sum(1) / (n_positive * n_negative)
            steps = np.where(positive > 0, positive * tp / predicted, 0.0)
            b = steps.sum(1) / n_positive
        defined = (n_positive > 0) & (n_negative > 0)
        area[first : first + rows] = np.where(defined, a, np.nan)
        precision[first : first + rows] = np.where(defined, b, np.nan)
    return area, precision


def _enough(y: Bools) -> bool:
    """Say whether a ranking of these images is one: at least two positive and two negative."""
    return bool(min(y.sum(), (~y).sum()) >= FEWEST)


def _binary(target: npt.ArrayLike, score: npt.ArrayLike) -> tuple[Bools, Floats]:
    y, s = np.asarray(target, dtype=np.float64), np.asarray(score, dtype=np.float64)
    if y.shape != s.shape or y.ndim != 1:
        raise ValueError(f"target {y.shape} and score {s.shape} must both be (images,)")
    if not np.isfinite(s).all() or not np.isin(y, (0.0, 1.0)).all():
        raise ValueError("targets must be 0 or 1 and scores finite")
    return y > 0.5, s


def _one_hot(target: Floats) -> Bools:
    if not (np.isin(target, (0.0, 1.0)).all() and (target.sum(axis=1) == 1).all()):
        raise ValueError("a single-label target must have exactly one 1 per row and 0 elsewhere")
    return target > 0.5


def _optional(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
