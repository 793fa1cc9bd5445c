"""Artifacts: the same content under the same name on both sides, and no home folder in where it lies."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cxr.tracking import artifact


def checkpoint(folder: Path) -> Path:
    file = folder / "run+1" / "checkpoints" / "last.ckpt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    return file


def test_both_policies_name_one_content_and_none_names_nothing(tmp_path: Path) -> None:
    run = checkpoint(tmp_path).parents[1]
    sent, told = (artifact.checkpoint_artifact(run, "gan", p, {"a": 1}) for p in ("upload", "reference"))
    assert sent is not None
    assert told is not None
    assert sent.name == told.name == "gan-run-1"  # W&B takes no +
    assert sent.digest == told.digest
    assert artifact.checkpoint_artifact(run, "gan", "none", {}) is None
    assert artifact.checkpoint_artifact(tmp_path, "gan", "reference", {}) is None  # no checkpoint yet
    assert artifact.set_artifact(tmp_path, "reference") is None


def test_where_a_file_lies_is_told_without_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = checkpoint(tmp_path / "me")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert artifact.reference(file) == "file:~/run+1/checkpoints/last.ckpt"
    monkeypatch.chdir(tmp_path / "me")
    assert artifact.reference(file) == "file:run+1/checkpoints/last.ckpt"
    made = artifact.checkpoint_artifact(file.parents[1], "gan", "reference", {})
    assert made is not None
    assert [entry.ref for entry in made.manifest.entries.values()] == ["file:run+1/checkpoints/last.ckpt"]


def test_online_the_public_call_says_what_was_used_and_disabled_says_nothing(tmp_path: Path) -> None:
    said: list[Any] = []
    made: Any = artifact.checkpoint_artifact(checkpoint(tmp_path).parents[1], "gan", "reference", {})
    online: Any = SimpleNamespace(
        disabled=False, offline=False, use_artifact=said.append, log_artifact=said.append
    )
    artifact.use(online, made)
    artifact.log(online, made)
    assert said == [made, made]
    disabled: Any = SimpleNamespace(disabled=True)
    artifact.use(disabled, made)
    artifact.log(disabled, made)
