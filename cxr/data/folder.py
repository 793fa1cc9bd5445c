"""Any folder of class sub-folders: <root>/<class>/**/*.png, or <root>/{train,val,test}/<class>/**.

Every image file at any depth below a class folder counts, except in folders called `masks`
(segmentations, not radiographs), hidden ones and `__MACOSX`.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from cxr.data.index import IGNORED_FOLDERS, LABEL, FileSource, list_images, make_index
from cxr.errors import UserError, did_you_mean

__all__ = ["SPLIT_NAMES", "Folder"]

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


class Folder(FileSource):
    """Class sub-folders as index rows; single-label."""

    name = "folder"
    published = "it is any folder of <class>/*.png (or .jpeg …), also below train/, val/, test/"
    multi_label = False

    def __init__(self, root: Path | None, classes: list[str] | None, patient_pattern: str | None) -> None:
        """Name the root, the classes in order (None: all, sorted) and how to find the patient.

        `patient_pattern` is a regular expression searched in the path below the root; its group
        `patient`, else its first group, else the whole match is the patient id, and every path
        must match. None: patients are unknown, and splits fall back to images.
        """
        super().__init__(root)
        if classes is not None and (not classes or len(set(classes)) != len(classes)):
            raise UserError(f"data.classes={classes}: expected null (all) or at least one name, each once")
        self._classes = classes
        try:
            self._pattern = None if patient_pattern is None else re.compile(patient_pattern)
        except re.error as error:
            raise UserError(
                f"data.patient_pattern='{patient_pattern}': expected a regular expression ({error})"
            ) from None

    @cached_property
    def classes(self) -> list[str]:
        """The names asked for, else every class folder's, sorted."""
        found = sorted({label for _, label, _ in self._class_folders()})
        if self._classes is None:
            return found
        for label in self._classes:
            if label not in found:
                hint = did_you_mean(label, found)
                raise UserError(f"data.classes: no folder '{label}' in {self.folder()}{hint}")
        return list(self._classes)

    def index(self) -> pd.DataFrame:
        """List the images of the chosen classes; reads every file once, for its hash."""
        root, classes = self.folder(), self.classes
        rows: list[dict[str, Any]] = []
        files: list[Path] = []
        unmatched: list[str] = []
        for split, label, place in self._class_folders():
            if label not in classes:
                continue
            for file in list_images(place, recursive=True):
                if "masks" in file.relative_to(place).parts[:-1]:
                    continue
                image_id = file.relative_to(root).as_posix()
                patient = self._patient(image_id)
                if self._pattern is not None and patient is None:
                    unmatched.append(image_id)
                targets = {LABEL + name: float(name == label) for name in classes}
                rows.append({"image_id": image_id, **targets, "patient_id": patient, "official_split": split})
                files.append(file)
        if unmatched:
            raise UserError(
                f"data.patient_pattern finds no patient in {len(unmatched)} of {len(rows)} paths "
                f"(first: {unmatched[0]}); expected one in each, or data.patient_pattern=null"
            )
        for label in classes:
            if not any(row[LABEL + label] for row in rows):
                raise UserError(
                    f"data.root={root}: expected image files in the folder '{label}', found {self._instead(label)}"
                )
        for row, content in zip(rows, self.hashes(files), strict=True):
            row["content_hash"] = content
        return make_index(rows, classes)

    def _class_folders(self) -> list[tuple[str | None, str, Path]]:
        """Every (official split or None, class, folder) below the root."""
        root = self.folder()
        top = _sub_folders(root)
        if top and all(p.name.lower() in SPLIT_NAMES for p in top):
            found = [(SPLIT_NAMES[p.name.lower()], c.name, c) for p in top for c in _sub_folders(p)]
            expected: list[tuple[str | None, str, Path]] = [*found]
        else:
            expected = [(None, c.name, c) for c in top]
        if not expected:
            inside = sorted(p.name for p in root.iterdir())[:8] if root.is_dir() else ["a file"]
            raise UserError(
                f"data.root={root}: expected one sub-folder per class, found {', '.join(inside) or 'nothing'}"
            )
        return expected

    def _instead(self, label: str) -> str:
        """Say what lies in a class's folders that hold no image: often DICOM, which is not read."""
        places = [place for _, name, place in self._class_folders() if name == label]
        if n := sum(
            1 for place in places for p in place.rglob("*") if p.suffix.lower() in (".dcm", ".dicom")
        ):
            return f"{n} DICOM files: convert them to PNG, e.g. with dcmj2pnm +oo --use-window 1"
        return "none"

    def _patient(self, image_id: str) -> str | None:
        match = None if self._pattern is None else self._pattern.search(image_id)
        if match is None:
            return None
        if "patient" in match.re.groupindex:
            return match["patient"] or None
        return (match[1] if match.re.groups else match[0]) or None


def _sub_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    inside = sorted(folder.iterdir())
    return [p for p in inside if p.is_dir() and not p.name.startswith(".") and p.name not in IGNORED_FOLDERS]
