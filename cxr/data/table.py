"""Any table of (path, labels, optional patient, optional split): CSV or parquet.

Cells: 1, 0, true, false; blank, nan and -1 (CheXpert's "uncertain") mean unknown. CSV files
from spreadsheets are read as they come: byte-order mark, `;` or tab for `,`, decimal comma.
Row numbers in messages count as a spreadsheet does: the header is row 1.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from cxr.data.folder import SPLIT_NAMES
from cxr.data.index import LABEL, FileSource, make_index, require_path
from cxr.errors import UserError, did_you_mean
from cxr.files import read_parquet

__all__ = ["Table", "read_table"]

JOINT = "|"  # between labels in one cell, as in ChestX-ray14's "Finding Labels"
POSITIVE = frozenset({"1", "1.0", "true", "yes"})
NEGATIVE = frozenset({"0", "0.0", "false", "no"})
UNKNOWN = frozenset({"", "nan", "na", "none", "null", "-1", "-1.0"})


class Table(FileSource):
    """The rows of a table as index rows; single- or multi-label."""

    name = "table"
    published = "it is any CSV or parquet file with one row per image"

    def __init__(
        self,
        csv: Path | None,
        root: Path | None,
        path_column: str,
        label_columns: list[str] | None,
        label_column: str | None,
        patient_column: str | None,
        split_column: str | None,
        multi_label: bool,
        classes: list[str] | None = None,
    ) -> None:
        """Name the table, the folder that its paths start from (None: the table's) and its columns.

        Labels lie either in `label_columns`, one 1/0 column each, or in `label_column`, which
        holds the class name (with `multi_label`: names joined by `|`). `classes` picks and orders
        the labels; None takes all, in the order of `label_columns`, else sorted. Rows without
        a picked class are left out if single-label; multi-label ones stay, all zero.
        """
        super().__init__(root)
        self.csv = None if csv is None else Path(csv)
        if (label_columns is None) == (label_column is None):
            raise UserError(
                "expected either data.label_columns=[a,b] or data.label_column=name, the other null"
            )
        if label_columns is not None and (not label_columns or len(set(label_columns)) != len(label_columns)):
            raise UserError(f"data.label_columns={label_columns}: expected at least one column, each once")
        if classes is not None and (not classes or len(set(classes)) != len(classes)):
            raise UserError(f"data.classes={classes}: expected null (all) or at least one label, each once")
        self.path_column, self.label_columns, self.label_column = path_column, label_columns, label_column
        self.patient_column, self.split_column, self.multi_label = patient_column, split_column, multi_label
        self._classes = classes

    def file(self) -> Path:
        """Return the table's own path; `DatasetNotFound` if there is none."""
        return require_path(self.csv, self.name, "data.csv", self.published)

    def folder(self) -> Path:
        """Return the folder that the paths in the table start from."""
        return self.file().parent if self.root is None else super().folder()

    @cached_property
    def classes(self) -> list[str]:
        """The labels asked for, else all."""
        known = self.label_columns
        if known is None:
            known = sorted({name for names in self._names(self._table) for name in names})
        for label in self._classes or []:
            if label not in known:
                hint = did_you_mean(label, known)
                raise UserError(f"data.classes: {self.file()} has no label '{label}'{hint}")
        return list(known if self._classes is None else self._classes)

    def index(self) -> pd.DataFrame:
        """List the table's images; reads every file once, for its hash."""
        folder, table, classes = self.folder(), self._table, self.classes
        by_name = self.label_column is not None
        targets = self._targets_by_name(table) if by_name else self._targets_by_column(table)
        keep = np.arange(len(table)) if self.multi_label else np.flatnonzero((targets == 1).any(axis=1))
        paths = [self._path(folder, i, cell) for i, cell in enumerate(table[self.path_column])]
        self._check_paths(folder, paths, set(keep.tolist()))
        patients = self._optional(table, self.patient_column)
        splits = [self._split(i, cell) for i, cell in enumerate(self._optional(table, self.split_column))]
        if not len(keep):
            raise UserError(
                f"{self.file()}: no row has one of {classes}; expected at least one: mend data.classes"
            )
        hashes = self.hashes([folder / paths[i] for i in keep])
        rows = [
            {
                "image_id": paths[i],
                **{LABEL + name: float(value) for name, value in zip(classes, targets[i], strict=True)},
                "patient_id": patients[i],
                "official_split": splits[i],
                "content_hash": content,
            }
            for i, content in zip(keep.tolist(), hashes, strict=True)
        ]
        return make_index(rows, classes)

    @cached_property
    def _table(self) -> pd.DataFrame:
        file = self.file()
        table = read_table(file)
        known = [str(column) for column in table.columns]
        asked = {"path_column": self.path_column, "label_column": self.label_column}
        asked |= {"patient_column": self.patient_column, "split_column": self.split_column}
        pairs = [*asked.items(), *(("label_columns", column) for column in self.label_columns or [])]
        for parameter, column in pairs:
            if column is not None and column not in known:
                hint = did_you_mean(column, known)
                raise UserError(f"{file}: no column '{column}' (data.{parameter}){hint}")
        if table.empty:
            raise UserError(f"{file}: no rows below the header; expected one per image")
        return table

    def _fail(self, row: int, column: str | None, cell: object, expected: str) -> UserError:
        return UserError(f"{self.file()}: row {row + 2}, column '{column}' is '{cell}'; expected {expected}")

    def _names(self, table: pd.DataFrame) -> list[list[str]]:
        """The label names in each row's `label_column`."""
        found = []
        for i, cell in enumerate(table[self.label_column]):
            names = [n.strip() for n in cell.split(JOINT)] if self.multi_label else [cell]
            names = [n for n in names if n]
            if not names and not self.multi_label:
                raise self._fail(i, self.label_column, cell, "a class name")
            found.append(names)
        return found

    def _targets_by_name(self, table: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float32]]:
        rows = self._names(table)
        return np.array([[float(c in names) for c in self.classes] for names in rows], dtype=np.float32)

    def _targets_by_column(self, table: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float32]]:
        columns = self.label_columns or []
        values = np.stack([[self._value(i, c, x) for i, x in enumerate(table[c])] for c in columns], axis=1)
        several = np.flatnonzero((values == 1).sum(axis=1) != 1)
        if several.size and not self.multi_label:
            i = int(several[0])
            n = int((values[i] == 1).sum())
            raise UserError(
                f"{self.file()}: row {i + 2} has {n} labels set among {columns}; "
                "expected exactly one, or set data.multi_label=true"
            )
        return values[:, [columns.index(c) for c in self.classes]].astype(np.float32)

    def _value(self, row: int, column: str, cell: str) -> float:
        word = cell.lower().replace(",", ".")
        if word in POSITIVE or word in NEGATIVE:
            return float(word in POSITIVE)
        if word in UNKNOWN:
            return float("nan")
        raise self._fail(row, column, cell, "1, 0 or blank")

    def _path(self, folder: Path, row: int, cell: str) -> str:
        """One path relative to `folder`, with `/`; refuses one that leads out of it."""
        if not cell:
            raise self._fail(row, self.path_column, cell, "a path")
        path = PurePosixPath(cell.replace("\\", "/"))
        start = PurePosixPath(folder.as_posix())
        inside = path.relative_to(start) if path.is_absolute() and path.is_relative_to(start) else path
        if inside.is_absolute() or ".." in inside.parts:
            raise self._fail(
                row, self.path_column, cell, f"a path below {folder}; set data.root to the folder above both"
            )
        return str(inside)

    def _check_paths(self, folder: Path, paths: list[str], wanted: set[int]) -> None:
        first: dict[str, int] = {}
        missing: list[int] = []
        for i, path in enumerate(paths):
            if path in first:
                expected = f"each path once; it is also in row {first[path] + 2}"
                raise self._fail(i, self.path_column, path, expected)
            first[path] = i
            if i in wanted and not _is_file(folder / path):
                missing.append(i)
        if missing:
            i, n = missing[0], f"{len(missing)} of {len(wanted)}"
            expected = f"a file below {folder} ({n} rows have none); set data.root"
            raise self._fail(i, self.path_column, paths[i], expected)

    def _optional(self, table: pd.DataFrame, column: str | None) -> list[str | None]:
        return [None] * len(table) if column is None else [cell or None for cell in table[column]]

    def _split(self, row: int, cell: str | None) -> str | None:
        if cell is None:
            return None
        if cell.lower() not in SPLIT_NAMES:
            raise self._fail(row, self.split_column, cell, "train, val, test or blank")
        return SPLIT_NAMES[cell.lower()]


def _is_file(path: Path) -> bool:
    """Say whether there is such a file; a name that no disk takes (too long) is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_table(file: Path) -> pd.DataFrame:
    """Read a CSV or parquet file with every cell as stripped text, blank where there is none."""
    if not file.is_file():
        raise UserError(f"data.csv={file}: expected a CSV or parquet file, found a folder")
    if file.suffix.lower() in (".parquet", ".pq"):
        table = read_parquet(file, "one row per image")
        table.columns = table.columns.map(str)
        return table.reset_index(drop=True).apply(lambda column: column.map(_cell))
    text = _decode(file.read_bytes(), file)
    header = next((line for line in text.splitlines() if line.strip()), "")
    outside = "".join(header.split('"')[::2])  # a comma inside a quoted header is no separator
    separator = max((",", ";", "\t"), key=outside.count)
    lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if any(line)]
    if not lines:
        raise UserError(f"{file}: empty; expected a header and one row per image")
    columns = [name.strip() for name in lines[0]]
    if twice := [name for name, n in Counter(columns).items() if n > 1]:
        raise UserError(f"{file}: column '{twice[0]}' occurs more than once; expected every name once")
    for i, line in enumerate(lines[1:]):
        while len(line) > len(columns) and not line[-1]:
            line.pop()  # some exporters end every line with a separator
        if len(line) != len(columns):
            raise UserError(
                f"{file}: row {i + 2} has {len(line)} cells; expected {len(columns)}, "
                f"separated by {separator!r}"
            )
    cells = [[cell.strip() for cell in line] for line in lines[1:]]
    return pd.DataFrame(cells, columns=columns, dtype=object)


def _decode(data: bytes, file: Path) -> str:
    encoding = "utf-8-sig"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: byte {error.start} is not {encoding.removesuffix('-sig').upper()}; expected a CSV saved as UTF-8"
        ) from None
    if (at := text.find("\0")) >= 0:
        raise UserError(f"{file}: character {at} is NUL; expected a CSV saved as UTF-8")
    return text


def _cell(value: Any) -> str:
    """A parquet cell as the text that a CSV would hold; 12.0 in a column with gaps is 12."""
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()
