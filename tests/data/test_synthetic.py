"""Synthetic sets: whole or absent, verified when opened, and never trained on what is tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr.data import synthetic
from cxr.data.synthetic import (
    SyntheticSet,
    check_leak,
    load_synthetic,
    resized,
    synthetic_labels,
    write_synthetic,
)
from cxr.errors import UserError

SEEN = [f"{k:064x}" for k in range(5)]


def write(
    path: Path, n: int = 6, classes: tuple[str, ...] = ("NORMAL", "PNEUMONIA"), seed: int = 0
) -> SyntheticSet:
    images = np.random.default_rng(seed).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    index = pd.DataFrame(
        {
            "class": [classes[k % len(classes)] for k in range(n)],
            "z_seed": np.full(n, seed),
            "z_index": np.arange(n),
            "checkpoint_sha256": ["c" * 64] * n,
            "score": [float("nan")] * n,
        }
    )
    manifest: dict[str, Any] = {
        "classes": list(classes),
        "seed": seed,
        "checkpoints": [],
        "trained_on": SEEN,
        "split_fingerprint": "f",
    }
    return write_synthetic(path, images, index, manifest, grid=images[0])


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path / "sets" / "a")
    one = load_synthetic(tmp_path / "sets" / "a")
    expected = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    assert (one.images == expected).all() and isinstance(one.images, np.memmap)
    assert one.manifest["kind"] == "synthetic" and (one.manifest["n"], one.manifest["size_px"]) == (6, 8)
    assert list(one.index.columns) == list(synthetic.COLUMNS) and one.path == tmp_path / "sets" / "a"
    assert sorted(p.name for p in (tmp_path / "sets").iterdir()) == ["a"], "nothing temporary is left"
    assert {p.name for p in one.path.iterdir()} == {
        "images.npy",
        "index.parquet",
        "manifest.json",
        "grid.png",
    }


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a").path, write(tmp_path / "b").path
    for name in ("images.npy", "index.parquet", "manifest.json", "grid.png"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_failure_leaves_the_old_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", seed=0)
    before = (tmp_path / "a" / "images.npy").read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "write_json", fail)
        with pytest.raises(OSError, match="disk full"):
            write(tmp_path / "a", seed=1)
    assert (tmp_path / "a" / "images.npy").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (write(tmp_path / "a", seed=1).images != load_synthetic(tmp_path / "a").images).sum() == 0
    assert (tmp_path / "a" / "images.npy").read_bytes() != before


def test_another_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("only copy")
    with pytest.raises(UserError, match="no synthetic set"):
        write(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "only copy"


def test_a_changed_or_missing_set_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "lungs").path
    with pytest.raises(UserError, match=r"did you mean 'lungs'.*generate\.py"):
        load_synthetic(tmp_path / "lung")
    data = bytearray((path / "images.npy").read_bytes())
    data[-1] ^= 1
    (path / "images.npy").write_bytes(data)
    with pytest.raises(UserError, match="SHA-256 differs"):
        load_synthetic(path)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["trained_on"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="lacks trained_on"):
        load_synthetic(path)


def test_resized_once_cubic_up_area_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = write(tmp_path / "a")
    assert resized(one, 8) is one
    up, down = resized(one, 16), resized(one, 4)
    for row in range(6):
        assert (up.images[row] == cv2.resize(one.images[row], (16, 16), interpolation=cv2.INTER_CUBIC)).all()
        assert (down.images[row] == cv2.resize(one.images[row], (4, 4), interpolation=cv2.INTER_AREA)).all()
    monkeypatch.setattr(cv2, "resize", None)  # would fail if it were used again
    assert (resized(one, 16).images == up.images).all()
    assert load_synthetic(one.path).images.shape == (6, 8, 8)


def test_a_remade_set_does_not_keep_its_old_sizes(tmp_path: Path) -> None:
    old = resized(write(tmp_path / "a", seed=0), 16)
    assert (resized(write(tmp_path / "a", seed=1), 16).images != old.images).any()


def test_labels_of_several_sets_one_after_the_other(tmp_path: Path) -> None:
    sets = [write(tmp_path / "a", 2, ("PNEUMONIA",)), write(tmp_path / "b", 1, ("NORMAL",))]
    assert synthetic_labels(sets, ["NORMAL", "PNEUMONIA"]).tolist() == [[0, 1], [0, 1], [1, 0]]
    assert synthetic_labels([], ["NORMAL", "PNEUMONIA"]).shape == (0, 2)
    with pytest.raises(UserError, match="class 'PNEUMONIA'"):
        synthetic_labels(sets, ["NORMAL"])


def test_a_gan_that_saw_a_held_out_image_is_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "a")
    assert check_leak(one, ["e" * 64], "refuse") == []
    with pytest.raises(UserError, match=r"leak: 2 validation or test images.*set a,.*leakage=allow"):
        check_leak([one], ["e" * 64, SEEN[3], SEEN[1]], "refuse")
    assert check_leak([one], [SEEN[3], SEEN[1]], "allow") == [SEEN[1], SEEN[3]]
