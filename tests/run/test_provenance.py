"""A manifest names inputs, code and versions, and nothing private."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from cxr.run import git_state, library_versions, manifest


def test_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home" / "runs").mkdir(parents=True)
    checkpoint = tmp_path / "home" / "runs" / "last.ckpt"
    checkpoint.write_bytes(b"weights")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", "not-for-publication")
    monkeypatch.chdir(tmp_path / "home")
    made = manifest(
        inputs={"checkpoint": checkpoint, "cache": "abc"},
        split_fingerprint="f",
        seed=0,
        device="cpu",
        wall_s=1.5,
    )
    assert made["inputs"] == {
        "checkpoint": {"file": "runs/last.ckpt", "sha256": hashlib.sha256(b"weights").hexdigest()},
        "cache": {"hash": "abc"},
    }
    assert (made["split_fingerprint"], made["seed"], made["device"], made["wall_s"]) == ("f", 0, "cpu", 1.5)
    text = json.dumps(made, allow_nan=False)
    assert "not-for-publication" not in text
    assert str(tmp_path) not in text


def test_versions_are_those_installed() -> None:
    import numpy

    versions = library_versions()
    assert versions["numpy"] == numpy.__version__
    assert versions["torch"] is not None


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_git_state_of_a_checkout_and_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "checkout" / "cxr"
    package.mkdir(parents=True)
    assert git_state(package) is None
    git(package.parent, "init", "-q")
    assert git_state(package) is None  # no commit yet
    (package / "a.py").write_text("1\n")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "one")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    state = git_state(package)
    monkeypatch.delenv("GIT_DIR")
    assert state == {"revision": git(package.parent, "rev-parse", "HEAD"), "dirty": False}
    (package / "a.py").write_text("2\n")
    changed = git_state(package)
    assert changed is not None and changed["dirty"] is True

    installed = package.parent / ".venv" / "site-packages" / "cxr"  # a wheel inside somebody's checkout
    installed.mkdir(parents=True)
    assert git_state(installed) is None
