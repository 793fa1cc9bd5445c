"""ROC and precision-recall curves of predictions, thin enough to draw; the numbers that W&B and the CSV beside show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import precision_recall_curve, roc_curve

from cxr.files import atomic_path

__all__ = ["MOST_POINTS", "confusion_table", "curves", "thin", "write_csv"]

MOST_POINTS = 500  # of a curve: W&B draws no more of 10,000 in a table, and the eye sees none

Floats = npt.NDArray[np.float64]


def curves(
    target: Floats, prob: Floats, classes: Sequence[str], *, multi_label: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the ROC (class, fpr, tpr) and the precision-recall curve (class, recall, precision) of (N, C) tables.

    Of two exclusive classes only the second is drawn, as the first is its mirror image. NaN targets (unknown) are
    left out of their class, and a class without images of both kinds has no curve.
    """
    roc, pr = [], []
    first = 1 if len(classes) == 2 and not multi_label else 0
    for column in range(first, len(classes)):
        known = ~np.isnan(target[:, column])
        truth, score = target[known, column] > 0.5, prob[known, column]
        if truth.all() or not truth.any():
            continue
        fpr, tpr, _ = roc_curve(truth, score)
        precision, recall, _ = precision_recall_curve(truth, score, drop_intermediate=True)
        roc.append(pd.DataFrame({"class": classes[column], "fpr": fpr, "tpr": tpr}).iloc[thin(len(fpr))])
        points = pd.DataFrame(
            {"class": classes[column], "recall": recall[::-1], "precision": precision[::-1]}
        )
        pr.append(points.iloc[thin(len(points))])
    empty = (
        pd.DataFrame({"class": [], "fpr": [], "tpr": []}),
        pd.DataFrame({"class": [], "recall": [], "precision": []}),
    )
    return (
        pd.concat(roc, ignore_index=True) if roc else empty[0],
        pd.concat(pr, ignore_index=True) if pr else empty[1],
    )


def thin(n: int, most: int = MOST_POINTS) -> npt.NDArray[np.int64]:
    """Return at most `most` positions of n, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))


def confusion_table(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> pd.DataFrame:
    """Return counts (C, C), rows true and columns predicted, as rows (Actual, Predicted, nPredictions)."""
    rows = [
        (actual, predicted, int(count))
        for actual, counts in zip(classes, confusion, strict=False)
        for predicted, count in zip(classes, counts, strict=True)
    ]
    return pd.DataFrame(rows, columns=["Actual", "Predicted", "nPredictions"])


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, whole or not at all."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
