"""Kaggle "COVID-19 Radiography Database": 21,165 radiographs in four classes, put together from others' sets.

Chowdhury et al., IEEE Access 2020, doi:10.1109/ACCESS.2020.3010287; Rahman et al., Comput. Biol. Med.
2021, doi:10.1016/j.compbiomed.2021.104319. Layouts:

    COVID-19_Radiography_Dataset/{COVID,Normal,Lung_Opacity,Viral Pneumonia}/images/*.png    since 2021
    COVID-19 Radiography Database/{COVID-19 or COVID,NORMAL,Viral Pneumonia}/*.png           earlier releases

Segmentations in masks/ are not images of the set. Beside the folders lies <class>.metadata.xlsx (FILE
NAME, FORMAT, SIZE, URL); where it is there, the URL tells an image's source, and it is read with the
standard library alone.

Class and source are nearly the same thing here: Lung_Opacity is RSNA, Viral Pneumonia are children from
the Kaggle pneumonia set, Normal is RSNA and 1,341 of these children, COVID comes from hospitals of its
own. A model can tell the sources apart without a look at the disease. And nothing says which images are
of one patient. Both are in `warnings`.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from cxr.data.index import LABEL, FileSource, list_images, make_index
from cxr.data.listing import check_classes
from cxr.errors import UserError

__all__ = ["CLASSES", "Covid19Radiography", "source_of"]

CLASSES = ("COVID", "Normal", "Viral Pneumonia", "Lung_Opacity")
TOPS = ("COVID-19_Radiography_Dataset", "COVID-19 Radiography Database", "COVID-19 Radiography Dataset")
SOURCE_IS_CLASS = (
    "shortcut learning: each class comes from hospitals of its own, so that a model may tell the source "
    "and not the disease; published models score nearly as well with the lungs blacked out"
)
NO_PATIENTS = (
    "no patient ids: images of one patient may be in training and test, and intervals are over images"
)

RSNA, CHILDREN = "RSNA", "Kaggle chest-xray-pneumonia"
# What a metadata URL contains → the source. Other URLs count by their host.
_URLS = {
    "paultimothymooney/chest-xray-pneumonia": CHILDREN,
    "rsna-pneumonia-detection-challenge": RSNA,
    "bimcv": "PadChest (BIMCV)",
    "ml-workgroup/covid-19-image-repository": "Hannover Medical School",
    "armiro/covid-cxnet": "COVID-CXNet",
    "nihcc": "NIH ChestX-ray14",
}
_FOLDERS = {
    "covid": "COVID",
    "covid19": "COVID",
    "normal": "Normal",
    "viralpneumonia": "Viral Pneumonia",
    "lungopacity": "Lung_Opacity",
}
_NAME = re.compile(r".+?-(?P<number>\d+)")  # since 2021; earlier names are `NORMAL (17).png`
_EARLIER_NAME = re.compile(r".+?\s*\(\d+\)")
# Numbers of the 2021 release: classes of one source, and the children among the Normals.
_PUBLISHED = {"Normal": 10192, "Viral Pneumonia": 1345, "Lung_Opacity": 6012}
_NORMAL_CHILDREN = range(63, 1404)


class Covid19Radiography(FileSource):
    """The class folders as index rows, single-label; `source` is filled where it can be derived."""

    name = "covid19_radiography"
    published = "published as Kaggle tawsifurrahman/covid19-radiography-database"
    multi_label = False

    def __init__(self, root: Path | None, classes: list[str]) -> None:
        """Name the folder of the set (or the one above) and the classes, in order.

        `classes` are of COVID, Normal, Viral Pneumonia, Lung_Opacity; others are left out.
        """
        super().__init__(root)
        check_classes(self.name, classes, CLASSES)
        self.classes = list(classes)

    def folder(self) -> Path:
        """Return the folder that holds the class folders: the root, or the published one in it."""
        root = super().folder()
        for place in (root, *(root / top for top in TOPS), *(root / top / top for top in TOPS)):
            if place.is_dir() and _class_folders(place):
                return place
        found = sorted(p.name for p in root.iterdir())[:8] if root.is_dir() else ["a file"]
        raise UserError(
            f"data.root={root}: expected the folders {', '.join(CLASSES)} in it or in its {TOPS[0]}/, "
            f"found {', '.join(found) or 'nothing'}"
        )

    def index(self) -> pd.DataFrame:
        """List the images of the chosen classes; reads every file once, for its hash. Warns (see `warnings`)."""
        folder = self.folder()
        there = _class_folders(folder)
        rows: list[dict[str, Any]] = []
        files: list[Path] = []
        for label in self.classes:
            place = there.get(label)
            images = [] if place is None else list_images(_images_in(place), recursive=False)
            if not images:
                raise UserError(
                    f"data.root={folder}: expected images of '{label}', found none; "
                    f"leave it out with data.classes=[…]"
                )
            url_of = self._urls(folder, label)
            for file in images:
                targets = {LABEL + name: float(name == label) for name in self.classes}
                source = source_of(label, file.stem, url_of.get(file.stem.lower()))
                rows.append({"image_id": file.relative_to(folder).as_posix(), **targets, "source": source})
                files.append(file)
        for row, content in zip(rows, self.hashes(files), strict=True):
            row["content_hash"] = content
        self.warn(SOURCE_IS_CLASS)
        self.warn(NO_PATIENTS)
        return make_index(rows, self.classes)

    def _urls(self, folder: Path, label: str) -> dict[str, str]:
        """File stem in lower case (the tables write NORMAL-1 for Normal-1.png) → URL; empty without a table."""
        for file in sorted(folder.glob("*.metadata.xlsx")):
            if _FOLDERS.get(_key(file.name[: -len(".metadata.xlsx")])) == label:
                try:
                    header, *rows = read_sheet(file)
                    name, url = header.index("FILE NAME"), header.index("URL")
                    return {row[name].lower(): row[url] for row in rows if len(row) > max(name, url)}
                except (
                    OSError,
                    ValueError,
                    KeyError,
                    IndexError,
                    zipfile.BadZipFile,
                    ElementTree.ParseError,
                ):
                    self.warn(f"{file.name} cannot be read as a table with FILE NAME and URL: not used")
        return {}


def source_of(label: str, stem: str, url: str | None) -> str | None:
    """Return the collection an image was taken from: by its URL, else by class and number; None if unknown."""
    if url:
        known = (source for part, source in _URLS.items() if part in url.lower())
        host = re.match(r"(?:https?://)?(?:www\.)?([^/]+)", url)
        return next(known, host[1] if host else None)
    if label == "COVID":
        return None
    if _EARLIER_NAME.fullmatch(stem):  # those releases held no RSNA images yet
        return CHILDREN if label in ("Normal", "Viral Pneumonia") else None
    numbered = _NAME.fullmatch(stem)
    number = int(numbered["number"]) if numbered else 0
    if not 1 <= number <= _PUBLISHED[label]:
        return None
    return (
        CHILDREN if label == "Viral Pneumonia" or (label == "Normal" and number in _NORMAL_CHILDREN) else RSNA
    )


def read_sheet(file: Path) -> list[list[str]]:
    """Return the cells of a workbook's first sheet as text, row by row; blank cells are ''."""
    with zipfile.ZipFile(file) as book:
        shared: list[str] = []
        if "xl/sharedStrings.xml" in book.namelist():
            strings = ElementTree.fromstring(book.read("xl/sharedStrings.xml"))
            shared = [_texts(item) for item in strings.iterfind("{*}si")]
        sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
    rows = []
    for row in sheet.iterfind("{*}sheetData/{*}row"):
        cells: list[str] = []
        for cell in row.iterfind("{*}c"):
            at = _column(cell.get("r", ""), len(cells))
            cells += [""] * (at - len(cells))  # blank cells are not stored
            value = cell.findtext("{*}v") or ""
            if cell.get("t") == "s":
                value = shared[int(value)]
            elif cell.get("t") == "inlineStr":
                value = _texts(cell)
            cells.append(value.strip())
        rows.append(cells)
    return rows


def _texts(node: ElementTree.Element) -> str:
    return "".join(part.text or "" for part in node.iterfind(".//{*}t"))


def _column(reference: str, otherwise: int) -> int:
    """0 for A7, 27 for AB7; `otherwise` where a cell does not say."""
    letters = re.match(r"[A-Z]+", reference)
    number = 0
    for letter in letters[0] if letters else "":
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1 if letters else otherwise


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _class_folders(folder: Path) -> dict[str, Path]:
    """Class → its folder, whichever release's spelling it has."""
    inside = [p for p in sorted(folder.iterdir()) if p.is_dir()]
    return {_FOLDERS[_key(p.name)]: p for p in inside if _key(p.name) in _FOLDERS}


def _images_in(folder: Path) -> Path:
    return folder / "images" if (folder / "images").is_dir() else folder
