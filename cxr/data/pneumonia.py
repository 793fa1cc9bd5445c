"""Kaggle "chest-xray-pneumonia": 5,856 radiographs of children, normal or pneumonia.

Kermany, Zhang, Goldbaum 2018, Mendeley Data, doi:10.17632/rscbjbr9sj.2 (Cell 172, 1122-1131).
Layout: chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg. File names carry the patient:

    person123_bacteria_4.jpeg      person123, bacterial
    IM-0115-0001.jpeg              IM-0115
    NORMAL2-IM-0666-0001.jpeg      NORMAL2-IM-0666 (another person than IM-0666)
    IM-0437-0001-0002.jpeg         IM-0437; 145 names have such a further number

The set has 30 groups of byte-identical files (32 surplus ones); they all stay in the index and
share a `content_hash`, by which splits keep them together. The published archive holds a second,
nested chest_xray/ and a __MACOSX/ shadow: neither is counted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from cxr.data.index import LABEL, SPLITS, FileSource, list_images, make_index
from cxr.errors import UserError, did_you_mean

__all__ = ["Pneumonia", "parse_name"]

FOLDERS = ("NORMAL", "PNEUMONIA")
SUBTYPES = {"BACTERIA": "bacteria", "VIRUS": "virus"}

_PERSON = re.compile(r"(?P<number>person\d+)_(?P<subtype>bacteria|virus)_\d+(_\d+)*", re.IGNORECASE)
_IM = re.compile(r"(?P<patient>(NORMAL\d+-)?IM-\d+)-\d+(-\d+)*", re.IGNORECASE)


class Pneumonia(FileSource):
    """The files of the Kaggle set as index rows, with an extra column `subtype`."""

    name = "pneumonia"
    published = "published as Kaggle paultimothymooney/chest-xray-pneumonia and at https://doi.org/10.17632/rscbjbr9sj.2"
    multi_label = False

    def __init__(
        self, root: Path | None, classes: list[str], patient_key: Literal["number", "subtype"]
    ) -> None:
        """Name the folder that holds chest_xray/ (or chest_xray/ itself) and the classes, in order.

        `classes` are NORMAL and PNEUMONIA, or with PNEUMONIA told apart NORMAL, BACTERIA, VIRUS;
        images of a class that is not named are left out. `patient_key` "number" takes
        person1_bacteria and person1_virus for one patient, "subtype" for two. Which is true is
        not established; by the number alone 170 patients cross the shipped train and test.
        """
        super().__init__(root)
        known = [*FOLDERS, *SUBTYPES]
        for label in classes:
            if label not in known:
                raise UserError(f"data.classes: '{label}' is not in pneumonia{did_you_mean(label, known)}")
        if not classes or len(set(classes)) != len(classes):
            raise UserError(f"data.classes={classes}: expected at least one of {', '.join(known)}, each once")
        if "PNEUMONIA" in classes and set(classes) & set(SUBTYPES):
            raise UserError("data.classes: PNEUMONIA is BACTERIA and VIRUS; expected it or these, not both")
        if patient_key not in ("number", "subtype"):
            raise UserError(f"data.patient_key={patient_key}: expected number or subtype")
        self.classes = list(classes)
        self.patient_key = patient_key

    def folder(self) -> Path:
        """Return the folder that holds train/, val/ and test/: the root, or the chest_xray/ in it."""
        root = super().folder()
        # Some unpackers leave only the nested copy, hence the third place.
        for place in (root, root / "chest_xray", root / "chest_xray" / "chest_xray"):
            if any((place / split / label).is_dir() for split in SPLITS for label in FOLDERS):
                return place
        found = sorted(p.name for p in root.iterdir())[:8] if root.is_dir() else ["a file"]
        raise UserError(
            f"data.root={root}: expected {{train,val,test}}/{{NORMAL,PNEUMONIA}}/ in it or in its "
            f"chest_xray/, found {', '.join(found) or 'nothing'}"
        )

    def index(self) -> pd.DataFrame:
        """List the images of the chosen classes; reads every file once, for its hash."""
        folder = self.folder()
        rows: list[dict[str, Any]] = []
        files: list[Path] = []
        for split in SPLITS:
            for label in FOLDERS:
                place = folder / split / label
                for file in list_images(place, recursive=False) if place.is_dir() else []:
                    row = self._row(file, label)
                    if row is not None:
                        image_id = file.relative_to(folder).as_posix()
                        rows.append({"image_id": image_id, "official_split": split, **row})
                        files.append(file)
        if not rows:
            raise UserError(f"data.root={folder}: expected images of {', '.join(self.classes)}, found none")
        for row, content in zip(rows, self.hashes(files), strict=True):
            row["content_hash"] = content
        return make_index(rows, self.classes)

    def _row(self, file: Path, label: str) -> dict[str, Any] | None:
        """Labels, patient and subtype of one file; None if its class is not wanted."""
        patient, subtype = parse_name(file.name, self.patient_key)
        if label not in self.classes and label == "PNEUMONIA" and set(self.classes) & set(SUBTYPES):
            if subtype is None:
                raise UserError(
                    f"{file}: expected a name like person1_virus_2.jpeg, or data.classes=[NORMAL,PNEUMONIA]"
                )
            label = subtype.upper()
        if label not in self.classes:
            return None
        targets = {LABEL + name: float(name == label) for name in self.classes}
        return {**targets, "patient_id": patient, "subtype": subtype}


def parse_name(name: str, patient_key: Literal["number", "subtype"]) -> tuple[str | None, str | None]:
    """Return (patient id, subtype) from a file name; None for what a foreign name does not tell."""
    stem = Path(name).stem
    if person := _PERSON.fullmatch(stem):
        number, subtype = person["number"].lower(), person["subtype"].lower()
        return (number if patient_key == "number" else f"{number}_{subtype}"), subtype
    if other := _IM.fullmatch(stem):
        return other["patient"].upper(), None
    return None, None
