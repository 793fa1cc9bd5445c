"""What a frozen network made of images, kept on the disk: a row of bytes for each image, and its checksum.

    <folder>/rows.bin     N rows of `row_bytes`; rows that nobody asked for are holes, and take no room
    <folder>/sums.bin     (N,) uint32: the CRC-32 of each row, 0 where there is none
    <folder>/about.json   what the rows are of; another answer to any of it is another folder
    <folder>.lock         held by the process that computes

So rows can be added later (another split asks for other images), a killed process leaves what it had computed, a
damaged row is computed again, and processes share one copy through the page cache. Written with pwrite, not through a
memory-map, which meets a full disk as SIGBUS.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError
from cxr.files import atomic_path, digest, locked, read_json, remove_unfinished, write_json

__all__ = ["FeatureStore", "NoRoom"]

Rows = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

KEEP_EVERY_S = 10.0  # what a killed process loses at most
CHECK_BYTES = 64 << 20  # read at once


class NoRoom(OSError):
    """The disk cannot hold the rows."""


class FeatureStore:
    """N rows of `row_bytes` bytes in `folder`, whose name ends in the hash of `about`, which says of what they are.

    Args:
        parent: folders are made below it.
        name: for people, the beginning of the folder's name.
        about: plain containers; two stores are the same where this is.
        n: rows, of which any may be absent.
        row_bytes: of one row.
    """

    def __init__(self, parent: Path, name: str, about: Mapping[str, Any], n: int, row_bytes: int) -> None:
        self.about = {**about, "n": n, "row_bytes": row_bytes}
        self.folder = parent / f"{name}-{digest(self.about)}"
        self.n, self.row_bytes = n, row_bytes

    def rows(self) -> Bytes:
        """Return the memory-map (N, row_bytes) uint8, read-only; rows that are absent are zeros."""
        if not (self.folder / "rows.bin").is_file():  # none was asked for
            return np.broadcast_to(np.uint8(0), (self.n, self.row_bytes))
        return np.memmap(self.folder / "rows.bin", np.uint8, "r", shape=(self.n, self.row_bytes))

    def missing(self, wanted: Rows) -> Rows:
        """Return those of the rows `wanted` that are absent or damaged."""
        sums = self._sums()
        if sums is None:
            return wanted
        absent = sums[wanted] == 0
        there = wanted[~absent]
        rows, step = self.rows(), max(1, CHECK_BYTES // self.row_bytes)
        damaged = [
            row
            for start in range(0, len(there), step)
            for row in there[start : start + step]
            if _sum(rows[row]) != sums[row]
        ]
        return np.union1d(wanted[absent], np.asarray(damaged, np.int64))

    def fill(
        self,
        missing: Rows,
        compute: Callable[[Rows], Bytes],
        batch: int,
        waits: Callable[[], object] = lambda: None,
    ) -> int:
        """Have rows computed that `missing` has named; return how many were: not those that another process has by now.

        compute: rows (B,) → bytes (B, row_bytes), called with at most `batch` of them.
        waits: called once where another process computes just now.

        Raises:
            NoRoom: the disk is too small; nothing was computed.
            OSError: the folder cannot be written.
        """
        if not len(missing):
            return 0
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.folder.with_name(f"{self.folder.name}.lock"), waits):
            missing = self.missing(missing)
            if len(missing):
                self._fill(missing, compute, batch)
        return len(missing)

    def _fill(self, missing: Rows, compute: Callable[[Rows], Bytes], batch: int) -> None:
        disk = os.statvfs(self.folder.parent)
        if (need := len(missing) * self.row_bytes) > disk.f_bavail * disk.f_frsize:
            raise NoRoom(f"{need / 1e9:.1f} GB are needed in {self.folder.parent}")
        sums = self._begin()
        saved = time.monotonic()
        with (self.folder / "rows.bin").open("r+b", buffering=0) as file:

            def keep() -> None:
                os.fsync(file.fileno())  # first: a sum must not outlive its row
                with atomic_path(self.folder / "sums.bin") as temporary:
                    temporary.write_bytes(sums.tobytes())

            try:
                for start in range(0, len(missing), batch):
                    rows = missing[start : start + batch]
                    made = np.ascontiguousarray(compute(rows))
                    if made.shape != (len(rows), self.row_bytes) or made.dtype != np.uint8:
                        raise ValueError(
                            f"{len(rows)} rows of {self.row_bytes} bytes, got {made.dtype} {made.shape}"
                        )
                    for row, content in zip(rows.tolist(), made, strict=True):
                        _write(file.fileno(), content.tobytes(), row * self.row_bytes)
                        sums[row] = _sum(content)
                    if time.monotonic() - saved > KEEP_EVERY_S:
                        keep()
                        saved = time.monotonic()
            finally:  # also what was computed before an interruption
                keep()

    def _begin(self) -> npt.NDArray[np.uint32]:
        """Return the sums to go on from; makes the files where there are none, or not whole ones."""
        sums = self._sums()
        self.folder.mkdir(exist_ok=True)
        remove_unfinished(self.folder)
        if sums is not None:
            return sums
        for name in ("sums.bin", "rows.bin"):  # not cut short: another process may have it mapped
            (self.folder / name).unlink(missing_ok=True)
        with (self.folder / "rows.bin").open("wb") as file:
            file.truncate(self.n * self.row_bytes)
        write_json(self.folder / "about.json", self.about)
        return np.zeros(self.n, np.uint32)

    def _sums(self) -> npt.NDArray[np.uint32] | None:
        """Return the checksums (N,), 0 where there is no row; None where the store is not there, or is no such store."""
        try:
            if digest(read_json(self.folder / "about.json")) != digest(self.about):
                return None
            if (self.folder / "rows.bin").stat().st_size != self.n * self.row_bytes:
                return None
            sums = np.frombuffer((self.folder / "sums.bin").read_bytes(), np.uint32)
        except (OSError, UserError, ValueError):
            return None
        return sums.copy() if sums.shape == (self.n,) else None


def _sum(row: Bytes) -> int:
    """Return the CRC-32 of a row; never 0, which says that there is none."""
    return zlib.crc32(row.data) or 1


def _write(file: int, content: bytes, offset: int) -> None:
    """Write all of it: pwrite may take less."""
    view = memoryview(content)
    while view:
        done = os.pwrite(file, view, offset)
        view, offset = view[done:], offset + done
