"""What data sets share that ship a table of their images: reading it, and images that are not there."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import math
import os
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from cxr.data.index import IGNORED_FOLDERS, FileSource
from cxr.errors import UserError, did_you_mean

__all__ = [
    "ListedSource",
    "Missing",
    "check_classes",
    "draw",
    "find_file",
    "list_pngs",
    "parse_age",
    "read_rows",
]

Missing = Literal["stop", "skip"]
OLDEST_YEARS = 120.0  # ChestX-ray14's first edition has ages up to 414
_UNITS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


class ListedSource(FileSource):
    """A data set whose table may list images that are not on the disk."""

    def __init__(self, root: Path | None, missing: Missing) -> None:
        super().__init__(root)
        if missing not in ("stop", "skip"):
            raise UserError(f"data.missing={missing}: expected stop or skip")
        self.missing: Missing = missing

    def report_missing(self, absent: Sequence[str], n_listed: int, where: str) -> None:
        """Refuse or report images that are listed and not on the disk, with their number.

        `skip` warns; with not one image there, both refuse.
        """
        if not absent:
            return
        told = f"{len(absent)} of {n_listed} listed images are not in {where} (first: {absent[0]})"
        if self.missing == "stop" or len(absent) == n_listed:
            raise UserError(
                f"{told}; expected all: unpack the rest, look at data.root, or leave them out "
                "with data.missing=skip"
            )
        self.warn(f"{told} and were left out")


def check_classes(name: str, classes: Sequence[str], known: Collection[str]) -> None:
    """Refuse a label that the data set has not, none at all, or one twice."""
    for label in classes:
        if label not in known:
            raise UserError(f"data.classes: '{label}' is not in {name}{did_you_mean(label, known)}")
    if not classes or len(set(classes)) != len(classes):
        raise UserError(
            f"data.classes={list(classes)}: expected at least one of {', '.join(known)}, each once"
        )


def find_file(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """Return the first of `names`, plain or with .gz, in the first folder that has one; None if none has."""
    for folder in folders:
        for name in names:
            for file in (folder / name, folder / f"{name}.gz"):
                if file.is_file():
                    return file
    return None


def read_rows(file: Path) -> list[list[str]]:
    """Return the cells of a CSV file (.gz is unpacked), header first, stripped; blank lines are left out."""
    try:
        data = file.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); expected a CSV file, plain or gzipped") from None
    lines = csv.reader(io.StringIO(text, newline=""))
    rows = [[cell.strip() for cell in line] for line in lines if line]
    if not rows:
        raise UserError(f"{file}: empty; expected a header and one row per image")
    return rows


def list_pngs(root: Path, *, depth: int, below: str = "") -> list[str]:
    """Return the paths, below `root`, of the PNGs in a folder and `depth` folders down, sorted by folder.

    Unlike `list_images` it follows links to folders: large sets are spread over disks.
    """
    found, folders = [], []
    with os.scandir(root / below) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name.startswith(".") or entry.name in IGNORED_FOLDERS:
                continue
            if entry.name.lower().endswith(".png"):
                found.append(f"{below}{entry.name}")
            elif depth and entry.is_dir():
                folders.append(f"{below}{entry.name}/")
    return found + [path for folder in folders for path in list_pngs(root, depth=depth - 1, below=folder)]


def parse_age(cell: str) -> float:
    """Return years from `58`, `058Y`, `013M` or `001D`; NaN for a blank or more than 120 years."""
    number, unit = (cell[:-1], cell[-1:].upper()) if cell[-1:].isalpha() else (cell, "Y")
    try:
        years = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        return math.nan
    return years if 0 <= years <= OLDEST_YEARS else math.nan


def draw(
    names: Sequence[str], groups: Mapping[str, Sequence[int]], sizes: Mapping[str, int], seed: int
) -> list[int]:
    """Return positions, ascending: of each group at most its size, drawn by a hash of (seed, name).

    A name's lot does not depend on the other names, so a larger size only adds images. Groups
    that `sizes` does not name stay whole.
    """
    kept: list[int] = []
    for group, rows in groups.items():
        if group in sizes:
            lots = [(hashlib.sha256(f"{seed}:{names[row]}".encode()).digest(), row) for row in rows]
            rows = [row for _, row in sorted(lots)[: sizes[group]]]
        kept += rows
    return sorted(kept)
