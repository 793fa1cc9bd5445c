"""The unbiased squared MMD of many subsets of two samples, from one kernel matrix that they share.

Subsets of 1,000 out of 2,000 images overlap: a hundred of them ask for each pair's kernel some 25 times. With the
matrix K of all pairs and a row w of zeros and ones for a subset, the sum over the subset's pairs is wᵀ K w, and for all
subsets it is one matrix product (`cxr.metric.kernel_sums`: a tile of K at a time).

Of a large sample the subsets touch few pairs. Then each takes its own kernel, as the definition has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxr.metric.kernel_sums import Weights, sums_across, sums_within
from cxr.metric.polynomial import kernel

__all__ = ["membership", "subset_mmd2", "unbiased_mmd2"]

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


def unbiased_mmd2(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return the unbiased squared MMD of features (n, d) and (m, d), at least 2 of each."""
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))]
    return float(sum(within) - 2.0 * kernel(x, y).mean())


def subset_mmd2(x: Features, y: Features, rows_x: Sequence[Ints], rows_y: Sequence[Ints]) -> Floats:
    """Return the unbiased squared MMD (S,) of x[rows_x[s]] and y[rows_y[s]], each of distinct rows, at least 2.

    x: (n, d), y: (m, d).
    """
    asked = sum((len(a) + len(b)) ** 2 for a, b in zip(rows_x, rows_y, strict=True))
    if (len(x) + len(y)) ** 2 > asked:
        return np.array([unbiased_mmd2(x[a], y[b]) for a, b in zip(rows_x, rows_y, strict=True)])
    in_x, in_y = membership(rows_x, len(x)), membership(rows_y, len(y))
    n, m = (np.array([len(one) for one in rows], np.float64) for rows in (rows_x, rows_y))
    within = sums_within(x, in_x) / (n * (n - 1)) + sums_within(y, in_y) / (m * (m - 1))
    return np.asarray(within - 2.0 * sums_across(x, y, in_x, in_y) / (n * m))


def membership(rows: Sequence[Ints], n: int) -> Weights:
    """Return the weights (S, n) of subsets: 1 where the subset has the row; a byte each until they are asked for."""
    found = np.zeros((len(rows), n), np.bool_)
    for one, chosen in zip(found, rows, strict=True):
        one[chosen] = True
    return lambda part: found[:, part].astype(np.float64)
