"""Splits: pure functions from the index to rows for training, validation and test.

Whatever draws parts keeps groups whole: images that share a patient id or a content hash,
directly or through others, are one group. Sizes are a fraction (float in [0, 1)) or a count
of images (int); as groups stay whole they are met as nearly as that allows, with the share
of every class in every part near its share overall.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.data.grouping import allot, fold_rows, groups_of, surplus
from cxr.data.index import label_names, labels
from cxr.errors import UserError, did_you_mean
from cxr.files import digest

__all__ = [
    "PARTS",
    "Split",
    "check_disjoint",
    "fingerprint",
    "holdout",
    "kfold",
    "official",
    "overlaps",
    "patient",
    "stratified",
]

PARTS = ("train", "val", "test")
Rows = npt.NDArray[np.int64]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Row positions of an index, sorted, by part (train, val, test).

    `fingerprint` names exactly which image is where; `warnings` belong into the record of
    every run on this split. Of a fold, `kfold` names its cross-validation, alike for all its
    folds: their count ("folds"), "name" and "fingerprint" (which image is tested in which).
    """

    parts: dict[str, Rows]
    fingerprint: str
    name: str
    warnings: tuple[str, ...] = ()
    kfold: dict[str, Any] | None = None


def official(
    index: pd.DataFrame, *, val: float | int | None, on_overlap: Literal["refuse", "report"], seed: int
) -> Split:
    """Take the split that the data set ships.

    `val` None keeps the shipped validation part; else validation is drawn anew from the
    shipped training and validation parts together (a fraction is one of these). Where
    patients or files cross the shipped parts, `on_overlap` refuses with the list or reports.
    """
    shipped = index["official_split"]
    if not shipped.isin(PARTS).any():
        raise UserError(
            "this data set ships no split; expected official_split to be known: set split=patient"
        )
    parts = {part: np.flatnonzero(shipped == part).astype(np.int64) for part in PARTS}
    warnings = []
    if n_without := int((~shipped.isin(PARTS)).sum()):
        warnings.append(f"{n_without} images are in no part of the shipped split and are left out")
    if val is not None:
        rest = np.union1d(parts["train"], parts["val"])
        parts |= _draw(index, rest, {"val": val}, groups_of(index), seed)
    name = "official" if val is None else f"official(val={val},seed={seed})"
    return _made(index, parts, name, on_overlap=on_overlap, warnings=warnings)


def patient(index: pd.DataFrame, *, val: float | int, test: float | int, seed: int) -> Split:
    """Draw parts that share no patient and no file; refuses an index without patient ids."""
    if index["patient_id"].isna().all():
        raise UserError("this data set has no patient ids, which split=patient needs: set split=stratified")
    rows = np.arange(len(index), dtype=np.int64)
    parts = _draw(index, rows, {"val": val, "test": test}, groups_of(index), seed)
    return _made(index, parts, f"patient(val={val},test={test},seed={seed})")


def stratified(
    index: pd.DataFrame, *, val: float | int, test: float | int, group: Literal["patient", "image"], seed: int
) -> Split:
    """Draw parts by image where there are no patient ids, or where asked to.

    `group` patient keeps known patients whole; image lets them cross (as papers often do),
    which the split's warnings then say. Identical files stay together in both.
    """
    by_patient = group == "patient"
    rows = np.arange(len(index), dtype=np.int64)
    parts = _draw(index, rows, {"val": val, "test": test}, groups_of(index, patients=by_patient), seed)
    name = f"stratified(val={val},test={test},group={group},seed={seed})"
    return _made(index, parts, name, on_overlap="refuse" if by_patient else "report")


def kfold(
    index: pd.DataFrame,
    *,
    folds: int,
    fold: int,
    val: float | int,
    max_test: dict[str, int] | None,
    seed: int,
) -> Split:
    """Take fold `fold` of `folds` as test; validation is drawn from the rest (a fraction is one of it).

    Folds keep patients and identical files together and are stratified by class (by the
    rarest label an image has, where it may have several); scikit-learn's StratifiedGroupKFold.
    `max_test` leaves at most so many test images of a class: surplus patients, drawn by `seed`,
    go to the rest, whole, and only those of whom no image is of a class that may stay.
    """
    if folds < 2:
        raise UserError(f"split.folds is {folds}; expected at least 2: set split.folds=5")
    if not 0 <= fold < folds:
        raise UserError(f"split.fold is {fold}; expected 0 to {folds - 1}: set split.fold=0")
    groups = groups_of(index)
    if (n_groups := int(groups.max()) + 1) < folds:
        raise UserError(f"{n_groups} groups of images cannot make {folds} folds: lower split.folds")
    try:
        pairs = fold_rows(groups, labels(index), folds, seed)
    except ValueError as error:
        raise UserError(f"{folds} folds cannot be made ({error}): lower split.folds") from None
    rest, test = pairs[fold]
    name = f"kfold({fold}/{folds},val={val},seed={seed})"
    found = (labels(index) == 1).sum(axis=0)
    warnings = [
        f"{n} images of {c} for {folds} folds: some test none"
        for c, n in zip(label_names(index), found, strict=True)
        if n < folds
    ]
    if max_test:
        limits = _limits(max_test, label_names(index), len(index))
        gone = surplus(groups[test], labels(index)[test], limits, seed)
        rest, test = np.union1d(rest, test[gone]), test[~gone]
        name = f"{name[:-1]},max_test={digest(max_test, 8)})"
        left = (labels(index)[test] == 1).sum(axis=0)
        warnings += [
            f"{n} test images of {c}, {most} wanted: they share patients with other classes"
            for c, n, most in zip(label_names(index), left, limits, strict=True)
            if n > most
        ]
    parts = _draw(index, rest, {"val": val}, groups, seed) | {"test": test}
    tested = fingerprint(index, {str(number): rows for number, (_, rows) in enumerate(pairs)})
    family = name.replace(f"({fold}/", "(", 1)
    whole = {"folds": folds, "name": family, "fingerprint": digest([tested, family])}
    return replace(_made(index, parts, name, warnings=warnings), kfold=whole)


def holdout(
    index: pd.DataFrame,
    *,
    test_ids: list[str] | None,
    csv: Path | None,
    val: float | int,
    on_overlap: Literal["refuse", "report"],
    seed: int,
) -> Split:
    """Freeze a list of images as test: `test_ids`, or the column image_id of `csv`.

    Validation is drawn from the rest (a fraction is one of it). Where patients or files of
    the list are in the rest, `on_overlap` refuses with the list or reports.
    """
    if (test_ids is None) == (csv is None):
        raise UserError("split=holdout needs the test images once: set split.csv=FILE or split.test_ids=[…]")
    ids = list(test_ids) if test_ids is not None else _ids_of(Path(str(csv)))
    known = {image_id: row for row, image_id in enumerate(index["image_id"])}
    unknown = [i for i in ids if i not in known]
    if unknown:
        hint = did_you_mean(unknown[0], known) if len(known) < 20_000 else ""
        raise UserError(
            f"{len(unknown)} of {len(ids)} test images are not in the index, the first is "
            f"'{unknown[0]}'{hint}: "
            f"mend split.csv or split.test_ids"
        )
    test = np.unique(np.array([known[i] for i in ids], dtype=np.int64))
    rest = np.setdiff1d(np.arange(len(index), dtype=np.int64), test)
    parts = _draw(index, rest, {"val": val}, groups_of(index), seed) | {"test": test}
    name = f"holdout({digest(sorted(ids), 8)},val={val},seed={seed})"
    return _made(index, parts, name, on_overlap=on_overlap)


def fingerprint(index: pd.DataFrame, parts: dict[str, Rows]) -> str:
    """Return a digest of which image (by id and content) is in which part."""
    ids, hashes = index["image_id"].to_numpy(), index["content_hash"].to_numpy()
    pairs = [(part, row) for part, rows in parts.items() for row in rows]
    return digest(sorted([str(ids[row]), str(hashes[row]), part] for part, row in pairs))


def overlaps(index: pd.DataFrame, parts: dict[str, Rows], *, column: str) -> list[str]:
    """Return the values of `column` (patient_id, content_hash) that are in more than one part, sorted."""
    known = [set(index[column].iloc[rows].dropna()) for rows in parts.values()]
    crossing: set[Any] = set()
    for at, here in enumerate(known):
        for there in known[at + 1 :]:
            crossing |= here & there
    return sorted(str(value) for value in crossing)


def check_disjoint(index: pd.DataFrame, split: Split, *, patients: bool = True) -> None:
    """Raise `UserError` with the list where a row, a file or (if `patients`) a patient is in two parts."""
    problems = _crossings(index, split.parts, patients=patients)
    if problems:
        raise UserError(
            f"split {split.name}: {'; '.join(problems)}; expected none in two parts: set split=patient, "
            f"or split.on_overlap=report where the split is given"
        )


def _crossings(index: pd.DataFrame, parts: dict[str, Rows], *, patients: bool) -> list[str]:
    problems = []
    together = np.concatenate([parts[p] for p in parts])
    if len(np.unique(together)) != len(together):
        problems.append("an image is in two parts")
    columns = {"content_hash": "files (by content)", **({"patient_id": "patients"} if patients else {})}
    for column, what in columns.items():
        values = overlaps(index, parts, column=column)
        if values:
            shown = [value[:16] for value in values[:10]] if column == "content_hash" else values[:10]
            more = f", … ({len(values)} in all)" if len(values) > 10 else ""
            problems.append(f"{len(values)} {what} are in more than one part: {', '.join(shown)}{more}")
    return problems


def _made(
    index: pd.DataFrame,
    parts: dict[str, Rows],
    name: str,
    *,
    on_overlap: Literal["refuse", "report"] = "refuse",
    warnings: Sequence[str] = (),
) -> Split:
    parts = {part: np.sort(parts.get(part, np.empty(0, np.int64))) for part in PARTS}
    if not len(parts["train"]):
        raise UserError(f"split {name} leaves no training images: lower split.val or split.test")
    problems = _crossings(index, parts, patients=True)
    reported = problems if on_overlap == "report" else []
    split = Split(parts, fingerprint(index, parts), name, (*warnings, *reported))
    if on_overlap == "refuse":
        check_disjoint(index, split)
    for warning in split.warnings:
        log.warning("split %s: %s", name, warning)
    return split


def _draw(
    index: pd.DataFrame, rows: Rows, wanted: dict[str, float | int], groups: Rows, seed: int
) -> dict[str, Rows]:
    """Deal `rows` out to the wanted parts; what is left is train."""
    sizes = {part: _size(value, len(rows), part) for part, value in wanted.items()}
    if sum(sizes.values()) >= len(rows):
        asked = " + ".join(f"{part} {n}" for part, n in sizes.items())
        raise UserError(
            f"{asked} of {len(rows)} images leaves none to train on: lower split.val or split.test"
        )
    sizes = {"train": len(rows) - sum(sizes.values()), **sizes}
    part_of = allot(groups[rows], labels(index)[rows], list(sizes.values()), seed)
    parts = {part: rows[part_of == number] for number, part in enumerate(sizes)}
    for part, n in sizes.items():
        if n and not len(parts[part]):
            n_groups = len(np.unique(groups[rows]))
            raise UserError(
                f"split.{part}: gets no image, expected about {n}: the {len(rows)} images are {n_groups} group(s) that "
                f"share a patient or a file and stay whole; lower split.val and split.test, or set them to 0"
            )
    return parts


def _limits(wanted: dict[str, int], classes: list[str], unlimited: int) -> Rows:
    """Return the largest number of test images (L,) of every class."""
    for name, n in wanted.items():
        if name not in classes:
            raise UserError(f"split.max_test names the class '{name}'{did_you_mean(name, classes)}")
        if n < 0:
            raise UserError(f"split.max_test.{name} is {n}; expected 0 or more")
    return np.array([wanted.get(name, unlimited) for name in classes], dtype=np.int64)


def _size(value: float | int, n: int, part: str) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not 0 <= value < 1) or value < 0:
        raise UserError(
            f"split.{part} is {value}; expected a fraction in [0, 1) or a count: set split.{part}=0.1"
        )
    return max(1, round(value * n)) if isinstance(value, float) and value > 0 else int(value)


def _ids_of(csv: Path) -> list[str]:
    try:
        table = pd.read_csv(csv.expanduser(), dtype=str)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{csv} cannot be read ({error}); expected a CSV with image_id: mend split.csv"
        ) from None
    if "image_id" not in table:
        raise UserError(f"{csv} has columns {list(table)}; expected image_id: mend split.csv")
    return [str(i) for i in table["image_id"].dropna()]
