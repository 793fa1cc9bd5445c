"""Any table of paths and labels, as spreadsheets and pandas really write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr.data.index import DatasetNotFound, labels
from cxr.data.table import Table
from cxr.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "sub/c.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(name.encode())
    return tmp_path / "images"


def table(csv: Path | None, **changes: Any) -> Table:
    values: dict[str, Any] = {
        "root": None,
        "path_column": "path",
        "label_columns": None,
        "label_column": "label",
        "patient_column": None,
        "split_column": None,
        "multi_label": False,
    }
    return Table(csv, **{**values, **changes})


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    (folder / "labels.csv").write_text(text, encoding=encoding)
    return folder / "labels.csv"


SINGLE = "path,label,patient,split\na.png,sick,007,train\nb.png,well,8,Validation\nsub/c.png,sick,,\n"


def test_single_label_by_name(images: Path) -> None:
    source = table(write(images, SINGLE), patient_column="patient", split_column="split")
    index = source.index()
    assert source.classes == ["sick", "well"]
    np.testing.assert_array_equal(labels(index), [[1, 0], [0, 1], [1, 0]])
    assert list(index["patient_id"]) == ["007", "8", None]
    assert list(index["official_split"]) == ["train", "val", None]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_what_spreadsheets_write(images: Path, encoding: str, separator: str) -> None:
    plain = table(write(images, SINGLE), patient_column="patient").index()
    odd = write(images, SINGLE.replace(",", separator).replace("\n", "\r\n"), encoding)
    pd.testing.assert_frame_equal(table(odd, patient_column="patient").index(), plain)


def test_quoted_separators_and_newlines(images: Path) -> None:
    text = '"path","label","a; b; c; d"\n"a.png","sick","one\ntwo, three"\n\n"b.png","well",""\n'
    assert len(table(write(images, text)).index()) == 2


def test_absolute_and_windows_paths(images: Path) -> None:
    index = table(write(images, f"path,label\n{images}/a.png,x\nsub\\c.png,y\n./b.png,y\n")).index()
    assert list(index["image_id"]) == ["a.png", "b.png", "sub/c.png"]


def test_root_apart_from_the_table(images: Path, tmp_path: Path) -> None:
    assert len(table(write(tmp_path, SINGLE), root=images).index()) == 3


def test_multi_label_columns_with_unknown(images: Path) -> None:
    text = "path;A;B\na.png;1;0\nb.png;;-1\nsub/c.png;1,0;true\n"
    source = table(write(images, text), label_columns=["A", "B"], label_column=None, multi_label=True)
    np.testing.assert_array_equal(labels(source.index()), [[1, 0], [np.nan, np.nan], [1, 1]])


def test_multi_label_joined(images: Path) -> None:
    text = "path,label\na.png,Mass|Edema\nb.png,\nsub/c.png,Edema\n"
    source = table(write(images, text), multi_label=True, classes=["Mass", "Edema"])
    np.testing.assert_array_equal(labels(source.index()), [[1, 1], [0, 0], [0, 1]])


def test_classes_pick_rows(images: Path) -> None:
    index = table(write(images, SINGLE), classes=["well"]).index()
    assert list(index["image_id"]) == ["b.png"]


def test_parquet_equals_csv(images: Path) -> None:
    frame = pd.DataFrame({"path": ["a.png", "b.png"], "A": [1, 0], "B": [0.0, 1.0], "who": [1.0, np.nan]})
    frame.to_parquet(images / "t.parquet")
    frame.to_csv(images / "t.csv", index=False)
    settings: dict[str, Any] = {"label_columns": ["A", "B"], "label_column": None}
    index = table(images / "t.parquet", patient_column="who", **settings).index()
    assert list(index["patient_id"]) == ["1", None]
    same = table(images / "t.csv", **settings).index()
    np.testing.assert_array_equal(labels(index), labels(same))


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (
            "path,label\na.png,x\nz.png,y\n",
            {},
            "row 3, column 'path' is 'z.png'; expected a file .*1 of 2 rows",
        ),
        ("path,label\na.png,x\na.png,y\n", {}, "row 3.*each path once; it is also in row 2"),
        ("path,label\na.png,\n", {}, "row 2, column 'label' is ''; expected a class name"),
        ("path,label\n,x\n", {}, "row 2, column 'path' is ''; expected a path"),
        ("path,labels\na.png,x\n", {}, "no column 'label' .data.label_column.; did you mean 'labels'"),
        ("path,label\n", {}, "no rows below the header"),
        ("", {}, "empty; expected a header"),
        ("path,label\na.png,x,y\n", {}, "row 2 has 3 cells; expected 2"),
        ("path,label,label\na.png,x,y\n", {}, "column 'label' occurs more than once"),
        (
            "path,label,s\na.png,x,fold1\n",
            {"split_column": "s"},
            "row 2, column 's' is 'fold1'; expected train",
        ),
        ("path,label\na.png,x\n", {"classes": ["y"]}, "has no label 'y'"),
        (
            "path,A,B\na.png,1,maybe\n",
            {"label_columns": ["A", "B"], "label_column": None},
            "row 2, column 'B' is 'maybe'; expected 1, 0 or blank",
        ),
        (
            "path,A,B\na.png,1,0\nb.png,1,1\n",
            {"label_columns": ["A", "B"], "label_column": None},
            "row 3 has 2 labels set .* data.multi_label=true",
        ),
    ],
)
def test_mistakes_name_file_row_and_column(
    images: Path, text: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        table(write(images, text), **changes).index()
    assert "labels.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_kind_of_label_column() -> None:
    for changes in ({"label_column": None}, {"label_columns": ["A"]}):
        with pytest.raises(UserError, match=r"either data\.label_columns"):
            table(None, **changes)


def test_not_a_table(images: Path) -> None:
    (images / "broken.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match="not a parquet file"):
        table(images / "broken.parquet").index()
    (images / "latin.csv").write_bytes("path,label\na.png,öd\n".encode("latin-1"))
    with pytest.raises(UserError, match="byte 17 is not UTF-8"):
        table(images / "latin.csv").index()
    with pytest.raises(UserError, match="found a folder"):
        table(images).index()


def test_no_location(images: Path) -> None:
    for csv in (None, images / "nowhere.csv"):
        with pytest.raises(DatasetNotFound, match=r"set data\.csv="):
            table(csv).index()
    with pytest.raises(DatasetNotFound, match=r"set data\.root="):
        table(write(images, SINGLE), root=images / "nowhere").index()
