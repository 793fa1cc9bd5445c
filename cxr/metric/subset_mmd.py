"""The unbiased squared MMD of many subsets of two samples, from one kernel matrix that they share.

Subsets of 1,000 out of 2,000 images overlap: a hundred of them ask for each pair's kernel some 25 times. With the
matrix K of all pairs and a row w of zeros and ones for a subset, the sum over the subset's pairs is wᵀ K w, and for all
subsets it is one matrix product. K is made a block of rows at a time, so that memory grows with n and not with n².

Of a large sample the subsets touch few pairs. Then each takes its own kernel, as the definition has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxr.metric.polynomial import kernel

__all__ = ["subset_mmd2", "unbiased_mmd2"]

_ROWS = 1024  # of the kernel matrix held at once: 1,024 × 50,000 images are 0.4 GB

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def unbiased_mmd2(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return the unbiased squared MMD of features (n, d) and (m, d), at least 2 of each."""
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))]
    return float(sum(within) - 2.0 * kernel(x, y).mean())


def subset_mmd2(x: Floats, y: Floats, rows_x: Sequence[Ints], rows_y: Sequence[Ints]) -> Floats:
    """Return the unbiased squared MMD (S,) of x[rows_x[s]] and y[rows_y[s]], each of distinct rows, at least 2.

    x: (n, d), y: (m, d), float64.
    """
    asked = sum((len(a) + len(b)) ** 2 for a, b in zip(rows_x, rows_y, strict=True))
    if (len(x) + len(y)) ** 2 > asked:
        return np.array([unbiased_mmd2(x[a], y[b]) for a, b in zip(rows_x, rows_y, strict=True)])
    in_x, in_y = _membership(rows_x, len(x)), _membership(rows_y, len(y))
    n, m = in_x.sum(axis=1), in_y.sum(axis=1)
    within = _within(x, in_x) / (n * (n - 1)) + _within(y, in_y) / (m * (m - 1))
    return np.asarray(within - 2.0 * _across(x, y, in_x, in_y) / (n * m))


def _membership(rows: Sequence[Ints], n: int) -> Floats:
    """Return (S, n): 1 where the subset has the row."""
    found = np.zeros((len(rows), n))
    for one, chosen in zip(found, rows, strict=True):
        one[chosen] = 1.0
    return found


def _within(x: Floats, chosen: Floats) -> Floats:
    """Return the sum (S,) of k over the ordered pairs of two rows of each subset; symmetric: half is computed."""
    total = np.zeros(len(chosen))
    for start in range(0, len(x), _ROWS):
        part = slice(start, start + _ROWS)
        own = kernel(x[part], x[part])
        total += ((chosen[:, part] @ own) * chosen[:, part]).sum(axis=1) - chosen[:, part] @ np.diagonal(own)
        if start + _ROWS < len(x):
            after = slice(start + _ROWS, len(x))
            across = chosen[:, part] @ kernel(x[part], x[after])
            total += 2.0 * (across * chosen[:, after]).sum(axis=1)
    return total


def _across(x: Floats, y: Floats, in_x: Floats, in_y: Floats) -> Floats:
    """Return the sum (S,) of k over the pairs of one row of each subset."""
    total = np.zeros(len(in_x))
    for start in range(0, len(x), _ROWS):
        part = slice(start, start + _ROWS)
        total += ((in_x[:, part] @ kernel(x[part], y)) * in_y).sum(axis=1)
    return total
