"""Chosen images of one or several stacks, read when they are asked for: what `stack[rows]` would copy whole.

A stack is a memory-map; `stack[rows]` and `np.concatenate` of stacks bring every image into memory. A reader that takes
a batch at a time, as an extractor does, needs no more than where they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Picked"]

Pixels = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.integer[Any]]


class Picked:
    """Images (N, S, S) uint8: those of `stacks`, one after the other, or `rows` of them.

    An index or a slice reads; what it returns is an array of its own.
    """

    def __init__(self, stacks: Sequence[Pixels | Picked], rows: Rows | None = None) -> None:
        """All stacks are of one size; rows count through them."""
        if (
            not stacks
            or len({one.shape[1:] for one in stacks}) > 1
            or any(one.dtype != np.uint8 for one in stacks)
        ):
            raise ValueError(
                f"stacks of {[(str(one.dtype), one.shape) for one in stacks]}, expected uint8 of one size"
            )
        self._stacks = list(stacks)
        self._starts = np.cumsum([0, *(len(one) for one in stacks)])
        self._rows = np.arange(self._starts[-1]) if rows is None else np.asarray(rows, np.int64)
        if len(self._rows) and not 0 <= self._rows.min() <= self._rows.max() < self._starts[-1]:
            raise IndexError(f"rows {self._rows.min()} to {self._rows.max()} of {self._starts[-1]} images")
        self.shape: tuple[int, ...] = (len(self._rows), *stacks[0].shape[1:])
        self.ndim: int = len(self.shape)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._rows)

    def __getitem__(self, which: int | slice | Rows) -> Pixels:
        """Read an image (S, S), or some of them (B, S, S)."""
        rows = np.asarray(self._rows[which])
        found = self._read(np.atleast_1d(rows))
        return found.reshape(*rows.shape, *self.shape[1:])

    def __iter__(self) -> Iterator[Pixels]:
        """Read one after the other."""
        return (self[i] for i in range(len(self)))

    def _read(self, rows: Rows) -> Pixels:
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        where = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(where):
            mine = where == number
            found[mine] = self._stacks[number][rows[mine] - self._starts[number]]
        return found
