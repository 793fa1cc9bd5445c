"""ECE equals torchmetrics; one case by hand; weights are images taken again; the curve's intervals hold its points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from cxr.metric.calibration import BINS, reliability_curve, weighted_ece, weighted_noise
from cxr.metric.classification import scores
from cxr.metric.resample import draw_patients


def _table(n: int, c: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.eye(c)[rng.integers(c, size=n)], rng.dirichlet(np.full(c, 0.6), n)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_top_label_ece_equals_torchmetrics(n_classes: int) -> None:
    target, prob = _table(301, n_classes, n_classes)
    names = [f"c{i}" for i in range(n_classes)]
    found = scores(target, prob, names, multi_label=False, threshold=0.2)["ece15"]  # no threshold in it
    expected = multiclass_calibration_error(
        torch.tensor(prob), torch.tensor(target.argmax(1)), n_classes, n_bins=BINS
    )
    assert found == pytest.approx(float(expected), abs=1e-7)


def test_multi_label_ece_is_the_mean_over_labels_and_leaves_unknown_out() -> None:
    rng = np.random.default_rng(1)
    prob = rng.random((200, 3))
    target = (rng.random((200, 3)) < prob**2).astype(float)
    target[:50, 2] = np.nan
    found = scores(target, prob, ["a", "b", "c"], multi_label=True, threshold=0.5)
    known = ~np.isnan(target)
    expected = [
        float(
            binary_calibration_error(torch.tensor(prob[k, i]), torch.tensor(target[k, i]).long(), n_bins=BINS)
        )
        for i, k in enumerate(known.T)
    ]
    assert [found[f"ece15/{c}"] for c in "abc"] == pytest.approx(expected, abs=1e-7)
    assert found["ece15"] == pytest.approx(np.mean(expected), abs=1e-7)


def test_by_hand() -> None:
    """Two images of confidence .95, one right: gap .45; two of .55, both right: .45; one of 1, right: 0 in .95's bin.

    Bin 15 holds .95 .95 1: frequency 2/3, mean confidence .9667, gap .3; ECE = 3/5 × .3 + 2/5 × .45 = .36.
    """
    p = np.array([0.95, 0.95, 0.55, 0.55, 1.0])
    prob, target = np.stack([1 - p, p], 1), np.eye(2)[[1, 0, 1, 1, 1]]
    assert scores(target, prob, ["N", "P"], multi_label=False, threshold=0.5)["ece15"] == pytest.approx(0.36)
    drawn = draw_patients(["a", "b", "a", "c", "d"], n_resamples=200, seed=0)
    curve = reliability_curve(target, prob, None, drawn)
    assert curve.ece == pytest.approx(0.36)
    assert curve.n.tolist() == [2, 3] and curve.n_patients.tolist() == [2, 3]
    np.testing.assert_allclose(curve.confidence, [0.55, 2.9 / 3])
    np.testing.assert_allclose(curve.frequency, [1.0, 2 / 3])
    assert (curve.low <= curve.frequency).all() and (curve.frequency <= curve.high).all()
    assert curve.low[0] < 0.2  # both right, of two patients: little is known


def test_weights_equal_taking_the_images_again() -> None:
    target, prob = _table(60, 3, 5)
    drawn = draw_patients([f"p{i // 4}" for i in range(60)], n_resamples=5, seed=1)
    found = weighted_ece(target, prob, None, drawn.groups, drawn.weights)
    for r in range(5):
        rows = np.repeat(np.arange(60), drawn.weights[r, drawn.groups].astype(int))
        again = scores(target[rows], prob[rows], list("abc"), multi_label=False, threshold=0.5)["ece15"]
        assert found[r] == pytest.approx(again, abs=1e-12)


def test_noise_by_hand_and_as_images_taken_again() -> None:
    """Two images of .9, a right and b wrong: gaps .05 - .45 = -.4 in all; b twice -.9, a twice .1: noise .5 each."""
    prob, target = np.array([[0.1, 0.9]] * 2), np.eye(2)[[1, 0]]
    weights = np.array([[1.0, 1.0], [0.0, 2.0], [2.0, 0.0]])
    assert weighted_noise(target, prob, None, np.arange(2), weights) == pytest.approx([0.0, 0.5, 0.5])
    target, prob = _table(60, 3, 5)
    drawn = draw_patients([f"p{i // 4}" for i in range(60)], n_resamples=5, seed=1)
    found = weighted_noise(target, prob, None, drawn.groups, drawn.weights)

    def gaps(rows: np.ndarray) -> np.ndarray:
        p, right = prob[rows].max(1), prob[rows].argmax(1) == target[rows].argmax(1)
        bins = np.ceil(p * BINS).astype(int) - 1
        return np.bincount(bins, right - p, minlength=BINS) / len(rows)

    for r in range(5):
        rows = np.repeat(np.arange(60), drawn.weights[r, drawn.groups].astype(int))
        assert found[r] == pytest.approx(np.abs(gaps(rows) - gaps(np.arange(60))).sum(), abs=1e-12)
