"""The k worst errors of a classifier: test images that it was most sure about and wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxr.metric.classification import decide
from cxr.metric.result import tables

__all__ = ["COLUMNS", "worst_errors"]

COLUMNS = ("row", "image_id", "finding", "true", "predicted", "probability")


def worst_errors(
    predictions: pd.DataFrame, classes: Sequence[str], k: int, *, multi_label: bool, threshold: float
) -> pd.DataFrame:
    """Return up to k rows of COLUMNS, the worst first; fewer where there are fewer errors.

    With exclusive classes `true` and `predicted` name them, `finding` is empty, and `probability` is that of the true
    class: the lower the worse. With independent labels a row is an image and a finding: `true` and `predicted` are
    "yes" or "no", and `probability` is that of the true answer. Ties are in the order of the table.
    """
    target, prob, _ = tables(predictions, classes)
    decided = decide(prob, multi_label=multi_label, threshold=threshold)
    if multi_label:
        known = ~np.isnan(target)
        wrong = known & (decided != (target > 0.5))
        right = np.where(target > 0.5, prob, 1 - prob)
        where = [(int(i), int(j)) for i, j in np.argwhere(wrong)]
    else:
        true = target.argmax(axis=1)
        right = prob
        where = [(int(i), int(true[i])) for i in np.flatnonzero(decided.argmax(axis=1) != true)]
    where.sort(key=lambda at: right[at])
    answer = {True: "yes", False: "no"}
    rows = []
    for i, j in where[:k]:
        if multi_label:
            told = (classes[j], answer[bool(target[i, j] > 0.5)], answer[bool(decided[i, j])])
        else:
            told = ("", classes[j], classes[int(decided[i].argmax())])
        rows.append(
            (int(predictions["row"].iloc[i]), str(predictions["image_id"].iloc[i]), *told, float(right[i, j]))
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))
