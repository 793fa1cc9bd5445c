"""Sums of KID's kernel over weighted pairs of images, a tile of the kernel at a time.

A resample, a half, a subset: each is a row w of weights of the images, and its sum over pairs is wᵀ K w. K has n²
entries, 0.8 GB of 10,000 images. A tile of it is made, multiplied by all rows of weights at once, and dropped: every
score takes the same one pass over K, and memory is that of a tile and of 2 rows × tile weights, whatever n.

Rows of weights are asked for by the tile, so that they may be kept small (bytes, patients) and be float64 here only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from cxr.metric.polynomial import kernel

__all__ = ["Weights", "sums_across", "sums_within"]

_TILE = 1024  # images on a side of a tile: 8 MB of float64, twice while it is cubed

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating]
Weights = Callable[[slice], Floats]  # images a … b to their columns (S, b - a), S the same for every slice


def sums_within(x: Features, weights: Weights) -> Floats:
    """Return Σ w_i w_j k(x_i, x_j) (S,) over ordered pairs i ≠ j of x (n, d), for each row w; half is computed."""
    total: Floats = np.zeros(len(weights(slice(0, 0))))
    for first in _tiles(len(x)):
        left = weights(first)
        own = kernel(x[first], x[first])
        np.fill_diagonal(own, 0.0)
        total += _rowwise(left @ own, left)
        for second in _tiles(len(x), first.stop):
            total += 2.0 * _rowwise(left @ kernel(x[first], x[second]), weights(second))
    return total


def sums_across(x: Features, y: Features, left: Weights, right: Weights) -> Floats:
    """Return Σ l_i r_j k(x_i, y_j) (S,) over all pairs of x (n, d) and y (m, d), for each pair of rows l and r."""
    total: Floats = np.zeros(len(left(slice(0, 0))))
    for first in _tiles(len(x)):
        rows = left(first)
        for second in _tiles(len(y)):
            total += _rowwise(rows @ kernel(x[first], y[second]), right(second))
    return total


def _tiles(n: int, start: int = 0) -> Iterator[slice]:
    return (slice(one, min(one + _TILE, n)) for one in range(start, n, _TILE))


def _rowwise(a: Floats, b: Floats) -> Floats:
    """Return the products of rows (S,), with no (S, n) product in between."""
    return np.asarray(np.einsum("sn,sn->s", a, b))
