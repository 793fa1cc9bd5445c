"""The index table: what loaders must deliver and what everything after them relies on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr.data import index as index_module
from cxr.data.index import hash_files, label_names, labels, list_images, make_index
from cxr.errors import UserError

HASH = "0" * 64


def row(image_id: str, **values: Any) -> dict[str, Any]:
    marks = {f"label:{k}": v for k, v in values.pop("marks", {}).items()}
    return {"image_id": image_id, "content_hash": HASH, **marks, **values}


def test_columns_order_and_dtypes() -> None:
    index = make_index(
        [
            row("b.png", marks={"x": 1}, patient_id="p", subtype="virus"),
            row("a.png", official_split="val", box_x=0.5),
        ],
        ["x", "y"],
    )
    expected = ["image_id", "path", "label:x", "label:y", "patient_id", "view", "source", "official_split"]
    assert list(index.columns) == [*expected, "content_hash", "box_x", "subtype"]
    assert list(index["image_id"]) == ["a.png", "b.png"] == list(index["path"])
    assert isinstance(index.index, pd.RangeIndex)
    assert index["label:x"].dtype == np.float32
    assert list(index["patient_id"]) == [None, "p"]
    assert list(index["official_split"]) == ["val", None]
    assert label_names(index) == ["x", "y"]
    np.testing.assert_array_equal(labels(index), np.array([[np.nan, np.nan], [1, np.nan]], np.float32))


def test_index_survives_parquet(tmp_path: Path) -> None:
    index = make_index([row("a.png", marks={"x": 1}), row("b.png", patient_id="p")], ["x"])
    index.to_parquet(tmp_path / "index.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "index.parquet"), index)


@pytest.mark.parametrize(
    ("rows", "names", "message"),
    [
        ([], ["x"], "no images"),
        ([row("a"), row("a")], ["x"], "twice or more .first: a"),
        ([row("a", marks={"x": 2})], ["x"], "a: label 'x' is 2; expected 0, 1 or unknown"),
        ([row("a", official_split="dev")], ["x"], "official split 'dev'; expected train, val, test or none"),
        ([row("a", patient_id=7)], ["x"], "a: patient_id is 7; expected text or none"),
        ([row("a", content_hash="beef")], ["x"], "expected 64 hex digits"),
        ([row("a", content_hash=None)], ["x"], "content_hash is None; expected text"),
        ([row("a")], ["x", "x"], "each once"),
        ([row("a")], [], "at least one"),
    ],
)
def test_what_breaks_the_contract_is_refused(
    rows: list[dict[str, Any]], names: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_index(rows, names)
    assert "\n" not in str(caught.value)


def test_list_images_leaves_out_what_is_not_one(tmp_path: Path) -> None:
    for name in (
        "b.PNG",
        "a.jpeg",
        "._a.jpeg",
        ".DS_Store",
        "notes.txt",
        "sub/c.tif",
        "__MACOSX/a.jpeg",
        ".git/d.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in list_images(tmp_path, recursive=False)] == ["a.jpeg", "b.PNG"]
    assert [p.name for p in list_images(tmp_path, recursive=True)] == ["a.jpeg", "b.PNG", "c.tif"]


def test_hashes_come_in_order_with_and_without_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{n}" for n in range(20)]
    for n, file in enumerate(files):
        file.write_bytes(bytes([n % 5]) * 1000)
    expected = [hashlib.sha256(bytes([n % 5]) * 1000).hexdigest() for n in range(20)]
    assert hash_files(files) == expected
    monkeypatch.setattr(index_module, "PROGRESS_ABOVE", 10)
    assert hash_files(files) == expected


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png: cannot be read"):
        hash_files([tmp_path / "gone.png"])
