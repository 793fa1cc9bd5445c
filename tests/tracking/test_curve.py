"""Curves and worst errors against hand-computed cases and the scores that we report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import auc

from cxr.metric.classification import scores
from cxr.tracking.curve import MOST_POINTS, confusion_table, curves, thin, write_csv
from cxr.tracking.worst import worst_errors


def table(target: list[list[float]], prob: list[list[float]], classes: list[str]) -> pd.DataFrame:
    columns: dict[str, object] = {
        "row": np.arange(len(target)) + 10,
        "image_id": [f"i{n}" for n in range(len(target))],
    }
    columns["patient_id"] = columns["image_id"]
    for i, name in enumerate(classes):
        columns[f"target:{name}"] = [row[i] for row in target]
        columns[f"prob:{name}"] = [row[i] for row in prob]
    return pd.DataFrame(columns)


def test_curves_by_hand() -> None:
    target = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], float)
    positive = np.array([0.1, 0.4, 0.35, 0.8])
    roc, pr = curves(target, np.stack([1 - positive, positive], 1), ["a", "b"], multi_label=False)
    assert set(roc["class"]) == {"b"}
    assert roc[["fpr", "tpr"]].to_numpy().tolist() == [[0, 0], [0, 0.5], [0, 1], [1, 1]]
    assert pr[["recall", "precision"]].to_numpy().tolist() == [[0, 1], [0.5, 1], [1, 1], [1, 0.5]]


def test_a_thin_curve_keeps_its_ends_and_its_area(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(6000) < 0.4
    positive = 1 / (1 + np.exp(-(truth * 1.5 + rng.normal(size=6000))))
    target = np.stack([~truth, truth], 1).astype(float)
    prob = np.stack([1 - positive, positive], 1)
    roc, pr = curves(target, prob, ["a", "b"], multi_label=False)
    assert len(roc) == len(pr) == MOST_POINTS
    assert roc[["fpr", "tpr"]].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]
    reported = scores(target, prob, ["a", "b"], multi_label=False, threshold=0.5)
    assert reported["auroc/b"] == pytest.approx(auc(roc["fpr"], roc["tpr"]), abs=1e-3)
    write_csv(tmp_path / "roc.csv", roc)
    assert len(pd.read_csv(tmp_path / "roc.csv")) == MOST_POINTS


def test_unknown_labels_and_classes_of_one_kind() -> None:
    target = np.array([[1, 1], [0, 1], [np.nan, 1]])
    prob = np.array([[0.9, 0.5], [0.1, 0.5], [0.5, 0.5]])
    roc, pr = curves(target, prob, ["a", "b"], multi_label=True)
    assert set(roc["class"]) == set(pr["class"]) == {"a"}
    none, _ = curves(target[:, 1:], prob[:, 1:], ["b"], multi_label=True)
    assert none.columns.tolist() == ["class", "fpr", "tpr"]
    assert none.empty


def test_thin_by_hand() -> None:
    assert thin(3).tolist() == [0, 1, 2]
    assert thin(9, 3).tolist() == [0, 4, 8]


def test_confusion_rows() -> None:
    assert confusion_table([[3, 1], [0, 2]], ["a", "b"]).to_numpy().tolist() == [
        ["a", "a", 3], ["a", "b", 1], ["b", "a", 0], ["b", "b", 2],
    ]  # fmt: skip
    assert confusion_table([], ["a", "b"]).empty


def test_the_worst_errors_are_wrong_and_sure_first() -> None:
    target = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    prob = [[0.4, 0.6], [0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]
    found = worst_errors(table(target, prob, ["a", "b"]), ["a", "b"], 5, multi_label=False, threshold=0.5)
    assert found.to_numpy().tolist() == [[11, "i1", "", "b", "a", 0.1], [10, "i0", "", "a", "b", 0.4]]
    assert (
        len(worst_errors(table(target, prob, ["a", "b"]), ["a", "b"], 1, multi_label=False, threshold=0.5))
        == 1
    )
    strict = worst_errors(table(target, prob, ["a", "b"]), ["a", "b"], 5, multi_label=False, threshold=0.65)
    assert strict["image_id"].tolist() == ["i1"]  # at this threshold i0 is called a, and rightly


def test_the_worst_errors_of_independent_labels() -> None:
    target = [[1.0, 0.0], [np.nan, 1.0]]
    prob = [[0.2, 0.7], [0.9, 0.05]]
    found = worst_errors(table(target, prob, ["a", "b"]), ["a", "b"], 5, multi_label=True, threshold=0.5)
    assert found[["row", "finding", "true", "predicted"]].to_numpy().tolist() == [
        [11, "b", "yes", "no"], [10, "a", "yes", "no"], [10, "b", "no", "yes"],
    ]  # fmt: skip
    assert found["probability"].tolist() == pytest.approx([0.05, 0.2, 0.3])
