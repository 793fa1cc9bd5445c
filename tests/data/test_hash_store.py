"""Hashes are read once and believed while a file is what it was; whatever is doubtful is read again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cxr.config import build
from cxr.data import hash_store
from cxr.data.folder import Folder
from cxr.data.hash_store import HashStore
from cxr.data.index import hash_files


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files made a moment ago count as old ones: no test waits two seconds."""
    monkeypatch.setattr(hash_store, "SETTLED_NS", -1_000_000_000)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "data"
    folder.mkdir()
    paths = [folder / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        path.write_bytes(b"image %d" % i)
    return paths


class Reading:
    """Hashes files and notes which."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, paths: Sequence[Path]) -> list[str]:
        self.read += [path.name for path in paths]
        return hash_files(paths)


def true_hashes(files: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def look(files: list[Path], rehash: bool = False) -> tuple[bool, list[str]]:
    """Return whether the hashes are right, and the names of the files that were read for them."""
    reading = Reading()
    found = HashStore(files[0].parents[1] / "cache", files[0].parent, rehash=rehash).hashes(files, reading)
    return found == true_hashes(files), reading.read


def test_a_second_look_reads_nothing(files: list[Path]) -> None:
    everything = (True, [path.name for path in files])
    assert look(files) == everything
    assert look(files) == (True, [])
    assert look(files[1:3]) == (True, [])
    assert look(files) == (True, []), "what was not asked for is kept"
    assert look(files, rehash=True) == everything


def test_a_changed_file_is_read_again(files: list[Path]) -> None:
    look(files)
    files[0].write_bytes(b"another size")
    old = files[1].stat()
    files[1].write_bytes(b"image X")  # as long as before
    os.utime(files[1], ns=(old.st_atime_ns, old.st_mtime_ns))  # and its mtime set back: its ctime tells
    assert files[1].stat().st_mtime_ns == old.st_mtime_ns
    new = files[2].with_name("new")
    new.write_bytes(b"image Y")
    new.replace(files[2])  # another inode
    assert look(files) == (True, ["0.png", "1.png", "2.png"])
    assert look(files) == (True, [])


def test_the_known_limit_same_size_times_and_inode(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a disk with a wrong clock would show: bytes changed, nothing else. Only rehash=true sees it; docs say so."""
    monkeypatch.setattr(hash_store, "_fact", lambda name: (7, 1, 1, 1))
    look(files)
    files[3].write_bytes(b"image Z")
    assert look(files) == (False, [])
    assert look(files, rehash=True)[0]
    assert look(files) == (True, []), "the store is right again"


def test_a_file_that_may_change_within_the_same_tick_is_not_kept(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hash_store, "SETTLED_NS", 3_600_000_000_000)
    look(files)
    assert look(files) == (True, [path.name for path in files])


def test_a_file_that_changes_while_it_is_read_is_not_kept(files: list[Path]) -> None:
    def meddle(paths: Sequence[Path]) -> list[str]:
        found = hash_files(paths)
        files[4].write_bytes(b"written meanwhile")
        return found

    HashStore(files[0].parents[1] / "cache", files[0].parent, rehash=False).hashes(files, meddle)
    assert look(files) == (True, ["4.png"])


def test_a_damaged_store_is_thrown_away_whole(files: list[Path]) -> None:
    look(files)
    (store,) = (files[0].parents[1] / "cache").glob("hashes-*.json")
    whole = store.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:middle], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], b"", b"\xff\n{}",
                    whole.replace(b"cxr hashes 1", b"cxr hashes 0", 1)):  # fmt: skip
        store.write_bytes(damaged)
        assert len(look(files)[1]) == 5, damaged[:40]
        assert store.read_bytes() == whole
    assert look(files)[1] == []


def test_a_store_that_cannot_be_written_is_done_without(files: list[Path]) -> None:
    (files[0].parents[1] / "cache").write_text("a file where the folder should be")
    for _ in range(2):
        assert look(files) == (True, [path.name for path in files])


def test_a_file_that_is_gone_is_told_as_without_a_store(files: list[Path]) -> None:
    look(files)
    gone = files[0].with_name("gone.png")
    with pytest.raises(Exception, match=r"gone\.png: cannot be read"):
        HashStore(files[0].parents[1] / "cache", files[0].parent, rehash=False).hashes(
            [*files, gone], hash_files
        )


def test_a_data_set_remembers_its_hashes(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in files:
        (path.parent / "a").mkdir(exist_ok=True)
        path.rename(path.parent / "a" / path.name)
    root = files[0].parent
    plainly = Folder(root, None, None).index()

    def source() -> Folder:
        made = Folder(root, None, None)
        made.remember_hashes(tmp_path / "cache", rehash=False)
        return made

    assert source().index().equals(plainly)
    monkeypatch.setattr("cxr.data.index.file_sha256", lambda path: pytest.fail(f"{path} was read"))
    assert source().index().equals(plainly)


def test_the_option_stands_in_the_cache_and_makes_no_other_run(tmp_path: Path) -> None:
    from cxr.run.naming import config_hash, identity

    def config(rehash: bool) -> dict[str, Any]:
        cache = {"_target_": "cxr.data.cache.ImageCache", "dir": str(tmp_path), "size_px": 8, "fit": "pad", "window": None,
                 "on_bad_image": "stop", "workers": 1, "rehash": rehash}  # fmt: skip
        assert build(cache).rehash is rehash
        return {"cache": cache}

    assert config_hash(identity(config(True))) == config_hash(identity(config(False)))
