"""Flags, shares, authenticity: hand-computed cases, independent references, calibration by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from cxr.metric.memorisation import VERDICT_P, authenticity, copies, median_ratio, p_values
from cxr.metric.neighbours import Neighbours, feature_neighbours, relative_distance


def test_neighbours_equal_all_distances() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 5)).astype(np.float32), rng.normal(size=(50, 5)).astype(np.float32)
    b[7] = a[3] = 1000.0 + a[3]  # far out, where |a|² - 2ab + |b|² loses digits
    near = feature_neighbours(a, b, 4)
    full = cdist(a.astype(float), b.astype(float))
    np.testing.assert_allclose(near.distance, np.sort(full, axis=1)[:, :4], rtol=1e-9, atol=1e-12)
    assert near.nearest[3] == 0.0 and near.rows[3, 0] == 7
    own = feature_neighbours(b, b, 3, itself=np.arange(50))
    np.fill_diagonal(full := cdist(b.astype(float), b.astype(float)), np.inf)
    np.testing.assert_allclose(own.distance, np.sort(full, axis=1)[:, :3], rtol=1e-9)


def test_relative_distance_by_hand() -> None:
    near = Neighbours(
        np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0], [0.0, 3.0, 3.0]]), np.zeros((3, 3), np.int64)
    )
    assert relative_distance(near).tolist() == [0.25, 0.0, 0.0]


def test_p_values_by_hand() -> None:
    found = p_values(np.array([3.0, 1.0, 2.0]), np.array([0.5, 1.0, 9.0]))
    assert found.tolist() == [0.25, 0.5, 1.0]


def test_flags_by_hand() -> None:
    null = np.arange(1.0, 100.0)  # 99 of them: k = 1, the smallest decides
    record, flagged = copies(null, np.array([0.5, 1.0, 50.0, 0.9]), level=0.01)
    assert flagged.tolist() == [True, False, False, True]
    assert (record["threshold"], record["level"], record["value"]) == (1.0, 0.01, 0.5)
    # one new image is below the smallest of 99 with probability 1/100, two both with 2!·99!·… = 2/(100·101)
    one, _ = copies(null, np.array([0.5]), level=0.01)
    both, _ = copies(null, np.array([0.5, 0.6]), level=0.01)
    assert one["p_value"] == pytest.approx(1 / 100)
    assert both["p_value"] == pytest.approx(2 / (100 * 101))
    assert (one["needed"], both["needed"]) == (None, 2)


def test_a_level_that_cannot_be_kept_is_said() -> None:
    record, _ = copies(np.arange(19.0), np.zeros(5) + 5, level=0.01)
    assert record["level"] == 1 / 20


@pytest.mark.parametrize("n", [99, 250])
def test_new_real_images_are_flagged_at_the_level(n: int) -> None:
    rng = np.random.default_rng(n)
    shares, verdicts = [], 0
    for _ in range(400):
        scores = rng.gamma(3.0, size=n + 200)
        record, flagged = copies(scores[:n], scores[n:], level=0.05)
        shares.append(flagged.mean())
        verdicts += record["p_value"] < VERDICT_P
    level = record["level"]
    spread = np.std(shares) / np.sqrt(len(shares))
    assert abs(np.mean(shares) - level) < 4 * spread
    assert verdicts / 400 < VERDICT_P + 4 * np.sqrt(VERDICT_P / 400)


def test_five_percent_of_copies_are_a_verdict() -> None:
    rng = np.random.default_rng(0)
    null, honest = rng.gamma(3.0, size=200) + 0.1, rng.gamma(3.0, size=190) + 0.1
    record, flagged = copies(null, np.concatenate([honest, np.zeros(10)]), level=0.01)
    assert flagged[190:].all() and record["p_value"] < VERDICT_P
    assert record["low"] < record["value"] < record["high"]


def test_authenticity_and_median_ratio_by_hand() -> None:
    assert authenticity(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])).tolist() == [False, False, True]
    found = median_ratio(np.array([1.0, 2.0, 3.0]), np.full(5, 4.0), n_resamples=200, seed=0)
    assert found["value"] == 0.5 and found["low"] == 0.25 and found["high"] == 0.75
    assert median_ratio(np.ones(3), np.zeros(3), n_resamples=9, seed=0)["value"] is None
