"""Root mean square difference of images, in gray levels: the plainest distance, exact."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["pixel_distances", "rms"]

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

BLOCK_BYTES = 64_000_000  # of references as float64 at once


class Stack(Protocol):
    """(N, S, S) uint8 that is read a slice at a time: an array, a memory-map, a `cxr.data.picked.Picked`."""

    def __len__(self) -> int: ...
    def __getitem__(self, which: slice, /) -> Any: ...


def rms(a: Pixels, b: Pixels) -> Floats:
    """Return the RMS difference (…) of images uint8 (…, S, S)."""
    gap = a.astype(np.float64) - b.astype(np.float64)
    return np.asarray(np.sqrt((gap**2).mean(axis=(-2, -1))), np.float64)


def pixel_distances(queries: Pixels, references: Stack) -> Floats:
    """Return the RMS differences (N, M) of uint8 (N, S, S) and (M, S, S); of equal images exactly 0.

    |a|² + |b|² - 2ab in float64: sums of squares of bytes are whole numbers that it holds exactly.
    """
    flat = queries.reshape(len(queries), -1).astype(np.float64)
    found = np.empty((len(queries), len(references)))
    block = max(1, BLOCK_BYTES // (8 * max(1, flat.shape[1])))
    for start in range(0, len(references), block):
        others = np.asarray(references[start : start + block]).reshape(-1, flat.shape[1]).astype(np.float64)
        squares = (flat**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * flat @ others.T
        found[:, start : start + block] = np.sqrt(squares / flat.shape[1])
    return found
