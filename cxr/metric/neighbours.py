"""Nearest real images, in any space: who they are and how far away, by exact search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors

__all__ = ["Neighbours", "feature_neighbours", "relative_distance"]

_QUERIES = 1024  # whose differences from their neighbours are held at once

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Neighbours:
    """The k nearest references of each of N images: `distance` (N, k) ascending, `rows` (N, k) of the references."""

    distance: Floats
    rows: Ints

    @property
    def nearest(self) -> Floats:
        """Distance to the nearest, (N,)."""
        return self.distance[:, 0]


def feature_neighbours(
    queries: npt.NDArray[np.floating],
    references: npt.NDArray[np.floating],
    k: int,
    *,
    itself: Ints | None = None,
) -> Neighbours:
    """Return the k Euclidean nearest of `references` (M, d) for each of `queries` (N, d).

    itself: (N,) the row of `references` that a query is, which is no neighbour of its own; None: they are others.
    k is lowered where there are fewer references. An exact copy has the distance 0, not a rounding error.
    """
    own = 0 if itself is None else 1
    k = min(k, len(references) - own)
    if k < 1 or len(queries) == 0:
        raise ValueError(f"{len(queries)} queries, {len(references)} references")
    # scikit-learn takes float32 as it is, and float64 of a part of it
    search = NearestNeighbors(n_neighbors=k + own, algorithm="brute").fit(references)
    parts = [
        _exact(search, queries[part], references, k, None if itself is None else itself[part])
        for part in (slice(start, start + _QUERIES) for start in range(0, len(queries), _QUERIES))
    ]
    return Neighbours(np.concatenate([p.distance for p in parts]), np.concatenate([p.rows for p in parts]))


def _exact(
    search: NearestNeighbors,
    queries: npt.NDArray[np.floating],
    references: npt.NDArray[np.floating],
    k: int,
    itself: Ints | None,
) -> Neighbours:
    found = search.kneighbors(queries, return_distance=False)
    # sklearn expands |a - b|² for speed, which leaves some 1e-6 of |a| where a = b
    exact = np.empty(found.shape)
    for column in range(found.shape[1]):
        gap = queries.astype(np.float64) - references[found[:, column]].astype(np.float64)
        exact[:, column] = np.linalg.norm(gap, axis=1)
    if itself is not None:
        exact[found == itself[:, None]] = np.inf
    order = np.argsort(exact, axis=1, kind="stable")[:, :k]
    return Neighbours(
        np.take_along_axis(exact, order, 1), np.take_along_axis(found, order, 1).astype(np.int64)
    )


def relative_distance(neighbours: Neighbours) -> Floats:
    """Return (N,): the distance to the nearest over the mean distance to the others of the k; low = a copy.

    Carlini et al. 2023, "Extracting training data from diffusion models", section 5.1: a plain distance calls smooth,
    average-looking images copies, since they are near to everything; a copy is near to one image alone. 1 where
    an image has no other neighbours.
    """
    if neighbours.distance.shape[1] < 2:
        return np.ones(len(neighbours.distance))
    others = neighbours.distance[:, 1:].mean(axis=1)
    relative: Floats = np.divide(neighbours.nearest, others, out=np.zeros_like(others), where=others > 0)
    return relative
