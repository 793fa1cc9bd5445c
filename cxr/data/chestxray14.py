"""NIH ChestX-ray14: 112,120 frontal radiographs of 30,805 patients, 14 findings mined from reports.

Wang, Peng, Lu, Lu, Bagheri, Summers, CVPR 2017, pp. 3462-3471. Layout:

    images_001/images/*.png … images_012/images/*.png   1024x1024; all in one folder is read as well
    Data_Entry_2017.csv or Data_Entry_2017_v2020.csv    labels, patient, age, sex, view
    train_val_list.txt, test_list.txt                   the official split: 86,524 and 25,596 images
    BBox_List_2017.csv                                  984 boxes on 880 images, all of the test list

The table's header has commas inside brackets (`OriginalImage[Width,Height]`), which stand for two
columns each: read naively, every row is longer than its header and cells shift. Ages are `58`, in
older copies `058Y`, `013M` or `001D`, and some are impossible (unknown here). A few images are RGBA.

The official test list is another population than the training list (AP views 57 % against 35 %), and
one patient has 184 images: intervals have to resample patients. Splits that circulate as "official"
and are 70/10/20 are not this one.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.data.index import LABEL, DatasetNotFound, make_index, require_path
from cxr.data.listing import (
    ListedSource,
    Missing,
    check_classes,
    draw,
    find_file,
    list_pngs,
    parse_age,
    read_rows,
)
from cxr.errors import UserError, did_you_mean

__all__ = ["FINDINGS", "NO_FINDING", "ChestXray14"]

FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
NO_FINDING = "No Finding"
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOXES = ("BBox_List_2017.csv",)
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
BOX_FRAME_PX = 1024.0  # boxes are in pixels of the published PNG, whatever size the files here have

_ALIASES = {"Infiltrate": "Infiltration", "Pleural Thickening": "Pleural_Thickening"}
_PAIR = re.compile(r"(?P<name>[^,\[]+?)\s*\[(?P<first>[^,\]]+),(?P<second>[^,\]]+)\]")
DEPTH = 3  # folders below the root that may lie above an image


class ChestXray14(ListedSource):
    """The images of the table as index rows, multi- or single-label.

    Extra columns: age (years, NaN unknown), sex (M, F or None), follow_up (the patient's
    how-manieth image).
    """

    name = "chestxray14"
    published = "published at https://nihcc.app.box.com/v/ChestXray-NIHCC and as Kaggle nih-chest-xrays/data"

    def __init__(
        self,
        root: Path | None,
        csv: Path | None,
        classes: list[str],
        multi_label: bool,
        max_images: dict[str, int] | int | None,
        missing: Missing,
        seed: int,
    ) -> None:
        """Name the folder, the labels in order, and which images.

        Args:
            root: the folder that holds the images, at most three folders deep.
            csv: the Data_Entry table, plain or .gz; None finds it in the root, the 2020 edition first.
                The official lists and the boxes are looked for beside it, then in the root.
            classes: of the 14 findings and "No Finding".
            multi_label: True keeps every image, with none of `classes` too; False keeps the images whose
                only label is one of `classes` ("No Finding" counts as one).
            max_images: at most so many images in all or, single-label, of each class named; drawn
                with `seed` by a hash of the file name, so that a larger number only adds images.
            missing: of listed images that are not on the disk: stop, or skip them and say how many.
            seed: of that draw.
        """
        super().__init__(root, missing)
        check_classes(self.name, classes, (*FINDINGS, NO_FINDING))
        if isinstance(max_images, dict):
            if multi_label:
                raise UserError(
                    "data.max_images: a number per class needs one class per image; expected a number, "
                    "or data.multi_label=false"
                )
            for label in max_images:
                if label not in classes:
                    raise UserError(f"data.max_images: '{label}' is not chosen{did_you_mean(label, classes)}")
        sizes = max_images.values() if isinstance(max_images, dict) else [max_images]
        if any(n is not None and n < 1 for n in sizes):
            raise UserError(f"data.max_images={max_images}: expected at least 1, or null for all")
        self.csv = None if csv is None else Path(csv)
        self.classes, self.multi_label = list(classes), multi_label
        self.max_images, self.seed = max_images, seed

    def file(self) -> Path:
        """Return the table; `UserError` if there is none."""
        if self.csv is not None:
            return require_path(self.csv, self.name, "data.csv", self.published)
        root = self.folder()
        if (file := find_file([root], TABLES)) is None:
            raise UserError(
                f"data.root={root}: expected {' or '.join(TABLES)} in it (also .gz); "
                "if it lies elsewhere set data.csv=/path/to/it"
            )
        return file

    def entries(self) -> pd.DataFrame:
        """Return the whole table, images on the disk or not, in its order.

        Columns: image (file name), label:<NAME> float32 for the 14 findings and "No Finding",
        patient_id, age, sex, view, follow_up, official_split.
        """
        file = self.file()
        columns = _columns(file)
        images = columns["Image Index"]
        if len(set(images)) != len(images):
            twice = pd.Series(images)[pd.Series(images).duplicated()].iloc[0]
            raise UserError(f"{file}: image {twice} has two rows; expected one each")
        numbers, kinds = pd.factorize(np.array(columns["Finding Labels"], dtype=object))
        targets = np.array([_targets(file, str(kind)) for kind in kinds], dtype=np.float32)[numbers]
        table = pd.DataFrame({"image": images})
        for at, label in enumerate((*FINDINGS, NO_FINDING)):
            table[LABEL + label] = targets[:, at]
        table["patient_id"] = [cell.lstrip("0") or "0" for cell in columns["Patient ID"]]
        ages = {cell: parse_age(cell) for cell in set(columns["Patient Age"])}
        table["age"] = [ages[cell] for cell in columns["Patient Age"]]
        table["sex"] = [cell if cell in ("M", "F") else None for cell in columns["Patient Sex"]]
        table["view"] = [cell or None for cell in columns["View Position"]]
        table["follow_up"] = [int(cell) if cell.isdigit() else -1 for cell in columns["Follow-up #"]]
        split = self._official_split()
        table["official_split"] = pd.Series([split.get(image) for image in images], dtype=object)
        return table

    def index(self) -> pd.DataFrame:
        """List the chosen images; reads every one of them once, for its hash."""
        root, table = self.folder(), self.entries()
        chosen = table[[LABEL + label for label in self.classes]].to_numpy()
        if not self.multi_label:
            n_labels = table[[LABEL + label for label in (*FINDINGS, NO_FINDING)]].sum(axis=1).to_numpy()
            keep = (n_labels == 1) & (chosen.sum(axis=1) == 1)
            table, chosen = table[keep].reset_index(drop=True), chosen[keep]
        places = self._places
        here = np.array([image in places for image in table["image"]], dtype=bool)
        self.report_missing(list(table["image"][~here]), len(table), str(root))
        table, chosen = table[here].reset_index(drop=True), chosen[here]
        for label, n in zip(self.classes, chosen.sum(axis=0), strict=True):
            if not n and not self.multi_label:
                raise UserError(
                    f"data.classes: no image has '{label}' as its only label; expected at least one"
                )
        rows = self._drawn(list(table["image"]), chosen)
        table, chosen = table.iloc[rows].reset_index(drop=True), chosen[rows]
        paths = [places[image] for image in table["image"]]
        extras = ["patient_id", "view", "official_split", "age", "sex", "follow_up"]
        records = table[extras].astype(object).to_dict("records")
        hashes = self.hashes([root / path for path in paths])
        labels = [LABEL + label for label in self.classes]
        return make_index(
            [
                {
                    "image_id": path,
                    **dict(zip(labels, values, strict=True)),
                    **record,
                    "content_hash": content,
                }
                for path, values, record, content in zip(paths, chosen.tolist(), records, hashes, strict=True)
            ],
            self.classes,
        )

    def boxes(self) -> pd.DataFrame:
        """Return the hand-drawn boxes, one row each, for scoring heat maps.

        Columns: image (file name), image_id (as in the index; None: not on the disk), label,
        box_x, box_y, box_w, box_h: left, top, width and height as fractions of the image. All are
        on official test images; an image may have several of one label.

        Raises:
            DatasetNotFound: there is no list of boxes.
        """
        file = find_file(self._beside(), BOXES)
        if file is None:
            raise DatasetNotFound(
                f"{self._beside()[0]}: expected {BOXES[0]} in it (also .gz), which holds the boxes; {self.published}"
            )
        places = self._places if self.root is not None else {}
        rows = []
        for number, cells in enumerate(read_rows(file)[1:], start=2):
            try:
                image, label, box = cells[0], _label(cells[1]), [float(cell) for cell in cells[2:6]]
                x, y, width, height = (value / BOX_FRAME_PX for value in box)
            except (IndexError, ValueError):
                raise UserError(
                    f"{file}: row {number} is {cells}; expected image, label, x, y, w, h"
                ) from None
            left, top = min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)
            size = (min(x + width, 1.0) - left, min(y + height, 1.0) - top)
            rows.append((image, places.get(image), label, left, top, *size))
        columns = ["image", "image_id", "label", "box_x", "box_y", "box_w", "box_h"]
        return pd.DataFrame(rows, columns=columns)

    def _beside(self) -> list[Path]:
        """The folders that may hold the lists and the boxes: the table's, then the root."""
        return [self.file().parent, *([self.folder()] if self.root is not None else [])]

    def _official_split(self) -> dict[str, str]:
        """File name → train or test; empty without the lists."""
        found = {split: find_file(self._beside(), [name]) for split, name in LISTS.items()}
        if not any(found.values()):
            return {}
        split_of: dict[str, str] = {}
        for split, file in found.items():
            if file is None:
                other = next(str(f) for f in found.values() if f is not None)
                raise UserError(f"{other}: expected {LISTS[split]} beside it, or neither of the two")
            for image in (Path(cells[0]).name for cells in read_rows(file)):
                if split_of.setdefault(image, split) != split:
                    raise UserError(f"{file}: image {image} is in both official lists; expected it in one")
        return split_of

    def _drawn(self, images: list[str], chosen: np.ndarray[Any, Any]) -> list[int]:
        """Rows that stay under `max_images`."""
        if self.max_images is None:
            return list(range(len(images)))
        if isinstance(self.max_images, int):
            return draw(images, {"": range(len(images))}, {"": self.max_images}, self.seed)
        groups = {c: np.flatnonzero(chosen[:, at] == 1).tolist() for at, c in enumerate(self.classes)}
        return draw(images, groups, self.max_images, self.seed)

    @cached_property
    def _places(self) -> dict[str, str]:
        """File name → path below the root, of every PNG there."""
        root = self.folder()
        places: dict[str, str] = {}
        for path in list_pngs(root, depth=DEPTH):
            name = path.rpartition("/")[2]
            first = places.setdefault(name, path)
            if first != path and not (root / first).samefile(root / path):
                raise UserError(
                    f"{root}: {name} is there twice, as {first} and {path}; expected one: "
                    "remove the other or set data.root to one of the folders"
                )
        return places


def _header(cells: list[str]) -> list[str]:
    """Column names, one per cell of a row: `Size[Width,Height]` is two, quoted or not; a trailing comma none."""
    text = _PAIR.sub(lambda m: f"{m['name']} {m['first']},{m['name']} {m['second']}", ",".join(cells))
    names = [name.strip() for name in text.split(",")]
    while names and not names[-1]:
        names.pop()
    return ["Patient Sex" if name == "Patient Gender" else name for name in names]


def _columns(file: Path) -> dict[str, list[str]]:
    """Cells by column, one per row of the table."""
    header, *rows = read_rows(file)
    names = _header(header)
    wanted = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Sex"]
    for name in [*wanted, "View Position"]:
        if name not in names:
            raise UserError(f"{file}: no column '{name}'; expected ChestX-ray14's Data_Entry table")
    if not rows:
        raise UserError(f"{file}: no rows below the header; expected one per image")
    for number, row in enumerate(rows, start=2):
        while len(row) > len(names) and not row[-1]:
            row.pop()
        if len(row) != len(names):
            raise UserError(f"{file}: row {number} has {len(row)} cells; expected {len(names)}")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _label(name: str) -> str:
    return _ALIASES.get(name.strip(), name.strip())


def _targets(file: Path, cell: str) -> list[float]:
    """0/1 for the 14 findings and "No Finding" from `Edema|Mass`."""
    known = (*FINDINGS, NO_FINDING)
    names = {_label(name) for name in cell.split("|")}
    for name in sorted(names):
        if name not in known:
            raise UserError(f"{file}: '{name}' in 'Finding Labels' is no finding{did_you_mean(name, known)}")
    if NO_FINDING in names and len(names) > 1:
        raise UserError(f"{file}: Finding Labels '{cell}'; expected '{NO_FINDING}' alone or findings")
    return [float(name in names) for name in known]
