"""Any folder of class sub-folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxr.data.folder import Folder
from cxr.data.index import DatasetNotFound, labels
from cxr.errors import UserError


def write(root: Path, *names: str) -> Path:
    """Files of different bytes; the loader does not decode them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_classes_are_the_sorted_folders(tmp_path: Path) -> None:
    write(
        tmp_path, "sick/p1_a.png", "sick/deep/p2_a.JPG", "healthy/p3_a.png", "healthy/.DS_Store", "readme.txt"
    )
    write(tmp_path, "__MACOSX/healthy/p3_a.png", "sick/masks/p1_a.png")
    source = Folder(tmp_path, None, None)
    index = source.index()
    assert source.classes == ["healthy", "sick"]
    assert list(index["image_id"]) == ["healthy/p3_a.png", "sick/deep/p2_a.JPG", "sick/p1_a.png"]
    np.testing.assert_array_equal(labels(index), [[1, 0], [0, 1], [0, 1]])
    assert index["patient_id"].isna().all()
    assert index["official_split"].isna().all()


def test_chosen_classes_and_their_order(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/2.png", "c/3.png")
    index = Folder(tmp_path, ["c", "a"], None).index()
    np.testing.assert_array_equal(labels(index), [[0, 1], [1, 0]])


def test_splits_above_the_classes(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "valid/a/2.png", "Test/b/3.png")
    index = Folder(tmp_path, None, None).index()
    assert dict(zip(index["image_id"], index["official_split"], strict=True)) == {
        "train/a/1.png": "train",
        "valid/a/2.png": "val",
        "Test/b/3.png": "test",
    }


@pytest.mark.parametrize("pattern", [r"/(?P<patient>p\d+)_", r"/(p\d+)_", r"p\d+"])
def test_patient_pattern(tmp_path: Path, pattern: str) -> None:
    write(tmp_path, "a/p1_x.png", "a/p1_y.png", "b/p22_x.png")
    assert list(Folder(tmp_path, None, pattern).index()["patient_id"]) == ["p1", "p1", "p22"]


def test_patient_pattern_must_match_every_file(tmp_path: Path) -> None:
    write(tmp_path, "a/p1.png", "b/other.png")
    with pytest.raises(UserError, match=r"no patient in 1 of 2 paths .first: b/other.png"):
        Folder(tmp_path, None, r"p\d+").index()


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a regular expression"):
        Folder(tmp_path, None, "(")
    with pytest.raises(UserError, match="expected one sub-folder per class, found nothing"):
        Folder(tmp_path, None, None).index()
    write(tmp_path, "healthy/1.png", "sick/notes.txt")
    with pytest.raises(UserError, match="image files in the folder 'sick', found none"):
        Folder(tmp_path, None, None).index()
    with pytest.raises(UserError, match="did you mean 'healthy'"):
        Folder(tmp_path, ["helthy"], None).index()
    with pytest.raises(UserError, match="each once"):
        Folder(tmp_path, [], None)


def test_no_location(tmp_path: Path) -> None:
    for root in (None, tmp_path / "nowhere"):
        with pytest.raises(DatasetNotFound, match=r"set data\.root="):
            Folder(root, None, None).index()
