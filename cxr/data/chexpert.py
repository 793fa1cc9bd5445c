"""CheXpert: 224,316 radiographs of 65,240 patients, 14 labels mined from reports, with "uncertain" as a value.

Irvin et al., AAAI 2019, arXiv:1901.07031. Layout (CheXpert-v1.0 and CheXpert-v1.0-small alike):

    train.csv, valid.csv     Path, Sex, Age, Frontal/Lateral, AP/PA, then the labels
    train/patient00001/study1/view1_frontal.jpg,  valid/patient64541/…

A path in the tables begins with the folder's published name. Labels are 1, 0, -1 (uncertain) or blank
(not mentioned), which counts as absent, as for Irvin et al. The 234 images of valid.csv were labelled
by radiologists. Labels nest: Lung Opacity holds Edema, Consolidation, Pneumonia, Lung Lesion and
Atelectasis, Enlarged Cardiomediastinum holds Cardiomegaly.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from cxr.data.index import LABEL, make_index
from cxr.data.listing import ListedSource, Missing, check_classes, parse_age, read_rows
from cxr.errors import UserError

__all__ = ["LABELS", "Chexpert"]

LABELS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
)
TABLES = {"train": "train.csv", "valid": "valid.csv"}
FACTS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")

_PATH = re.compile(
    r"(?:.*/)?(?P<below>(?:train|valid|test)/(?P<patient>patient\d+)/(?P<study>study\d+)/[^/]+)"
)
_UNCERTAIN: dict[str, float | None] = {"zeros": 0.0, "ones": 1.0, "ignore": None}
_CELLS = {"1": "1", "1.0": "1", "0": "0", "0.0": "0", "": "0", "-1": "?", "-1.0": "?"}


class Chexpert(ListedSource):
    """The rows of train.csv and valid.csv as index rows, multi- or single-label.

    Extra columns: age (years, NaN unknown), sex (M, F or None), study.
    """

    name = "chexpert"
    published = "published at https://stanfordmlgroup.github.io/competitions/chexpert"

    def __init__(
        self,
        root: Path | None,
        classes: list[str],
        multi_label: bool,
        uncertain: Literal["zeros", "ones", "ignore"],
        views: Literal["frontal", "lateral", "all"],
        valid_as: Literal["val", "test"],
        missing: Missing,
    ) -> None:
        """Name the folder that holds train.csv, the labels in order, and how to read them.

        Args:
            root: the folder that holds train.csv, or the one above it.
            classes: of the 14 labels.
            multi_label: True keeps every image; False keeps the images with exactly one of `classes`
                (labels nest, so others may be present) and none of them unknown.
            uncertain: -1 becomes absent, present, or unknown (NaN: no loss, no score).
            views: which images.
            valid_as: the part that valid.csv is in the official split; CheXpert ships no other test images.
            missing: of listed images that are not on the disk: stop, or skip them and say how many.
        """
        super().__init__(root, missing)
        check_classes(self.name, classes, LABELS)
        if uncertain not in _UNCERTAIN:
            raise UserError(f"data.uncertain={uncertain}: expected zeros, ones or ignore")
        if views not in ("frontal", "lateral", "all"):
            raise UserError(f"data.views={views}: expected frontal, lateral or all")
        if valid_as not in ("val", "test"):
            raise UserError(f"data.valid_as={valid_as}: expected val or test")
        self.classes, self.multi_label = list(classes), multi_label
        self.uncertain, self.views, self.valid_as = uncertain, views, valid_as

    def folder(self) -> Path:
        """Return the folder that holds train.csv: the root, or the only one in it that does."""
        root = super().folder()
        below = sorted(p for p in root.glob("CheXpert-v1.0*") if p.is_dir()) if root.is_dir() else []
        places = [p for p in (root, *below) if (p / TABLES["train"]).is_file()]
        if places and (places[0] == root or len(places) == 1):
            return places[0]
        told = f"found {' and '.join(p.name for p in places)}" if places else "found none"
        raise UserError(f"data.root={root}: expected train.csv in it or in one CheXpert-v1.0*/ below, {told}")

    def index(self) -> pd.DataFrame:
        """List the chosen images; reads every one of them once, for its hash."""
        folder = self.folder()
        listed = [
            row
            for part, name in TABLES.items()
            if (folder / name).is_file()
            for row in self._rows(folder / name, "train" if part == "train" else self.valid_as)
        ]
        rows = [row for row in listed if (folder / row["image_id"]).is_file()]
        if not listed:
            raise UserError(
                f"{folder}: no row fits data.views={self.views} and data.classes={self.classes}; expected one"
            )
        if len(rows) < len(listed):
            absent = sorted({r["image_id"] for r in listed} - {r["image_id"] for r in rows})
            self.report_missing(absent, len(listed), str(folder))
        hashes = self.hashes([folder / row["image_id"] for row in rows])
        return make_index(
            [{**row, "content_hash": content} for row, content in zip(rows, hashes, strict=True)],
            self.classes,
        )

    def _rows(self, file: Path, split: str) -> list[dict[str, Any]]:
        """The rows of one table that are wanted, less their hashes."""
        header, *lines = read_rows(file)
        for name in (*FACTS, *self.classes):
            if name not in header:
                raise UserError(f"{file}: no column '{name}'; expected CheXpert's table")
        at = {name: header.index(name) for name in (*FACTS, *self.classes)}
        rows = []
        for number, cells in enumerate(lines, start=2):
            if len(cells) != len(header):
                raise UserError(f"{file}: row {number} has {len(cells)} cells; expected {len(header)}")
            found = _PATH.fullmatch(cells[at["Path"]])
            if found is None:
                raise UserError(
                    f"{file}: row {number}, Path is '{cells[at['Path']]}'; "
                    "expected …/train/patient00001/study1/view1_frontal.jpg"
                )
            side = cells[at["Frontal/Lateral"]].lower()
            if self.views not in ("all", side):
                continue
            targets = {name: self._target(file, number, name, cells[at[name]]) for name in self.classes}
            if not self.multi_label and (
                None in targets.values() or sum(value == 1 for value in targets.values()) != 1
            ):
                continue
            sex = cells[at["Sex"]][:1].upper()
            rows.append(
                {
                    "image_id": found["below"],
                    **{LABEL + name: value for name, value in targets.items()},
                    "patient_id": found["patient"],
                    "view": cells[at["AP/PA"]] or ("LATERAL" if side == "lateral" else None),
                    "official_split": split,
                    "age": parse_age(cells[at["Age"]]),
                    "sex": sex if sex in ("M", "F") else None,
                    "study": found["study"],
                }
            )
        return rows

    def _target(self, file: Path, number: int, label: str, cell: str) -> float | None:
        value = _CELLS.get(cell)
        if value is None:
            raise UserError(f"{file}: row {number}, {label} is '{cell}'; expected 1, 0, -1 or blank")
        return _UNCERTAIN[self.uncertain] if value == "?" else float(value)
