"""Splits of any index: what every one of them promises, on tables that hypothesis draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cxr.data.grouping import groups_of
from cxr.data.listing import draw
from cxr.data.split import Split, holdout, kfold, official, overlaps, patient, stratified
from cxr.errors import UserError

FAST = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much],
)
SIZE = st.one_of(st.integers(0, 12), st.floats(0, 0.5, allow_nan=False))


@st.composite
def indexes(draw_: st.DrawFn, official_split: bool = False) -> pd.DataFrame:
    """4 to 40 images of 1 to 3 labels (several, none or unknown ones too), patients and files that recur."""
    n = draw_(st.integers(4, 40))
    column = lambda values: draw_(st.lists(values, min_size=n, max_size=n))  # noqa: E731
    patients = column(st.one_of(st.none(), st.sampled_from([f"p{k}" for k in range(15)])))
    hashes = column(st.one_of(st.none(), st.none(), st.integers(0, 60)))
    names = [f"label:{name}" for name in "abc"[: draw_(st.integers(1, 3))]]
    values = st.sampled_from([0.0, 1.0, 1.0, float("nan")])
    parts = column(st.sampled_from(["train", "train", "val", "test", None])) if official_split else [None] * n
    return pd.DataFrame(
        {
            "image_id": [f"i{k:03d}" for k in range(n)],
            **{name: np.float32(column(values)) for name in names},
            "patient_id": pd.Series(patients, dtype=object),
            "official_split": pd.Series(parts, dtype=object),
            "content_hash": [f"{1000 + k if h is None else h:064x}" for k, h in enumerate(hashes)],
        }
    )


def made(make: Callable[[], Split]) -> Split:
    """Return the split; an index of which none can be made is refused in a line, and is not looked at further."""
    try:
        return make()
    except UserError as error:
        assert str(error).strip() and "\n" not in str(error)
        assume(False)
        raise


def rows_of(split: Split) -> list[int]:
    for part in split.parts.values():
        assert part.dtype == np.int64 and (np.diff(part) > 0).all()
    return sorted(np.concatenate(list(split.parts.values())).tolist())


def whole(index: pd.DataFrame, split: Split, *columns: str) -> None:
    for column in columns:
        assert overlaps(index, split.parts, column=column) == []


@FAST
@given(index=indexes(), val=SIZE, test=SIZE, seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("group", ["patient", "image"])
def test_a_drawn_split(group: Any, index: pd.DataFrame, val: float, test: float, seed: int) -> None:
    split = made(lambda: stratified(index, val=val, test=test, group=group, seed=seed))
    assert rows_of(split) == list(range(len(index)))
    whole(index, split, "content_hash", *(["patient_id"] if group == "patient" else []))
    largest = int(np.bincount(groups_of(index, patients=group == "patient")).max())
    for part, wanted in {"val": val, "test": test}.items():
        asked = (
            max(1, round(wanted * len(index))) if isinstance(wanted, float) and wanted > 0 else int(wanted)
        )
        assert abs(len(split.parts[part]) - asked) <= largest, (part, asked, largest)
        assert asked > 0 or not len(split.parts[part])
    again = stratified(index.copy(), val=val, test=test, group=group, seed=seed)
    assert again.fingerprint == split.fingerprint and again.name == split.name
    if group == "patient" and index["patient_id"].notna().any():
        same = patient(index, val=val, test=test, seed=seed)
        assert same.fingerprint == split.fingerprint


@FAST
@given(
    index=indexes(),
    folds=st.integers(2, 5),
    val=st.floats(0, 0.4),
    seed=st.integers(0, 99),
    limit=st.none() | st.integers(0, 5),
)
def test_folds(index: pd.DataFrame, folds: int, val: float, seed: int, limit: int | None) -> None:
    most = None if limit is None else {"a": limit}
    splits = [
        made(lambda k=k: kfold(index, folds=folds, fold=k, val=val, max_test=most, seed=seed))
        for k in range(folds)
    ]  # type: ignore[misc]
    for split in splits:
        assert rows_of(split) == list(range(len(index)))
        whole(index, split, "content_hash", "patient_id")
        assert split.kfold == splits[0].kfold
        assert split.kfold is not None and split.kfold["folds"] == folds
    tested = np.concatenate([split.parts["test"] for split in splits])
    assert len(np.unique(tested)) == len(tested), "an image is tested twice"
    if limit is None:
        assert sorted(tested.tolist()) == list(range(len(index))), "an image is never tested"


@FAST
@given(index=indexes(official_split=True), order=st.randoms(use_true_random=False))
def test_a_shipped_split_does_not_depend_on_the_order_of_rows(index: pd.DataFrame, order: Any) -> None:
    split = made(lambda: official(index, val=None, on_overlap="report", seed=0))
    for part, rows in split.parts.items():
        assert (index["official_split"].iloc[rows] == part).all()
    assert rows_of(split) == np.flatnonzero(index["official_split"].notna()).tolist()
    rows = list(range(len(index)))
    order.shuffle(rows)
    assert (
        official(index.iloc[rows].reset_index(drop=True), val=None, on_overlap="report", seed=0).fingerprint
        == split.fingerprint
    )
    try:
        whole(index, official(index, val=None, on_overlap="refuse", seed=0), "content_hash", "patient_id")
    except UserError:
        assert split.warnings, "refused, and nothing is to be reported"


@FAST
@given(
    index=indexes(),
    ids=st.lists(st.integers(0, 45), min_size=1, max_size=12),
    val=SIZE,
    seed=st.integers(0, 99),
)
def test_a_list_of_test_images(index: pd.DataFrame, ids: list[int], val: float, seed: int) -> None:
    names = [f"i{k:03d}" for k in ids]
    split = made(lambda: holdout(index, test_ids=names, csv=None, val=val, on_overlap="report", seed=seed))
    assert rows_of(split) == list(range(len(index)))
    assert set(index["image_id"].iloc[split.parts["test"]]) == set(names)
    val_and_train = {part: rows for part, rows in split.parts.items() if part != "test"}
    assert overlaps(index, val_and_train, column="patient_id") == []
    again = holdout(index, test_ids=names[::-1] * 2, csv=None, val=val, on_overlap="report", seed=seed)
    assert again.fingerprint == split.fingerprint


@FAST
@given(
    names=st.lists(st.text(max_size=4), min_size=1, max_size=20, unique=True),
    few=st.integers(0, 20),
    more=st.integers(0, 20),
    seed=st.integers(0, 9),
)
def test_a_larger_draw_only_adds(names: list[str], few: int, more: int, seed: int) -> None:
    groups = {"a": list(range(len(names)))}
    less = draw(names, groups, {"a": few}, seed)
    assert len(less) == min(few, len(names))
    assert set(less) <= set(draw(names, groups, {"a": few + more}, seed))
    back = draw(names[::-1], groups, {"a": few}, seed)
    assert {names[row] for row in less} == {names[::-1][row] for row in back}
