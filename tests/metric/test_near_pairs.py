"""Squared distances by a matrix product: within the bound that they come with, and exact where asked."""

from __future__ import annotations

import numpy as np
import pytest

from cxr.metric import near_pairs
from cxr.metric.near_pairs import exact, nearest, tiles


def in_long_double(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x[:, None].astype(np.longdouble) - y.astype(np.longdouble)) ** 2).sum(axis=2)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (1e3, 1.0), (1e3, 1e-3), (0.0, 1e-20), (-5.0, 1e8)])
def test_every_distance_is_within_its_bound(
    mean: float, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_pairs, "_ENTRIES", 5000)  # several blocks, of rows and of columns
    rng = np.random.default_rng(0)
    x, y = (rng.normal(mean, scale, size=(n, 300)).astype(np.float32) for n in (40, 61))
    y[:5] = x[:5]
    rows, columns = rng.permutation(40)[:35], rng.permutation(61)
    seen, true = np.zeros((35, 61), int), in_long_double(x[rows], y[columns])
    for tile in tiles(x, rows, y, columns):
        seen[tile.rows, tile.columns] += 1
        expected, error = true[tile.rows, tile.columns], tile.error[:, None]
        assert (np.abs(tile.squared - expected) <= error).all()
        i, j = np.mgrid[tile.rows, tile.columns].reshape(2, -1)
        found = exact(x, y, rows[i], columns[j]).reshape(tile.squared.shape)
        assert (np.abs(found - tile.squared) <= error).all()  # what whoever compares relies on
        np.testing.assert_allclose(found, expected.astype(float), rtol=1e-12)
    assert (seen == 1).all() and tile.squared.shape < (35, 61)
    # a wide bound would hold too, and leave every comparison open
    assert error.max() < 1e-6 * np.median(true)


def test_equal_rows_are_at_0_and_either_order_gives_the_same() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(1e3, 1, size=(5, 2048)).astype(np.float32)
    rows, columns = np.mgrid[0:5, 0:5].reshape(2, -1)
    found = exact(x, x, rows, columns).reshape(5, 5)
    assert (np.diagonal(found) == 0).all() and (found == found.T).all()


def test_the_bound_leaves_few_pairs_open() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(50, 2048)), rng.normal(size=(50, 2048))
    (tile,) = tiles(x, np.arange(50), y, np.arange(50))
    assert (tile.error < 1e-10 * tile.squared.min()).all()


@pytest.mark.parametrize("most", [3, 7, 100])
def test_the_nearest_are_listed_in_order_and_none_nearer_is_missing(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_pairs, "_ENTRIES", 100)  # tiles of 10
    rng = np.random.default_rng(3)
    x = rng.integers(0, 4, size=(64, 3)).astype(np.float32)  # many are equally near
    rows, others = rng.permutation(64)[:33], rng.permutation(64)[:41]
    true = in_long_double(x[rows], x[others]).astype(float)
    met = 0
    for listed in nearest(x, rows, others, most):
        for row, who, reach, complete in zip(
            range(listed.rows.start, listed.rows.stop), listed.who, listed.reach, listed.complete, strict=True
        ):
            np.testing.assert_array_equal(reach, np.sort(true[row])[:most])
            np.testing.assert_array_equal(reach, exact(x, x, np.full(len(who), rows[row]), who))
            assert len(set(who)) == len(who) == min(most, 41) and set(who) <= set(others)
            assert complete == np.inf if most > 41 else complete <= reach[-1]
            met += 1
    assert met == 33
