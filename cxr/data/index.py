"""The index: one table for every data set, one row per image.

Loaders only turn files into these rows; splits, caches, mixes, leak checks and reports
know nothing but rows. Columns, in this order:

    image_id        str, unique: the path relative to the data set's root, with `/`
    path            str, what the source's `read` takes
    label:<NAME>    float32, 1 = present, 0 = absent, NaN = unknown; one column per label
    patient_id      str or None
    view            str or None (PA, AP, …)
    source          str or None (the hospital or collection, where a data set mixes several)
    official_split  "train", "val", "test" or None
    content_hash    str, 64 hex digits: SHA-256 of the file's bytes

and after them whatever else a data set knows (`subtype`, the phantom's `box_x` …).
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.data.hash_store import HashStore
from cxr.errors import UserError
from cxr.files import file_sha256

__all__ = [
    "LABEL",
    "SPLITS",
    "DatasetNotFound",
    "FileSource",
    "Source",
    "hash_files",
    "label_names",
    "labels",
    "list_images",
    "make_index",
    "require_path",
]

LABEL = "label:"
SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff", ".webp"})
# Archives made on a Mac carry a shadow of every file in here: same names, no pictures.
IGNORED_FOLDERS = frozenset({"__MACOSX"})
PROGRESS_ABOVE = 2000  # files; below this a bar only flickers

log = logging.getLogger(__name__)

_TEXT = ("patient_id", "view", "source", "official_split")
_HASH = re.compile(r"[0-9a-f]{64}")


class DatasetNotFound(UserError):
    """A data set is not where the config says; the message names the override and the publisher."""


class Source(Protocol):
    """A data set: something that lists its images as index rows and reads one of them."""

    @property
    def name(self) -> str:
        """The name of the config group, e.g. `pneumonia`."""

    @property
    def classes(self) -> list[str]:
        """Label names in the order of the label columns."""

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several labels (or none) set."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What every record made from these images should say; complete after `index`."""

    def index(self) -> pd.DataFrame:
        """List every image as one row (columns: see the module's head)."""

    def read(self, path: str) -> npt.NDArray[Any]:
        """Decode the image of one row's `path` to gray (H, W) uint8, uint16 or float32."""


class FileSource:
    """What sources made of image files share: a root, and reading below it.

    Nothing touches the disk before `index` or `read`, so that a config can be built and
    checked on a machine without the data.
    """

    name: str
    published: str  # where a person gets the data, for DatasetNotFound
    _hash_store: HashStore | None = None

    def __init__(self, root: Path | None) -> None:
        self.root = None if root is None else Path(root)
        self.warnings: tuple[str, ...] = ()

    def remember_hashes(self, directory: Path, *, rehash: bool) -> None:
        """Keep the files' hashes in `directory`, so that the next `index` reads no file again; `rehash`: it does."""
        self._hash_store = HashStore(directory, self.folder(), rehash=rehash)

    def hashes(self, paths: Sequence[Path]) -> list[str]:
        """Return the SHA-256 of every file, in order: read, or remembered (see `remember_hashes`)."""
        return hash_files(paths) if self._hash_store is None else self._hash_store.hashes(paths, hash_files)

    def warn(self, text: str) -> None:
        """Log a warning and keep it in `warnings` for the records; a second time it is silent."""
        if text not in self.warnings:
            self.warnings = (*self.warnings, text)
            log.warning("%s: %s", self.name, text)

    def folder(self) -> Path:
        """Return the folder that index paths are relative to; `DatasetNotFound` if there is none."""
        return require_path(self.root, self.name, "data.root", self.published)

    def read(self, path: str) -> npt.NDArray[Any]:
        """Decode one file to gray (H, W); raises `cxr.data.decode.BadImage` when it cannot be."""
        from cxr.data.decode import read_gray

        return read_gray(self.folder() / path)


def require_path(path: Path | None, name: str, override: str, published: str) -> Path:
    """Return `path` (`~` expanded) if it exists; else raise `DatasetNotFound` with the way out."""
    if path is None:
        raise DatasetNotFound(f"data set '{name}' has no location: set {override}=/path/to/it; {published}")
    path = path.expanduser()
    if not path.exists():
        raise DatasetNotFound(f"data set '{name}' is not at {path}: set {override}=/path/to/it; {published}")
    return path


def label_names(index: pd.DataFrame) -> list[str]:
    """Return the names of the label columns, in order, without the prefix."""
    return [str(column)[len(LABEL) :] for column in index.columns if str(column).startswith(LABEL)]


def labels(index: pd.DataFrame) -> npt.NDArray[np.float32]:
    """Return the labels (N, L) float32 in {0, 1, NaN}."""
    columns = [LABEL + name for name in label_names(index)]
    return np.asarray(index[columns].to_numpy(dtype=np.float32), dtype=np.float32)


def make_index(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> pd.DataFrame:
    """Make the index from one mapping per image, sorted by image_id.

    A row needs `image_id` and `content_hash`; `path` defaults to `image_id`, a label that is
    missing is unknown (NaN), other columns default to None. Keys the index does not know
    become extra columns at its end. Whatever breaks the contract is a `UserError`.
    """
    if not rows:
        raise UserError("no images; expected at least one: look at data.root and data.classes")
    if not labels or len(set(labels)) != len(labels):
        raise UserError(f"labels {list(labels)}; expected at least one, each once: look at data.classes")
    ids = [row["image_id"] for row in rows]
    if len(set(ids)) != len(ids):
        twice = [image_id for image_id, n in Counter(ids).items() if n > 1]
        raise UserError(f"{len(twice)} image(s) listed twice or more (first: {twice[0]}); expected each once")
    for image_id in ids:
        if isinstance(image_id, str) and not _is_text(image_id):
            raise UserError(f"{image_id!a}: the file's name is not UTF-8; expected a name that is; rename it")
    rows = sorted(rows, key=lambda row: str(row["image_id"]))
    columns: dict[str, Any] = {
        "image_id": _text(rows, "image_id", required=True),
        "path": _object(row.get("path", row["image_id"]) for row in rows),
    }
    for name in labels:
        values = np.array([_number(row.get(LABEL + name)) for row in rows], dtype=np.float32)
        bad = np.flatnonzero(~(np.isnan(values) | (values == 0) | (values == 1)))
        if bad.size:
            at, value = rows[int(bad[0])]["image_id"], values[bad[0]]
            raise UserError(f"{at}: label '{name}' is {value:g}; expected 0, 1 or unknown")
        columns[LABEL + name] = values
    for column in _TEXT:
        columns[column] = _text(rows, column)
    columns["content_hash"] = _text(rows, "content_hash", required=True)
    known = {*columns, *(LABEL + name for name in labels)}
    for extra in dict.fromkeys(key for row in rows for key in row if key not in known):
        columns[extra] = pd.Series([row.get(extra) for row in rows])

    for image_id, split in zip(columns["image_id"], columns["official_split"], strict=True):
        if split is not None and split not in SPLITS:
            raise UserError(f"{image_id}: official split '{split}'; expected train, val, test or none")
    for image_id, content in zip(columns["image_id"], columns["content_hash"], strict=True):
        if not _HASH.fullmatch(content):
            raise UserError(f"{image_id}: content_hash '{content}'; expected 64 hex digits")
    return pd.DataFrame(columns)


def list_images(folder: Path, *, recursive: bool) -> list[Path]:
    """Return the image files below a folder, sorted; hidden files and Mac shadows are left out."""
    if not recursive:
        return sorted(p for p in folder.iterdir() if _is_image(p.name) and p.is_file())
    found: list[Path] = []

    def stop(error: OSError) -> None:  # os.walk would pass over a folder that it may not read
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); expected a folder of images: mend its permissions"
        ) from None

    for parent, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [f for f in folders if not f.startswith(".") and f not in IGNORED_FOLDERS]
        found += [Path(parent) / f for f in files if _is_image(f)]
    return sorted(found)


def hash_files(paths: Sequence[Path], progress: bool = True) -> list[str]:
    """Return the SHA-256 of every file, in order; threads read, a bar shows long lists."""
    with ThreadPoolExecutor(max_workers=min(16, (os.cpu_count() or 1) + 4)) as pool:
        hashes: Iterable[str] = pool.map(_hash, paths)
        if progress and len(paths) > PROGRESS_ABOVE:
            from rich.progress import track

            quiet = not sys.stdout.isatty()  # elsewhere a bar that has gone would leave an empty line
            hashes = track(hashes, description="hashing", total=len(paths), transient=True, disable=quiet)
        return list(hashes)


def _hash(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected an image file") from None


def _is_text(name: str) -> bool:
    """Say whether a name can be written as text: a disk takes any bytes, which Python keeps as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _object(values: Iterable[Any]) -> pd.Series[Any]:
    """A column of str and None that pandas does not turn into NaN."""
    return pd.Series(list(values), dtype=object)


def _text(rows: Sequence[Mapping[str, Any]], column: str, *, required: bool = False) -> pd.Series[Any]:
    values = [row.get(column) for row in rows]
    for row, value in zip(rows, values, strict=True):
        missing = value is None and not required
        if not missing and not (isinstance(value, str) and value):
            expected = "text" if required else "text or none"
            raise UserError(f"{row['image_id']}: {column} is {value!r}; expected {expected}")
    return _object(values)
