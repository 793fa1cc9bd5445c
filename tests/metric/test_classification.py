"""Scores equal scikit-learn; undefined scores are None; one case by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from cxr.metric.classification import (
    METRICS,
    WEIGHTED,
    auprc,
    auroc,
    confusion_matrix,
    decide,
    roc_points,
    scores,
)


def _random(n: int, c: int, seed: int, digits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(c), rng.integers(c, size=n - c)])
    prob = rng.dirichlet(np.ones(c), n) + 0.4 * np.eye(c)[truth]
    return truth, np.eye(c)[truth], np.round(prob / prob.sum(1, keepdims=True), digits)


@pytest.mark.parametrize("digits", [1, 12])  # one digit: many ties
@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_scikit_learn(n_classes: int, seed: int, digits: int) -> None:
    truth, target, prob = _random(83, n_classes, seed, digits)
    names = [f"c{i}" for i in range(n_classes)]
    answer = (prob[:, 1] > 0.5).astype(int) if n_classes == 2 else prob.argmax(1)
    found = scores(target, prob, names, multi_label=False, threshold=0.5)
    options = {"average": "macro", "zero_division": 0, "labels": list(range(n_classes))}
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, answer), abs=1e-9)
    assert found["precision_macro"] == pytest.approx(sk.precision_score(truth, answer, **options), abs=1e-9)
    assert found["recall_macro"] == pytest.approx(sk.recall_score(truth, answer, **options), abs=1e-9)
    assert found["f1_macro"] == pytest.approx(sk.f1_score(truth, answer, **options), abs=1e-9)
    options["average"] = "weighted"
    weighted = sk.precision_recall_fscore_support(truth, answer, **options)[:3]
    assert [found[name] for name in WEIGHTED] == pytest.approx(weighted, abs=1e-9)
    areas = [sk.roc_auc_score(target[:, i], prob[:, i]) for i in range(n_classes)]
    assert found["auroc_macro"] == pytest.approx(np.mean(areas), abs=1e-9)
    others = [sk.recall_score(truth != i, answer != i) for i in range(n_classes)]
    assert found["specificity_macro"] == pytest.approx(np.mean(others), abs=1e-9)
    assert found["recall_macro"] == pytest.approx(sk.balanced_accuracy_score(truth, answer), abs=1e-9)
    each = sk.precision_recall_fscore_support(truth, answer, labels=range(n_classes), zero_division=0)
    for i, name in enumerate(names):
        for score, values in zip(("precision", "recall", "f1"), each, strict=False):
            assert found[f"{score}/{name}"] == pytest.approx(values[i], abs=1e-9)
        assert found[f"auroc/{name}"] == pytest.approx(sk.roc_auc_score(target[:, i], prob[:, i]), abs=1e-9)
        assert found[f"auprc/{name}"] == pytest.approx(
            sk.average_precision_score(target[:, i], prob[:, i]), abs=1e-9
        )
        # scikit-learn has no specificity: it is the recall of "not this class"
        others = sk.recall_score(truth != i, answer != i)
        assert found[f"specificity/{name}"] == pytest.approx(others, abs=1e-9)
        expected = sk.roc_curve(target[:, i], prob[:, i], drop_intermediate=False)[:2]
        points = roc_points(target[:, i], prob[:, i])
        assert points is not None
        np.testing.assert_allclose(points, expected, atol=1e-12)
    np.testing.assert_array_equal(
        confusion_matrix(target, prob, threshold=0.5),
        sk.confusion_matrix(truth, answer, labels=range(n_classes)),
    )


def test_multi_label_equals_scikit_learn_and_leaves_unknown_labels_out() -> None:
    rng = np.random.default_rng(3)
    target = (rng.random((60, 3)) < 0.4).astype(float)
    prob = np.clip(target * 0.3 + rng.random((60, 3)) * 0.7, 0, 1)
    found = scores(target, prob, ["a", "b", "c"], multi_label=True, threshold=0.5)
    assert found["accuracy"] == pytest.approx(((prob > 0.5) == (target > 0.5)).mean(), abs=1e-12)
    for average in ("macro", "weighted"):
        expected = sk.precision_recall_fscore_support(target, prob > 0.5, average=average, zero_division=0)[
            :3
        ]
        names = [f"{score}_{average}" for score in ("precision", "recall", "f1")]
        assert [found[name] for name in names] == pytest.approx(expected, abs=1e-9)
    assert found["auroc_macro"] == pytest.approx(sk.roc_auc_score(target, prob, average="macro"), abs=1e-9)
    each = sk.precision_recall_fscore_support(target, prob > 0.5, zero_division=0)
    tables = sk.multilabel_confusion_matrix(target, prob > 0.5)
    for i, c in enumerate("abc"):
        assert [found[f"{s}/{c}"] for s in ("precision", "recall", "f1")] == pytest.approx(
            [v[i] for v in each[:3]]
        )
        assert found[f"specificity/{c}"] == pytest.approx(tables[i, 0, 0] / tables[i, 0].sum(), abs=1e-9)
        area = sk.average_precision_score(target[:, i], prob[:, i])
        assert found[f"auprc/{c}"] == pytest.approx(area, abs=1e-9)
    target[:20, 1] = np.nan
    partial = scores(target, prob, ["a", "b", "c"], multi_label=True, threshold=0.5)
    assert partial["auroc/b"] == pytest.approx(sk.roc_auc_score(target[20:, 1], prob[20:, 1]), abs=1e-9)
    assert partial["auroc/a"] == found["auroc/a"]


def test_by_hand() -> None:
    # positives score .9 .6 .3, negatives .8 .2: 4 of 6 pairs in order; precision at the positives 1, 2/3, 3/4
    target, score = [1, 0, 1, 1, 0], [0.9, 0.8, 0.6, 0.3, 0.2]
    assert auroc(target, score) == pytest.approx(4 / 6)
    assert auprc(target, score) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_specificity_by_hand() -> None:
    """True a a b b c, answered a b b b a: of the 3 not a one is called a; of the 3 not b one b; of the 4 not c none."""
    target, prob = np.eye(3)[[0, 0, 1, 1, 2]], np.eye(3)[[0, 1, 1, 1, 0]]
    found = scores(target, prob, ["a", "b", "c"], multi_label=False, threshold=0.5)
    assert [found[f"specificity/{c}"] for c in "abc"] == pytest.approx([2 / 3, 2 / 3, 1.0])
    assert found["specificity_macro"] == pytest.approx(7 / 9)


def test_the_papers_one_class_model() -> None:
    """855 of 1,172 test images are PNEUMONIA: always answering so gives the paper's .36 .50 .42 72.95."""
    target = np.eye(2)[np.r_[np.ones(855, int), np.zeros(317, int)]]
    found = scores(target, np.tile([0.1, 0.9], (1172, 1)), ["N", "P"], multi_label=False, threshold=0.5)
    assert [round(100 * (found[k] or 0), 2) for k in METRICS] == [
        72.95, 36.48, 50.0, 42.18, 50.0,
    ]  # fmt: skip
    assert found["auroc/N"] == 0.5


def test_undefined_is_none() -> None:
    target = np.tile([0.0, 1.0], (4, 1))
    found = scores(target, np.tile([0.4, 0.6], (4, 1)), ["N", "P"], multi_label=False, threshold=0.5)
    assert found["accuracy"] == 1.0
    undefined = ["precision_macro", "recall_macro", "f1_macro", "auroc/N", "auroc/P", "auprc/N", "auprc/P"]
    undefined += ["auroc_macro", "recall/N", "precision/N", "f1/N"]
    assert found["recall/P"] == 1.0
    assert {found[name] for name in undefined} == {None}
    assert roc_points(target[:, 1], [0.6] * 4) is None
    assert auroc([0, 0], [0.1, 0.2]) is None


def test_threshold_decides_between_two_classes() -> None:
    prob = np.array([[0.6, 0.4], [0.2, 0.8]])
    assert decide(prob, multi_label=False, threshold=0.3).tolist() == [[False, True], [False, True]]
    assert decide(prob, multi_label=False, threshold=0.5).tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(
    ("target", "prob"),
    [
        ([[1, 0]], [[np.nan, 0.5]]),
        ([[1, 1]], [[0.5, 0.5]]),
        ([[0, 0]], [[0.5, 0.5]]),
        ([[1, 0]], [[0.5, 0.3, 0.2]]),
    ],
)
def test_bad_tables_are_refused(target: list[list[float]], prob: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"NaN|exactly one|must both"):
        scores(target, prob, ["a", "b"], multi_label=False, threshold=0.5)
