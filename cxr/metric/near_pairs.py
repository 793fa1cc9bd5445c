"""Squared distances between two sets of features: by one matrix product, and from differences wherever that could decide.

|x|² + |y|² - 2 xᵀy is a matrix product, ten times as fast as a sum of squared differences, and off by rounding: equal
rows are not at 0, and who is nearer than whom may come out wrong where it is close. So a block of it comes with a bound
of its error, and whoever compares asks `exact` about the pairs that the bound leaves open, few of any real features.

The bound: a product summed in any order is off by at most d · eps · |x| · |y| (Higham 2002, eq. 3.5), a squared norm by
d · eps · |x|², and `exact` itself by as much of what it returns. Together at most 4 d · eps · (|x|² + |y|²), with eps twice
the unit roundoff. Features are centred first: of large means nothing but error would be left.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["blocks", "exact"]

_ENTRIES = 2**20  # distances, or float64 features, held at once: 8 MB

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


def blocks(x: Features, y: Features) -> Iterator[tuple[slice, Floats, Floats]]:
    """Yield rows of x (n, d), their squared distances (b, m) to all of y (m, d), and how far off each row's may be (b,)."""
    centre = x.mean(axis=0, dtype=np.float64)
    squares_y = np.concatenate([_squares(y[part] - centre) for part in _parts(len(y), y.shape[1])])
    unit = 4 * x.shape[1] * np.finfo(np.float64).eps
    for part in _parts(len(x), len(y)):
        some = x[part] - centre
        squares_x = _squares(some)
        found = np.empty((len(some), len(y)))
        for other in _parts(len(y), y.shape[1]):  # the whole of y as float64 would double float32 features
            np.matmul(some, (y[other] - centre).T, out=found[:, other])
        found *= -2.0
        found += squares_x[:, None]
        found += squares_y
        yield part, found, unit * (squares_x + squares_y.max())


def exact(x: Features, y: Features, rows: Ints, columns: Ints) -> Floats:
    """Return the squared distance of each pair x[rows[p]], y[columns[p]], from differences: of equal rows it is 0.

    A function of the two rows alone, whichever comes first: equal distances come out equal.
    """
    found = np.empty(len(rows))
    for part in _parts(len(rows), x.shape[1]):
        found[part] = _squares(x[rows[part]].astype(np.float64) - y[columns[part]])
    return found


def _squares(x: Floats) -> Floats:
    return np.asarray(np.einsum("ij,ij->i", x, x))


def _parts(n: int, width: int) -> Iterator[slice]:
    """Cut n rows into blocks of at most `_ENTRIES` numbers, `width` in a row."""
    step = max(1, _ENTRIES // width)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))
