"""Squared distances between two sets of features: by one matrix product, and from differences wherever that could decide.

|x|² + |y|² - 2 xᵀy is a matrix product, ten times as fast as a sum of squared differences, and off by rounding: equal
rows are not at 0, and who is nearer than whom may come out wrong where it is close. So a tile of it comes with a bound
of its error, and whoever compares asks `exact` about the pairs that the bound leaves open, few of any real features.

The bound: a product summed in any order is off by at most d · eps · |x| · |y| (Higham 2002, eq. 3.5), a squared norm by
d · eps · |x|², and `exact` itself by as much of what it returns. Together at most 4 d · eps · (|x|² + |y|²), with eps twice
the unit roundoff. Features are centred first: of large means nothing but error would be left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Listed", "Tile", "exact", "nearest", "tiles"]

_ENTRIES = 2**20  # distances, or float64 features, held at once: 8 MB

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tile:
    """Squared distances (b, c) of some rows to some columns, positions in what was asked for, and how far off (b,)."""

    rows: slice
    columns: slice
    squared: Floats
    error: Floats


@dataclass(frozen=True)
class Listed:
    """Who is nearest to some rows, nearest first.

    Attributes:
        rows: which, positions in what was asked for.
        who: (b, k) rows of x.
        reach: (b, k) their exact squared distances.
        complete: (b,) the squared distance below which nobody is missing: whoever is left out could be as near as that.
    """

    rows: slice
    who: Ints
    reach: Floats
    complete: Floats


def tiles(x: Features, rows: Ints, y: Features, columns: Ints) -> Iterator[Tile]:
    """Yield the distances of x[rows] (of (n, d)) to y[columns] (of (m, d)), all columns of some rows after each other."""
    if not len(rows):
        return
    side = max(1, min(math.isqrt(_ENTRIES), _ENTRIES // x.shape[1]))
    down, across = _parts(len(rows), side), _parts(len(columns), side)
    centre = x[rows[down[0]]].mean(axis=0, dtype=np.float64)  # any would do
    squares_y = np.concatenate([_squares(y[columns[part]] - centre) for part in across])
    unit = 4 * x.shape[1] * np.finfo(np.float64).eps
    for block in down:
        some = x[rows[block]] - centre
        squares_x = _squares(some)
        some *= -2.0
        error = unit * (squares_x + squares_y.max())
        for part in across:
            found = some @ (y[columns[part]] - centre).T
            found += squares_x[:, None]
            found += squares_y[part]
            yield Tile(block, part, found, error)


def exact(x: Features, y: Features, rows: Ints, columns: Ints) -> Floats:
    """Return the squared distance of each pair x[rows[p]], y[columns[p]], from differences: of equal rows it is 0.

    A function of the two rows alone, whichever comes first: equal distances come out equal.
    """
    found = np.empty(len(rows))
    for part in _parts(len(rows), max(1, _ENTRIES // x.shape[1])):
        found[part] = _squares(x[rows[part]].astype(np.float64) - y[columns[part]])
    return found


def nearest(x: Features, rows: Ints, others: Ints, most: int) -> Iterator[Listed]:
    """Yield, for some of x[rows] at a time, the `most` of x[others] (or all, if they are fewer) that are nearest to each."""
    most = min(most, len(others))
    who, reach = np.empty((0, 0), np.int64), np.empty((0, 0))
    for tile in tiles(x, rows, x, others):
        if tile.columns.start == 0:
            who, reach = np.empty((len(tile.squared), 0), np.int64), np.empty((len(tile.squared), 0))
        reach = np.concatenate([reach, tile.squared], axis=1)
        who = np.concatenate([who, np.broadcast_to(others[tile.columns], tile.squared.shape)], axis=1)
        if reach.shape[1] > most:
            kept = np.argpartition(reach, most - 1, axis=1)[:, :most]
            who, reach = np.take_along_axis(who, kept, axis=1), np.take_along_axis(reach, kept, axis=1)
        if tile.columns.stop == len(others):
            complete = reach.max(axis=1) - tile.error if most < len(others) else np.full(len(who), np.inf)
            reach = exact(x, x, np.repeat(rows[tile.rows], most), who.ravel()).reshape(who.shape)
            order = reach.argsort(axis=1)
            who, reach = np.take_along_axis(who, order, axis=1), np.take_along_axis(reach, order, axis=1)
            yield Listed(tile.rows, who, reach, complete)


def _parts(n: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _squares(x: Floats) -> Floats:
    return np.asarray(np.einsum("ij,ij->i", x, x))
