"""What is tried: each reader with good files of its own making. Imported by the child alone.

A reader takes a file's bytes, puts them where the real function looks for them, calls it and uses what it returned
as its callers do. It returns where the file was taken, and raises `UserError` where it was refused; whatever else it
raises is a defect, an AssertionError here among them: taken, and something else than was in the file.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from cxr.data.cache import ImageCache
from cxr.data.decode import fit, read_gray, to_uint8
from cxr.data.listing import read_rows
from cxr.data.split import holdout
from cxr.data.synthetic import (
    SEAL,
    _seal,
    check_leak,
    load_synthetic,
    resized,
    synthetic_labels,
    write_synthetic,
)
from cxr.data.table import Table
from cxr.errors import UserError
from cxr.files import file_sha256

__all__ = ["CLASSES", "DATA", "Reader", "parquet"]

N, SIDE_PX = 6, 16
CLASSES = ["sick", "well"]


class Reader(NamedTuple):
    """Good files, how they may be edited (see `mutate.PARTS`), and what reads one."""

    seeds: list[bytes]
    insides: tuple[str, ...]
    read: Callable[[bytes], object]


def _picture(number: int, side_px: int = 24) -> Any:
    return np.random.default_rng(number).integers(0, 256, (side_px, side_px + 8), dtype=np.uint8)


def _pictures(folder: Path) -> list[str]:
    folder.mkdir()
    names = [f"p{i}.png" for i in range(N)]
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), _picture(i))
    return names


def parquet(frame: pd.DataFrame, **options: Any) -> bytes:
    target = io.BytesIO()
    frame.to_parquet(target, **options)
    return target.getvalue()


def _check_index(index: pd.DataFrame, folder: Path) -> None:
    """Hold an index against its promise: each file once, below the folder, labels 0, 1 or NaN."""
    assert index["image_id"].is_unique and len(index)
    for path in index["path"]:
        assert (folder / path).resolve().is_relative_to(folder.resolve()), path
    values = index[[c for c in index if str(c).startswith("label:")]].to_numpy()
    assert (np.isnan(values) | (values == 0) | (values == 1)).all()


def table(here: Path, suffix: str) -> Reader:
    """cxr.data.table: every form that it takes."""
    names = _pictures(here / "root")
    labels = [CLASSES[i % 2] for i in range(N)]
    frame = pd.DataFrame({"path": names, "label": labels, "patient": [f"q{i // 2}" for i in range(N)],
                          "part": ["train", "val", "test"] * 2, "a": [1, 0] * 3, "b": [0, 1] * 3})  # fmt: skip
    text = frame.to_csv(index=False)
    seeds = [
        text.encode(),
        text.replace(",", ";").replace("\n", "\r\n").encode("utf-8-sig"),
        text.encode("utf-16"),
    ]
    if suffix == "parquet":
        seeds = [
            parquet(frame),
            parquet(frame.astype({"a": float}), compression="none"),
            parquet(frame, compression="zstd"),
        ]
    file = here / f"table.{suffix}"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        errors: list[UserError] = []
        common = {
            "csv": file,
            "root": here / "root",
            "path_column": "path",
            "patient_column": "patient",
            "split_column": "part",
        }
        for by in (
            {"label_columns": None, "label_column": "label", "multi_label": False},
            {"label_columns": ["a", "b"], "label_column": None, "multi_label": True},
        ):
            try:
                _check_index(Table(**common, **by).index(), here / "root")  # type: ignore[arg-type]
            except UserError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    return Reader(seeds, ("whole",), read)


def listing(here: Path) -> Reader:
    """cxr.data.listing: the tables of published sets, also gzipped."""
    text = "Image Index,Finding Labels,Age\n" + "".join(
        f'{i:08d}_000.png,"A|B",{50 + i}Y\n' for i in range(5)
    )
    file = here / "listing.csv"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        rows = read_rows(file)
        assert rows and all(isinstance(cell, str) for row in rows for cell in row)

    return Reader([text.encode(), gzip.compress(text.encode(), mtime=0)], ("whole",), read)


def split_list(here: Path) -> Reader:
    """cxr.data.split.holdout: the list of test images."""
    index = pd.DataFrame({"image_id": [f"i{k}" for k in range(12)], "label:a": np.float32([0, 1] * 6),
                          "patient_id": pd.Series([None] * 12, dtype=object),
                          "content_hash": [f"{k:064x}" for k in range(12)]})  # fmt: skip
    file = here / "split.csv"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        split = holdout(index, test_ids=None, csv=file, val=2, on_overlap="refuse", seed=0)
        assert sorted(np.concatenate(list(split.parts.values()))) == list(range(12))

    return Reader([b"image_id\ni3\ni5\n", b'image_id,why\ni1,old\ni2,"two\nlines"\n'], ("whole",), read)


def image(here: Path) -> Reader:
    """cxr.data.decode: every kind of picture there is, and what of real ones CXR_FUZZ_IMAGES names."""
    gray = _picture(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("PNG", Image.fromarray(gray), {}),
        ("PNG", Image.fromarray(gray).convert("P"), {}),
        ("PNG", Image.fromarray(gray).convert("RGBA"), {"exif": exif}),
        ("PNG", Image.fromarray(gray > 128), {}),
        ("JPEG", Image.fromarray(gray), {}),
        ("JPEG", Image.fromarray(gray).convert("RGB"), {"progressive": True, "exif": exif}),
        ("BMP", Image.fromarray(gray), {}),
        ("BMP", Image.fromarray(gray).convert("RGB"), {}),
        ("WEBP", Image.fromarray(gray).convert("RGB"), {}),
        ("WEBP", Image.fromarray(gray).convert("RGB"), {"lossless": True}),
        ("TIFF", Image.fromarray(gray), {}),
        ("TIFF", Image.fromarray(gray), {"compression": "tiff_lzw"}),
        ("TIFF", Image.fromarray(gray), {"compression": "tiff_adobe_deflate"}),
        ("TIFF", Image.fromarray(gray).convert("RGB"), {"compression": "jpeg"}),
        ("TIFF", Image.fromarray(gray).convert("F"), {}),
        ("PPM", Image.fromarray(gray), {}),
    ]
    seeds = []
    for kind, picture, options in kinds:
        target = io.BytesIO()
        picture.save(target, kind, **options)
        seeds.append(target.getvalue())
    deep = gray.astype(np.uint16) * 200
    seeds += [cv2.imencode(suffix, deep)[1].tobytes() for suffix in (".png", ".tif", ".pgm")]
    seeds += [
        Path(name).read_bytes() for name in os.environ.get("CXR_FUZZ_IMAGES", "").split(os.pathsep) if name
    ]
    file = here / "picture.png"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        pixels = read_gray(file)
        assert pixels.ndim == 2 and pixels.dtype in (np.uint8, np.uint16, np.float32)
        square = fit(to_uint8(pixels, (0.0, 60000.0)), SIDE_PX, "pad")
        assert square.shape == (SIDE_PX, SIDE_PX) and square.dtype == np.uint8

    return Reader(seeds, ("whole", "png"), read)


class _Files:
    """A source of the pictures below a folder, of which one is broken."""

    name, classes, multi_label, warnings = "files", ["a"], False, ()

    def __init__(self, root: Path) -> None:
        self.root = root
        names = _pictures(root)
        (root / names[2]).write_bytes(b"no picture")
        self.table = pd.DataFrame({"image_id": names, "path": names, "label:a": np.ones(N, np.float32),
                                   "content_hash": [file_sha256(root / name) for name in names]})  # fmt: skip

    def index(self) -> pd.DataFrame:
        return self.table

    def read(self, path: str) -> Any:
        return read_gray(self.root / path)


def cache(here: Path, name: str) -> Reader:
    """cxr.data.cache: a file of a whole cache edited. It is believed, or made anew; the pixels are right in both."""
    source = _Files(here / "root")
    made = ImageCache(here / "cache", SIDE_PX, "pad", None, "skip", 1)
    first = made.build(source, source.table)
    expected, folder = np.array(first.images), first.path
    made.build(source, source.table)  # leaves the stamp
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}

    def read(data: bytes) -> None:
        folder.mkdir(exist_ok=True)
        for other, content in kept.items():
            (folder / other).write_bytes(data if other == name else content)
        found = made.build(source, source.table)
        assert np.array_equal(found.images, expected), "other pixels"
        assert list(found.index["image_id"]) == [n for n in source.table["image_id"] if n != "p2.png"], (
            "other rows"
        )

    return Reader([kept[name]], ("whole", "json") if name.endswith("json") else ("whole",), read)


def partial(here: Path, name: str) -> Reader:
    """cxr.data.cache: a file of a half-made cache edited."""
    source = _Files(here / "root")
    made = ImageCache(here / "cache", SIDE_PX, "pad", None, "stop", 1)
    with suppress(UserError):  # one picture is broken: what was done is kept
        made.build(source, source.table)
    folder = next((here / "cache").glob("*.partial"))
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}

    def read(data: bytes) -> None:
        folder.mkdir(exist_ok=True)
        for other, content in kept.items():
            (folder / other).write_bytes(data if other == name else content)
        try:
            made.build(source, source.table)
        except UserError as error:
            assert "1 of 6 image files cannot be used" in str(error), error
            return

    return Reader([kept[name]], ("whole", "json") if name.endswith("json") else ("whole",), read)


def synthetic(here: Path, name: str) -> Reader:
    """cxr.data.synthetic: a set of which one file is edited, the hashes and the seal mended as a stranger would."""
    folder = here / "set"
    images = np.stack([cv2.resize(_picture(i), (SIDE_PX, SIDE_PX)) for i in range(N)])
    index = pd.DataFrame({"class": [CLASSES[i % 2] for i in range(N)], "z_seed": 0, "z_index": range(N),
                          "checkpoint_sha256": "0" * 64, "score": np.nan})  # fmt: skip
    facts = {"classes": CLASSES, "seed": 0, "checkpoints": [{"file": "a.ckpt", "sha256": "0" * 64}],
             "trained_on": [f"{k:064x}" for k in range(3)], "split_fingerprint": "f" * 16,
             "chosen_on": [f"{k:064x}" for k in range(3, 5)], "curated": [{"filter": "realism"}]}  # fmt: skip
    write_synthetic(folder, images, index, facts, None)
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}

    def read(data: bytes) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        for other, content in kept.items():
            (folder / other).write_bytes(data if other == name else content)
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
        except (ValueError, RecursionError):
            manifest = None
        if isinstance(manifest, dict):
            for other in ("images.npy", "index.parquet"):
                manifest[f"{other.partition('.')[0]}_sha256"] = file_sha256(folder / other)
            manifest[SEAL] = _seal(manifest)
            (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        found = load_synthetic(folder)
        assert found.images.dtype == np.uint8 and found.images.ndim == 3
        check_leak(found, {"8" * 64}, "refuse", {"9" * 64})
        labels = synthetic_labels([found], CLASSES)
        assert labels.shape == (len(found.images), 2) and (labels.sum(axis=1) == 1).all()
        assert resized(found, 8).images.shape == (len(labels), 8, 8)

    return Reader([kept[name]], ("json", "whole") if name.endswith("json") else ("whole",), read)


DATA: dict[str, Callable[[Path], Reader]] = {
    "table.csv": lambda here: table(here, "csv"),
    "table.parquet": lambda here: table(here, "parquet"),
    "a published set's table": listing,
    "list of test images": split_list,
    "image": image,
    "cache: manifest.json": lambda here: cache(here, "manifest.json"),
    "cache: images.checked.json": lambda here: cache(here, "images.checked.json"),
    "cache: images.npy": lambda here: cache(here, "images.npy"),
    "cache: index.parquet": lambda here: cache(here, "index.parquet"),
    "half a cache: parameters.json": lambda here: partial(here, "parameters.json"),
    "half a cache: pixels.npy": lambda here: partial(here, "pixels.npy"),
    "synthetic set: manifest.json": lambda here: synthetic(here, "manifest.json"),
    "synthetic set: images.npy": lambda here: synthetic(here, "images.npy"),
    "synthetic set: index.parquet": lambda here: synthetic(here, "index.parquet"),
}
