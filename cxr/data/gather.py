"""Reading chosen images of a stack into one array, and asking the disk for those of the batches to come.

A stack is a memory-map, so a batch is one copy for each image out of the page cache. What is not there yet has to be
fetched, and a memory-map fetches badly: the copy touches a page, the system reads around it, the copy goes on, and the disk
works on one image at a time. So the images of the next batches are asked for by `posix_fadvise(WILLNEED)`: the system
fetches them side by side while earlier batches are computed. Never MADV_RANDOM, the usual advice for random
access: it turns reading around a page off, and an image then takes as many turns as it has pages (docs/scaling.md).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["AHEAD_BYTES", "Disk", "file_of", "gather", "looking_ahead"]

Pixels = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]
Item = TypeVar("Item")

AHEAD_BYTES = 32 << 20  # asked for and not yet read: enough to keep a disk busy, little beside a page cache
MOST_AHEAD = 16  # batches
PIECE = 128 << 10  # bytes of one request: the system cuts what is longer than its own read-ahead
PROBES = 8  # images of a batch that are looked up; all in memory: the others are taken to be


def gather(stack: Pixels, rows: Rows, out: Pixels) -> None:
    """Copy images `rows` (B,) of a stack (N, S, S) into `out` (B, S, S); rows in 0 … N - 1, or another image is copied.

    `take` with a mode copies straight into `out`; without one it fills a copy of `out` first, lest a wrong row
    leave it half written. The rows were looked at when the data set was made.
    """
    np.take(stack.view(np.ndarray), rows, axis=0, out=out, mode="clip")


def file_of(stack: Pixels) -> Path | None:
    """Return the .npy file that a memory-map holds, exactly and whole; None for any other stack."""
    if isinstance(stack, np.memmap) and str(stack.filename).endswith(".npy"):
        file = Path(str(stack.filename))
        whole = np.load(file, mmap_mode="r", allow_pickle=False)
        if whole.shape == stack.shape and whole.offset == stack.offset:
            return file
    return None


class Disk:
    """The files of some stacks, to ask for images of theirs; where the system takes no advice it does nothing.

    A context manager: its files are open while it is entered.
    """

    def __init__(self, stacks: Sequence[Pixels]) -> None:
        self._stacks = stacks
        self._files: dict[
            int, tuple[int, int, int]
        ] = {}  # by stack: descriptor, first byte, bytes of an image

    def __enter__(self) -> Disk:
        if hasattr(os, "posix_fadvise"):
            for number, stack in enumerate(self._stacks):
                if (file := file_of(stack)) is not None and isinstance(stack, np.memmap):
                    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
                    self._files[number] = (descriptor, stack.offset, stack[:1].nbytes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._files:
            os.close(self._files.popitem()[1][0])

    def ask(self, number: int, rows: Rows) -> int:
        """Ask for images of a stack, which will be read soon; return how many were asked for.

        Nothing is asked for where the first bytes of a few of them are all in memory: each question costs a
        microsecond, as much as a tenth of copying the image.
        """
        if number not in self._files or not len(rows):
            return 0
        descriptor, first, size = self._files[number]
        starts = (first + rows * size).tolist()
        if all(_in_memory(descriptor, start) for start in starts[:: max(1, len(starts) // PROBES)]):
            return 0
        for start in starts:
            for piece in range(start, start + size, PIECE):
                os.posix_fadvise(descriptor, piece, min(PIECE, start + size - piece), os.POSIX_FADV_WILLNEED)
        return len(starts)


def looking_ahead(items: Iterable[Item], ask: Callable[[Item], object], ahead: int) -> Iterator[Item]:
    """Yield the items in their order, each when `ask` was called with the `ahead` ones that follow it."""
    waiting: deque[Item] = deque()
    for item in items:
        ask(item)
        waiting.append(item)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def _in_memory(descriptor: int, start: int) -> bool:
    """Say whether the byte at `start` can be read without the disk; False where the system cannot say."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    try:
        return os.preadv(descriptor, [bytearray(1)], start, os.RWF_NOWAIT) == 1
    except OSError:  # EAGAIN: it is not; EOPNOTSUPP: this file system does not tell
        return False
