"""Reading rows of a stack, and asking the disk for those to come."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr.data import gather as gather_module
from cxr.data.gather import Disk, file_of, gather, looking_ahead


def stack(path: Path, n: int = 64, size_px: int = 64) -> Any:
    array = np.random.default_rng(0).integers(0, 256, (n, size_px, size_px), dtype=np.uint8)
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def test_gather_is_indexing(tmp_path: Path) -> None:
    images = stack(tmp_path / "images.npy")
    rows = np.array([5, 0, 63, 5, 17])
    out = np.empty((5, 64, 64), np.uint8)
    gather(images, rows, out)
    np.testing.assert_array_equal(out, images[rows])
    gather(images[10:], rows[1:2], out[:1])
    np.testing.assert_array_equal(out[0], images[10])


def test_the_ones_ahead_are_asked_for_before_one_is_given(tmp_path: Path) -> None:
    asked: list[int] = []
    given = []
    for item in looking_ahead(range(6), asked.append, 2):
        given.append(item)
        assert asked == list(range(min(item + 3, 6)))
    assert given == list(range(6))
    assert list(looking_ahead([], asked.append, 2)) == []


def forget(file: Path) -> None:
    """Drop a file from the page cache; what is dirty has to be written first."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(file: Path) -> np.ndarray[Any, Any]:
    """Return for each page of a file whether it is in memory, by mincore(2), as `fincore` does."""
    size = file.stat().st_size
    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), size) as mapped:
        start = (ctypes.c_char * size).from_buffer(mapped)
        pages = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), pages
        )
        del start
    if failed:
        pytest.skip("no mincore here")
    return np.asarray(pages) & 1 == 1


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="no posix_fadvise")
def test_what_is_asked_for_comes_into_memory_and_only_that(tmp_path: Path) -> None:
    import time

    file = tmp_path / "images.npy"
    images = stack(file, n=256)  # 4 kB each, after a header of 128 bytes
    forget(file)
    if resident(file).any():
        pytest.skip("the page cache of this file system cannot be dropped")
    rows = np.array([7, 100, 200])
    with Disk([images]) as disk:
        assert disk.ask(0, rows) == 3
        pages = sorted(
            {p for row in rows for p in ((128 + row * 4096) // 4096, (127 + (row + 1) * 4096) // 4096)}
        )
        until = time.monotonic() + 5
        while not resident(file)[pages].all() and time.monotonic() < until:
            time.sleep(0.01)
        there = resident(file)
        assert there[pages].all(), "fetched while we did something else"
        assert there.sum() < 64, "and not the whole file"
        assert disk.ask(0, rows) == 0, "nothing is asked for that is in memory"


def test_no_advice_no_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = stack(tmp_path / "images.npy")
    with Disk([np.asarray(images), images[3:]]) as disk:
        assert disk.ask(0, np.arange(4)) == disk.ask(1, np.arange(4)) == 0, "an array, a part of a file"
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    with Disk([images]) as disk:
        assert disk.ask(0, np.arange(4)) == 0


def test_files_are_closed(tmp_path: Path) -> None:
    images = stack(tmp_path / "images.npy")

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc")
    before = descriptors()
    with pytest.raises(KeyError), Disk([images, images]) as disk:
        assert descriptors() == before + 2
        disk.ask(0, np.arange(2))
        raise KeyError
    assert descriptors() == before


def test_a_file_system_that_does_not_tell_is_asked_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(95, "Operation not supported")

    images = stack(tmp_path / "images.npy")
    images.sum()
    monkeypatch.setattr(gather_module.os, "preadv", refuse)
    with Disk([images]) as disk:
        assert disk.ask(0, np.arange(4)) == (4 if hasattr(os, "posix_fadvise") else 0)


def test_the_file_of_a_stack(tmp_path: Path) -> None:
    images = stack(tmp_path / "images.npy")
    assert file_of(images) == tmp_path / "images.npy"
    assert file_of(images[1:]) is None and file_of(np.asarray(images)) is None
