"""Checkpoints: whole or absent, and never code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import IO

import pytest
import torch

from cxr.callback.atomic_checkpoint import AtomicCheckpointIO, load_checkpoint
from cxr.errors import UserError


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"w": torch.arange(3), "n": [1, {"a": None}]}, path)
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(loaded["w"], torch.arange(3))
    assert loaded["n"] == [1, {"a": None}]
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_failure_while_writing_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"n": 1}, path)

    def half(value: object, target: IO[bytes]) -> None:
        target.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        AtomicCheckpointIO().save_checkpoint({"n": 2}, path)
    assert load_checkpoint(path)["n"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("evil"),)


@pytest.mark.parametrize("kind", ["object", "pickle", "garbage", "tensor"])
def test_a_strangers_file_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    if kind == "object":
        torch.save({"a": Evil()}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "garbage":
        path.write_bytes(b"\x00" * 100)
    else:
        torch.save(torch.zeros(1), path)
    with pytest.raises(UserError, match="not a checkpoint of cxr") as error:
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert "\n" not in str(error.value)
    assert not Path("evil").exists()


def test_missing_file() -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(Path("nowhere.ckpt"))
