"""The image cache: every image decoded and resized once, into one uint8 memory-map.

    <dir>/<data set>-<size>-<key>/   images.npy (N, S, S) uint8, index.parquet, manifest.json, rejected.csv
    <dir>/<same>.partial/            while it is built; survives a kill and is carried on
    <dir>/<same>.lock                held by the process that builds

The key names the content: the images' hashes in order, size, fit, window, format. Labels and
patients are not in it, so another reading of the same files uses the same pixels; what
`build` returns is always the index it was given, less the files that could not be used.
"""

from __future__ import annotations

import csv
import errno
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.data.decode import BadImage, Fit, NeedsWindow, fit, to_uint8
from cxr.data.index import Source
from cxr.data.stack import open_stack
from cxr.errors import UserError
from cxr.files import (
    atomic_path,
    digest,
    file_sha256,
    locked,
    read_json,
    read_parquet,
    remove_unfinished,
    write_json,
)

__all__ = ["CachedImages", "ImageCache"]

FORMAT = 1  # raise it when the same parameters would give other pixels
CHUNK = 256  # images between two entries in the bitmap of what is done


@dataclass(frozen=True)
class CachedImages:
    """A cache that is whole: `images` (N, S, S) uint8, read-only, row by row with `index`."""

    images: np.memmap[Any, np.dtype[np.uint8]]
    index: pd.DataFrame
    path: Path
    key: str


class ImageCache:
    """Builds caches below `dir`, or opens those that are there.

    `workers` are threads (decoding works outside Python's lock); None takes one per core, at
    most 16. `on_bad_image`: stop names the files in rejected.csv and refuses; skip leaves
    their rows out. `rehash`: the files of a data set are hashed anew, whatever is remembered
    of them (cxr/data/hash_store.py; kept in `dir` too).
    """

    def __init__(
        self,
        dir: Path,  # noqa: A002 - the word of the config
        size_px: int,
        fit: Fit,
        window: list[float] | None,
        on_bad_image: Literal["stop", "skip"],
        workers: int | None,
        rehash: bool = False,
    ) -> None:
        if size_px < 1:
            raise UserError(f"cache.size_px is {size_px}; expected at least 1: set cache.size_px=128")
        if window is not None and (len(window) != 2 or not window[0] < window[1]):
            raise UserError(
                f"cache.window is {list(window)}; expected LOW < HIGH: set cache.window=[LOW,HIGH]"
            )
        if workers is not None and workers < 1:
            raise UserError(
                f"cache.workers is {workers}; expected at least 1 or null: set cache.workers=null"
            )
        self.dir = Path(dir).expanduser()
        self.size_px = size_px
        self.fit: Fit = fit
        self.window = None if window is None else (float(window[0]), float(window[1]))
        self.on_bad_image = on_bad_image
        self.workers = workers
        self.rehash = rehash

    def key(self, index: pd.DataFrame) -> str:
        """Return what names the pixels of `index` under these parameters."""
        return digest([list(index["content_hash"]), self.size_px, self.fit, self.window, FORMAT])

    def build(self, source: Source, index: pd.DataFrame) -> CachedImages:
        """Return the images of `index`, decoding those that no earlier call has.

        Two processes may call this at once: the second waits and then reads. Raises
        `UserError` where files are unusable (see `on_bad_image`) or deeper than 8 bit
        without a window.
        """
        index = index.reset_index(drop=True)
        key = self.key(index)
        path = self.dir / f"{source.name}-{self.size_px}-{key}"
        if (cached := self._open(path, key, index)) is not None:
            return cached
        self.dir.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(path.name + ".lock")):
            cached = self._open(path, key, index)  # another process may have built it meanwhile
            if cached is None:
                self._build(source, index, path, key)
                cached = self._open(path, key, index)
        if cached is None:
            raise RuntimeError(f"{path} was written and is not readable")
        return cached

    def _open(self, path: Path, key: str, index: pd.DataFrame) -> CachedImages | None:
        """Open a whole cache; None if there is none, or if it was damaged since."""
        if not (path / "manifest.json").is_file():
            return None
        try:
            manifest = read_json(path / "manifest.json")
            images = open_stack(path / "images.npy")
            rejected = [int(row) for row in manifest["rejected_rows"]]
            whole = (
                manifest["key"] == key
                and images.shape == (len(index) - len(rejected), self.size_px, self.size_px)
                and images.dtype == np.uint8
                and (path / "images.npy").stat().st_size == manifest["images_bytes"]
                and _has_hash(path / "images.npy", manifest["images_sha256"])
                and file_sha256(path / "index.parquet") == manifest["index_sha256"]
                # Which rows are left out stands in the manifest alone: these must be the ones that were left in.
                and (not rejected or _is_of(path / "index.parquet", index.drop(index.index[rejected])))
            )
        except (UserError, OSError, ValueError, KeyError, TypeError, IndexError, OverflowError):
            return None
        if not whole:
            return None
        if rejected and self.on_bad_image == "stop":
            first = index.iloc[rejected[0]]
            raise _unusable(len(rejected), len(index), str(first["path"]), None, path / "rejected.csv")
        kept = index.drop(index.index[rejected]).reset_index(drop=True)
        return CachedImages(images=images, index=kept, path=path, key=key)

    def _build(self, source: Source, index: pd.DataFrame, path: Path, key: str) -> None:
        """Fill `<path>.partial`, then rename it to `path`."""
        partial = path.with_name(path.name + ".partial")
        parameters = {
            "format": FORMAT,
            "size_px": self.size_px,
            "fit": self.fit,
            "window": None if self.window is None else list(self.window),
            "versions": {"cv2": cv2.__version__, "numpy": np.__version__},
        }
        pixels, done = _open_partial(partial, (len(index), self.size_px, self.size_px), parameters)
        try:
            reasons = self._fill(source, [str(p) for p in index["path"]], pixels, done, partial / "done.bin")
        except NeedsWindow:  # with a window it is another cache: nobody would come back to this one
            shutil.rmtree(partial)
            raise
        pixels.flush()
        rows = sorted(reasons)
        with atomic_path(partial / "rejected.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_id", "path", "reason"])
            writer.writerows([index["image_id"][row], index["path"][row], reasons[row]] for row in rows)
        if rows and (self.on_bad_image == "stop" or len(rows) == len(index)):
            where = partial / "rejected.csv"
            raise _unusable(len(rows), len(index), str(index["path"][rows[0]]), reasons[rows[0]], where)

        kept = index.drop(index.index[rows]).reset_index(drop=True)
        if rows:
            _drop_rows(partial / "pixels.npy", partial / "images.npy", rows)
        else:
            (partial / "pixels.npy").replace(partial / "images.npy")
        kept.to_parquet(partial / "index.parquet", index=False)
        manifest = {
            **parameters,
            "kind": "cache",
            "dataset": source.name,
            "key": key,
            "n": len(kept),
            "n_rejected": len(rows),
            "rejected_rows": rows,
            "images_bytes": (partial / "images.npy").stat().st_size,
            "images_sha256": file_sha256(partial / "images.npy"),
            "index_sha256": file_sha256(partial / "index.parquet"),
        }
        write_json(partial / "manifest.json", manifest)
        for leftover in ("pixels.npy", "done.bin", "parameters.json"):
            (partial / leftover).unlink(missing_ok=True)
        if path.exists():  # it did not open: damaged, or edited by hand
            print(f"{path}: is not what its manifest names, or has none; decoded again", file=sys.stderr)
            shutil.rmtree(path)
        partial.replace(path)

    def _fill(
        self,
        source: Source,
        paths: list[str],
        pixels: npt.NDArray[np.uint8],
        done: npt.NDArray[np.uint8],
        bitmap: Path,
    ) -> dict[int, str]:
        """Decode what is not done, a chunk at a time; return row → reason of the unusable.

        A chunk enters the bitmap after its pixels are on the disk; unusable files never do,
        so a later run looks at them again.
        """
        from rich.console import Console
        from rich.progress import Progress

        def one(row: int) -> str | None:
            try:
                pixels[row] = fit(to_uint8(source.read(paths[row]), self.window), self.size_px, self.fit)
            except BadImage as error:
                return error.reason
            except NeedsWindow as error:
                raise NeedsWindow(f"{paths[row]}: {error}") from None
            return None

        todo = [int(row) for row in np.flatnonzero(done == 0)]
        reasons: dict[int, str] = {}
        console = Console(stderr=True)
        progress = Progress(console=console, transient=True, disable=not console.is_terminal)
        with ThreadPoolExecutor(self.workers or min(16, os.cpu_count() or 1)) as pool, progress:
            task = progress.add_task(
                f"decoding {source.name}", total=len(paths), completed=len(paths) - len(todo)
            )
            for start in range(0, len(todo), CHUNK):
                rows = todo[start : start + CHUNK]
                for row, reason in zip(rows, pool.map(one, rows), strict=True):
                    if reason is None:
                        done[row] = 1
                    else:
                        reasons[row] = reason
                    progress.advance(task)
                if isinstance(pixels, np.memmap):
                    pixels.flush()
                with atomic_path(bitmap) as temporary:
                    temporary.write_bytes(done.tobytes())
        return reasons


def _unusable(n_bad: int, n_all: int, first: str, reason: str | None, where: Path) -> UserError:
    why = f" ({reason})" if reason else ""
    return UserError(
        f"{n_bad} of {n_all} image files cannot be used, the first is {first}{why}, "
        f"all are listed in {where}; expected readable images: mend or remove them, "
        f"or leave them out with cache.on_bad_image=skip"
    )


def _open_partial(
    partial: Path, shape: tuple[int, int, int], parameters: dict[str, Any]
) -> tuple[np.memmap[Any, np.dtype[np.uint8]], npt.NDArray[np.uint8]]:
    """Open what an interrupted build left, or start one: pixels, and which rows are done."""
    pixels, bitmap = partial / "pixels.npy", partial / "done.bin"
    try:
        # The versions are compared too: half a cache from each of two decoders is neither.
        if read_json(partial / "parameters.json") == parameters:
            done = np.frombuffer(bitmap.read_bytes(), np.uint8).copy()
            # Looked at before it is opened for writing, which would make it as large as its header says.
            if open_stack(pixels).shape == shape and done.shape == shape[:1]:
                remove_unfinished(partial)
                return np.lib.format.open_memmap(pixels, mode="r+"), done
    except (UserError, OSError, ValueError):
        pass
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        images = _reserved(pixels, shape)
    except OSError:
        shutil.rmtree(partial)
        raise
    done = np.zeros(shape[0], np.uint8)
    bitmap.write_bytes(done.tobytes())
    write_json(partial / "parameters.json", parameters)  # last: without it the folder is started afresh
    return images, done


def _is_of(table: Path, kept: pd.DataFrame) -> bool:
    """Say whether a cache's index names these very images, in this order."""
    found = read_parquet(table, "the index of a cache")
    return list(found["content_hash"]) == list(kept["content_hash"])


def _has_hash(file: Path, sha256: str) -> bool:
    """Say whether a file has this hash. One that had it is believed while its size and time of change stay.

    To read a stack of 100 GB takes minutes, for each job of a sweep and each process of a job.
    """
    stamp, stat = file.with_name(f"{file.stem}.checked.json"), file.stat()
    seen = [sha256, stat.st_size, stat.st_mtime_ns]
    with suppress(UserError):
        if stamp.is_file() and read_json(stamp) == seen:
            return True
    if file_sha256(file) != sha256:
        return False
    with suppress(OSError):  # a cache that is somebody else's, or on a full disk
        write_json(stamp, seen)
    return True


def _reserved(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
    """Make an .npy of uint8 zeros whose blocks are on the disk.

    A memory-map over a file with holes meets a full disk as SIGBUS, which no handler can tell the user about.

    Raises:
        OSError: the disk has not room for it (ENOSPC, EDQUOT).
    """
    images: np.memmap[Any, np.dtype[np.uint8]]
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # the file system cannot say
                    raise OSError(error.errno, error.strerror, str(path)) from None
    return images


def _drop_rows(source: Path, target: Path, rows: list[int]) -> None:
    """Copy a stack of images without some of its rows, a chunk at a time."""
    images = np.load(source, mmap_mode="r", allow_pickle=False)
    keep = np.setdiff1d(np.arange(len(images)), rows)
    with atomic_path(target) as temporary:
        shape = (len(keep), *images.shape[1:])
        out = _reserved(temporary, shape)
        for start in range(0, len(keep), CHUNK):
            out[start : start + CHUNK] = images[keep[start : start + CHUNK]]
        out.flush()
