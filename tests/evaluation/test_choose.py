"""Choices among images: each against a case by hand and a naive reference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from cxr.errors import UserError
from cxr.evaluation.choose import Reference, agreeing, near, nearest_distance


def test_agreement_by_hand() -> None:
    probability = np.array([0.9, 0.4, 0.7, 0.5, 0.7, 0.8])
    labels = np.array(list("aaabab"))
    assert agreeing(probability, labels, at_least=0.5, keep=None).tolist() == [
        True,
        False,
        True,
        True,
        True,
        True,
    ]
    # the best two of each class; of the two with 0.7 the earlier
    assert agreeing(probability, labels, at_least=0.5, keep=2).tolist() == [
        True,
        False,
        True,
        True,
        False,
        True,
    ]
    assert agreeing(probability, labels, at_least=0.75, keep=2).tolist() == [True] + [False] * 4 + [True]


def test_nearest_distance_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    images, real = rng.normal(size=(30, 5)), rng.normal(size=(40, 5))
    np.testing.assert_allclose(nearest_distance(images, real), cdist(images, real).min(axis=1), rtol=1e-9)
    patients = [f"p{k // 3}" if k < 30 else None for k in range(40)]
    pairs = cdist(real, real)
    for i in range(40):
        for j in range(40):
            if i == j or (patients[i] is not None and patients[i] == patients[j]):
                pairs[i, j] = np.inf
    np.testing.assert_allclose(nearest_distance(real, real, patients=patients), pairs.min(axis=1), rtol=1e-9)
    np.fill_diagonal(pairs := cdist(real, real), np.inf)
    np.testing.assert_allclose(
        nearest_distance(real, real, patients=[None] * 40), pairs.min(axis=1), rtol=1e-9
    )
    assert nearest_distance(real[:1], real[:1], patients=[None]).tolist() == [np.inf]


def test_realism_by_hand() -> None:
    """References of class a at 0, 1, 3 and 7 (distances 1, 1, 2, 4), two images of one patient at 0 and 0.5 of b."""
    references = {
        "a": Reference(np.array([[0.0], [1.0], [3.0], [7.0]]), [None] * 4),
        "b": Reference(np.array([[0.0], [0.5], [10.0]]), ["p", "p", "q"]),
    }
    made = np.array([[-1.5], [5.0], [9.5], [100.0], [19.4]])
    labels = np.array(list("aaabb"))
    kept, distance, compared = near(made, labels, references, quantile=0.5)
    assert distance.tolist() == pytest.approx([1.5, 2.0, 2.5, 90.0, 9.4])
    assert compared["a"] == {"limit": 1.5, "n_images": 4, "n_patients": 4}
    assert compared["b"] == {
        "limit": 9.5,
        "n_images": 3,
        "n_patients": 2,
    }  # to the other patient: 10, 9.5, 9.5
    assert kept.tolist() == [True, False, False, False, True]
    assert near(made, labels, references, quantile=1.0)[0].tolist() == [True, True, True, False, True]
    with pytest.raises(UserError, match="the 2 real images of a are of one patient"):
        near(made, labels, {"a": Reference(np.zeros((2, 1)), ["p", "p"])}, quantile=0.5)


def test_real_images_pass_at_the_rate_of_the_quantile() -> None:
    """New images from where the references come from: about `quantile` of them are kept; of others none."""
    rng = np.random.default_rng(1)
    reference = Reference(rng.normal(size=(600, 4)), [None] * 600)
    same, other = rng.normal(size=(600, 4)), rng.normal(size=(100, 4)) + 9
    labels = np.full(700, "a")
    kept, _, _ = near(np.concatenate([same, other]), labels, {"a": reference}, quantile=0.9)
    assert kept[:600].mean() == pytest.approx(0.9, abs=0.05)
    assert not kept[600:].any()
