"""Squared distances by a matrix product: within the bound that they come with, and exact where asked."""

from __future__ import annotations

import numpy as np
import pytest

from cxr.metric import near_pairs
from cxr.metric.near_pairs import blocks, exact


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
    seen, true = np.zeros(len(x), int), in_long_double(x, y)
    for part, squared, error in blocks(x, y):
        seen[part] += 1
        off = np.abs(squared - true[part]) - error[:, None]
        assert (off <= 0).all()
        rows, columns = np.mgrid[part, 0 : len(y)].reshape(2, -1)
        found = exact(x, y, rows, columns).reshape(squared.shape)
        assert (np.abs(found - squared) <= error[:, None]).all()  # what whoever compares relies on
        np.testing.assert_allclose(found, true[part].astype(float), rtol=1e-12)
    assert (seen == 1).all()
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
    ((_, squared, error),) = blocks(x, y)
    assert (error < 1e-10 * squared.min()).all()
