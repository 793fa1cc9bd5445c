"""Indexes of any folder and table: every picture once, labels right, whatever it is called and however the disk lists it."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr.data.folder import Folder
from cxr.data.table import Table
from cxr.errors import UserError

FAST = settings(
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="/\0")
NAME = st.one_of(
    st.sampled_from(
        [
            "a",
            "A",
            "b c",
            "é",
            "é",
            "ß",
            "SS",
            "日本",
            "a\nb",
            'q"u',
            "x,y",
            "s;t",
            "-",
            "#",
            "%2e",
            "CON",
            "${a}",
            "~",
        ]
    ),
    st.text(LETTERS, min_size=1, max_size=12),
).filter(lambda name: not name.startswith(".") and name not in ("masks", "__MACOSX"))
SUFFIX = st.sampled_from([".png", ".PNG", ".jpeg", ".tif"])
PLACE = st.tuples(NAME, st.lists(NAME, max_size=4), NAME, SUFFIX)  # class, folders between, name, suffix
TREE = st.lists(PLACE, min_size=1, max_size=12)


def grow(root: Path, tree: list[tuple[str, list[str], str, str]], tmp: str) -> dict[str, str]:
    """Write a file of its own bytes at each place that can be; return image_id → class."""
    found: dict[str, str] = {}
    for label, between, name, suffix in tree:
        image_id = "/".join([label, *between, name + suffix])
        try:
            (root / image_id).parent.mkdir(parents=True, exist_ok=True)
            (root / image_id).write_bytes(f"the picture {image_id}".encode())
        except OSError:  # a file where a folder is asked for, or a name too long for the disk
            continue
        found[image_id] = label
    return found


def check(index: pd.DataFrame, expected: dict[str, str]) -> None:
    """Hold what every index promises, and that it has these very pictures."""
    assert list(index["image_id"]) == sorted(expected) and list(index["path"]) == sorted(expected)
    classes = [c for c in index if str(c).startswith("label:")]
    assert classes == [f"label:{c}" for c in sorted(set(expected.values()))]
    for image_id, *values in index[["image_id", *classes]].itertuples(index=False):
        assert [float(f"label:{expected[image_id]}" == c) for c in classes] == values
    assert index["content_hash"].is_unique and index["content_hash"].str.fullmatch("[0-9a-f]{64}").all()


@FAST
@given(tree=TREE)
def test_a_folder(
    tree: list[tuple[str, list[str], str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    here = tmp_path_factory.mktemp("index")
    expected = grow(here / "one", tree, "a")
    if not expected:
        return
    folders = {p.name.lower() for p in (here / "one").iterdir()}
    if folders <= {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}:
        return
    index = Folder(here / "one", None, None).index()
    classes = {p.name for p in (here / "one").iterdir() if p.is_dir()}
    assert classes == set(expected.values())
    check(index, expected)
    # Written the other way round, a disk lists them in another order.
    grow(
        here / "two",
        [
            place
            for place in reversed(tree)
            if "/".join([place[0], *place[1], place[2] + place[3]]) in expected
        ],
        "b",
    )
    pd.testing.assert_frame_equal(Folder(here / "two", None, None).index(), index)


@FAST
@given(tree=TREE, order=st.randoms(use_true_random=False), form=st.sampled_from([",", ";", "\t", "parquet"]))
def test_a_table(
    tree: list[tuple[str, list[str], str, str]],
    order: Any,
    form: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    here = tmp_path_factory.mktemp("table")
    expected = grow(here, tree, "a")
    rows = list(expected.items())
    order.shuffle(rows)
    file = here / ("table.parquet" if form == "parquet" else "table.csv")
    if form == "parquet":
        pd.DataFrame(rows, columns=["path", "label"]).to_parquet(file)
    else:
        with file.open("w", encoding="utf-8", newline="") as text:
            csv.writer(text, delimiter=form).writerows([["path", "label"], *rows])
    source = Table(file, here, "path", None, "label", None, None, False)
    # Cells are stripped and a backslash is a slash: what is called otherwise is missing, or twice, and that is said.
    plain = all(
        cell == cell.strip() and "\\" not in cell and "//" not in cell and ".." not in cell.split("/")
        for row in rows
        for cell in row
    )
    try:
        index = source.index()
    except UserError as error:
        assert not plain or not rows, error
        return
    if plain:
        check(index, expected)


@FAST
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    form=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_text_is_a_table_or_refused(text: str, form: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(("path,label\n" + text).encode(form))
    try:
        Table(tmp_path / "t.csv", None, "path", None, "label", None, None, False).index()
    except UserError as error:
        assert str(error).strip()


def test_names_that_differ_in_case_alone_and_forms_of_a_letter_are_different_files(tmp_path: Path) -> None:
    names = ["a.png", "A.png", "é.png", "é.png"]
    for name in names:
        (tmp_path / "c").mkdir(exist_ok=True)
        (tmp_path / "c" / name).write_bytes(name.encode())
    there = {p.name for p in (tmp_path / "c").iterdir()}
    index = Folder(tmp_path, None, None).index()
    assert set(index["image_id"]) == {f"c/{name}" for name in there} and len(index) == len(there)


def test_a_name_that_is_no_text_is_refused_and_told(tmp_path: Path) -> None:
    """A disk takes any bytes as a name; parquet, JSON and a report take text."""
    (tmp_path / "c").mkdir()
    try:
        Path(os.fsdecode(os.fsencode(tmp_path / "c") + b"/p\xff.png")).write_bytes(b"1")
    except OSError:
        pytest.skip("this disk takes names in UTF-8 only")
    with pytest.raises(UserError, match="not UTF-8; expected a name that is; rename it") as error:
        Folder(tmp_path, None, None).index()
    assert "\n" not in str(error.value) and str(error.value).encode()


@FAST
@given(
    values=st.lists(
        st.sampled_from(["1", "0", "1.0", "0,0", "TRUE", "no", "", "nan", "-1", "2", "x", " 1 "]),
        min_size=1,
        max_size=6,
    )
)
def test_cells(values: list[str], tmp_path: Path) -> None:
    known = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "no": 0, "": np.nan, "nan": np.nan, "-1": np.nan}
    for i in range(len(values)):
        (tmp_path / f"{i}.png").write_bytes(str(i).encode())
    out = io.StringIO()
    csv.writer(out).writerows([["path", "a"], *([f"{i}.png", value] for i, value in enumerate(values))])
    (tmp_path / "t.csv").write_text(out.getvalue())
    words = [value.strip().lower().replace(",", ".") for value in values]
    source = Table(tmp_path / "t.csv", None, "path", ["a"], None, None, None, True)
    if any(word not in known for word in words):
        with pytest.raises(UserError, match=r"row \d+, column 'a'.*expected 1, 0 or blank"):
            source.index()
    else:
        np.testing.assert_array_equal(source.index()["label:a"], np.float32([known[word] for word in words]))
