"""Rows of features on the disk: only what is asked for, whole or absent, one copy for several processes."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cxr.data import feature_store
from cxr.data.dataset import EpochLoader, ImageDataset
from cxr.data.feature_set import FeatureLoader, FeatureSet, Form, as_bytes
from cxr.data.feature_store import Bytes, FeatureStore, NoRoom, Rows
from cxr.data.sampler import Draw, EpochSampler

N, ROW = 40, 24


def of(rows: Rows) -> Bytes:
    """What is computed of each row: its number, then noise that depends on it."""
    made = np.stack([np.random.default_rng(int(r)).integers(0, 256, ROW, dtype=np.uint8) for r in rows])
    made[:, 0] = rows
    return made


class Counting:
    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, rows: Rows) -> Bytes:
        self.seen += rows.tolist()
        return of(rows)


def store(folder: Path, **about: Any) -> FeatureStore:
    return FeatureStore(folder, "net", {"weights": "a", **about}, N, ROW)


def test_computes_what_is_asked_for_and_only_once(tmp_path: Path) -> None:
    compute, held = Counting(), store(tmp_path)
    assert held.missing(np.arange(5, 20)).tolist() == list(range(5, 20))
    assert held.rows().shape == (N, ROW) and not held.rows().any()
    assert held.fill(held.missing(np.arange(5, 20)), compute, batch=4) == 15
    again = store(tmp_path)
    missing = again.missing(np.arange(0, 30, 2))
    assert missing.tolist() == [0, 2, 4, 20, 22, 24, 26, 28]
    assert again.fill(missing, compute, batch=100) == 8
    assert compute.seen == [*range(5, 20), 0, 2, 4, 20, 22, 24, 26, 28]
    wanted = np.union1d(np.arange(5, 20), np.arange(0, 30, 2))
    assert np.array_equal(again.rows()[wanted], of(wanted))
    assert not len(again.missing(wanted)) and len(again.missing(np.array([1]))) == 1


def test_another_answer_to_anything_is_another_folder(tmp_path: Path) -> None:
    held = store(tmp_path)
    held.fill(np.arange(N), of, batch=8)
    others = [store(tmp_path, weights="b"), FeatureStore(tmp_path, "net", {"weights": "a"}, N + 1, ROW)]
    assert all(len(other.missing(np.arange(N))) == N for other in others)
    assert len({held.folder, *(other.folder for other in others)}) == 3


@pytest.mark.parametrize("damage", ["a bit", "sums", "cut short", "about"])
def test_what_is_damaged_is_computed_again(damage: str, tmp_path: Path) -> None:
    held = store(tmp_path)
    held.fill(np.arange(N), of, batch=8)
    rows, sums = held.folder / "rows.bin", held.folder / "sums.bin"
    if damage == "a bit":
        content = bytearray(rows.read_bytes())
        content[7 * ROW + 3] ^= 1
        rows.write_bytes(content)
    elif damage == "sums":
        sums.write_bytes(sums.read_bytes()[:-1])
    elif damage == "cut short":
        os.truncate(rows, 100)
    else:
        (held.folder / "about.json").write_text("{}")
    missing = held.missing(np.arange(N))
    assert missing.tolist() == ([7] if damage == "a bit" else list(range(N)))
    held.fill(missing, of, batch=8)
    assert np.array_equal(held.rows(), of(np.arange(N))) and not len(held.missing(np.arange(N)))


def test_an_interruption_leaves_what_was_computed(tmp_path: Path) -> None:
    def interrupted(rows: Rows) -> Bytes:
        if rows[0] >= 24:
            raise KeyboardInterrupt
        return of(rows)

    held = store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        held.fill(np.arange(N), interrupted, batch=8)
    assert held.missing(np.arange(N)).tolist() == list(range(24, N))
    assert np.array_equal(held.rows()[:24], of(np.arange(24)))


def test_a_disk_that_is_too_small_is_told_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.statvfs(tmp_path)
    monkeypatch.setattr(feature_store.os, "statvfs", lambda _: os.statvfs_result((*full[:4], 0, *full[5:])))
    compute = Counting()
    with pytest.raises(NoRoom, match="GB are needed"):
        store(tmp_path).fill(np.arange(N), compute, batch=8)
    assert not compute.seen


def test_who_comes_second_waits_and_computes_only_the_rest(tmp_path: Path) -> None:
    """A process that holds the lock computes half of the rows, and gives the lock back when it is told to end."""
    held, compute, told = store(tmp_path), Counting(), []
    code = (
        "import sys, pathlib, numpy as np, importlib.util as u; s = u.spec_from_file_location('t', sys.argv[1]);"
        "t = u.module_from_spec(s); s.loader.exec_module(t); h = t.store(pathlib.Path(sys.argv[2]));\n"
        "def slow(rows):\n    print('computes', flush=True); sys.stdin.readline(); return t.of(rows)\n"
        "h.fill(np.arange(20), slow, batch=20)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, __file__, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert other.stdin is not None and other.stdout is not None
    assert other.stdout.readline() == "computes\n"
    missing = held.missing(np.arange(N))
    assert len(missing) == N

    def waits() -> None:
        told.append(True)
        other.communicate("go on\n", timeout=30)

    assert held.fill(missing, compute, batch=8, waits=waits) == 20
    assert told == [True] and compute.seen == list(range(20, N))
    assert np.array_equal(held.rows(), of(np.arange(N)))
    with (tmp_path / f"{held.folder.name}.lock").open("w") as lock:  # given back
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_batch_is_what_was_stored(dtype: torch.dtype, tmp_path: Path) -> None:
    """Two stores one after the other, two views, in the loader's order."""
    form = Form((3, 2, 2), dtype)
    made = [torch.randn(n, 3, 2, 2, generator=torch.Generator().manual_seed(n)).to(dtype) for n in (12, 8)]

    def reads(content: torch.Tensor) -> Callable[[Rows], Bytes]:
        return lambda rows: as_bytes(content[torch.from_numpy(rows)])

    stores = [FeatureStore(tmp_path, "net", {"n": len(m)}, len(m), form.row_bytes) for m in made]
    for one, content in zip(stores, made, strict=True):
        one.fill(np.arange(len(content)), reads(content), batch=5)
    where = np.array([[0, 13, 5, 19, 5], [12, 1, 2, 3, 4]])
    labels, rows = np.eye(5, dtype=np.float32), np.array([0, -2, 5, -8, 5])
    held = FeatureSet(stores, form, where, labels, rows)
    both = torch.cat(made)
    for epoch in range(4):
        batch = held.__getitems__(Draw(epoch, 0, np.array([3, 0, 1])))
        assert batch["features"].dtype == dtype
        assert torch.equal(batch["features"], both[where[epoch % 2, [3, 0, 1]]])
        assert batch["row"].tolist() == [-8, 0, -2] and batch["label"].argmax(1).tolist() == [3, 0, 1]


def test_the_loader_stands_where_that_of_images_does(tmp_path: Path) -> None:
    """Positions are exchanged both ways: a run may go on with features that began with images."""
    form = Form((1,), torch.float32)
    held = FeatureStore(tmp_path, "net", {}, 10, form.row_bytes)
    held.fill(
        np.arange(10), lambda rows: as_bytes(torch.from_numpy(rows.astype(np.float32))[:, None]), batch=10
    )
    labels = np.zeros((10, 1), np.float32)

    def loaders() -> list[Any]:
        images = ImageDataset(np.zeros((10, 4, 4), np.uint8), labels, np.arange(10))
        features = FeatureSet([held], form, np.arange(10)[None], labels, np.arange(10))
        samplers = [EpochSampler(10, 3, 7, shuffle=True, drop_last=False) for _ in range(2)]
        return [EpochLoader(images, samplers[0], 0), FeatureLoader(features, samplers[1])]

    first, then = loaders(), loaders()
    for loader in first:
        loader.sampler.set_epoch(2)
        for _, batch in zip(range(2), loader, strict=False):
            assert len(batch["row"]) == 3
    assert first[0].state_dict() == first[1].state_dict()
    then[0].load_state_dict(first[1].state_dict())
    then[1].load_state_dict(first[0].state_dict())
    rest = [torch.cat([batch["row"] for batch in loader]).tolist() for loader in then]
    assert rest[0] == rest[1] and len(rest[0]) == 4
    assert [len(loader) for loader in then] == [4, 4]
