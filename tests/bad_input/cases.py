"""The table of bad inputs: how each is made, the command that meets it, and what that command must say.

`make(here)` is called in an empty working directory that already holds what `base` names:

    folder      set/{sick,well}/p00.png … p11.png, 40 x 40 px, a patient each
    table       the same, and table.csv with the columns path, label, patient
    classifier  `folder`, and runs/c, a finished classifier, with its cache
    gan         `folder`, and runs/g, a finished GAN, with its synthetic set synthetic/g

`told` are regular expressions of which each must be found in the one line of a refusal (`taken` is False),
or in what a command printed that carried on (`taken` is True).
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

N = 12  # images of a class
QUICK = ["cache.size_px=32", "trainer.max_epochs=1", "trainer.progress=none"]
SPLIT = ["split=stratified", "split.val=0.2", "split.test=0.2"]
FOLDER = ["data=folder", "data.root=set", "data.classes=[sick,well]", *SPLIT, *QUICK, "name=r"]
TABLE = ["data=table", "data.csv=table.csv", "data.classes=[sick,well]", *SPLIT, *QUICK, "name=r"]
CLASSIFIER = [*FOLDER[:-1], "name=c"]
GAN = [
    *FOLDER[:-1],
    "task=gan",
    "train_classes=[sick]",
    "name=g",
    "gan.generator.widths=[16,16,16,8]",
    "cache.size_px=64",
    "gan.discriminator.widths=[8,8,8]",
    "callback.generative_score.n_images=16",
    "split.val=0.4",
]
SICK = "set/sick/p03.png"


class Case(NamedTuple):
    """One row of the table; see the module's head."""

    group: str
    name: str
    make: Callable[[Path], object]
    arguments: list[str]
    told: tuple[str, ...]
    script: str = "train"
    base: str = "folder"
    taken: bool = False


def nothing(here: Path) -> None:
    """The command alone is wrong."""


def pixels(seed: int, side: int = 40) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A gray picture that no other seed makes."""
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def good_folder(here: Path) -> None:
    """Make the set that nothing is wrong with."""
    for k, label in enumerate(("sick", "well")):
        (here / "set" / label).mkdir(parents=True)
        for i in range(N):
            cv2.imwrite(str(here / "set" / label / f"p{i:02d}.png"), pixels(100 * k + i))


def good_table(here: Path) -> None:
    """Make the set and its table."""
    good_folder(here)
    write_table(here, rows())


def rows() -> list[list[str]]:
    """The cells of the good table, header first."""
    names = [(label, f"p{i:02d}") for label in ("sick", "well") for i in range(N)]
    return [["path", "label", "patient"], *([f"set/{a}/{b}.png", a, f"{a}-{b}"] for a, b in names)]


def write_table(here: Path, cells: list[list[str]], separator: str = ",", end: str = "\n") -> None:
    """Write table.csv."""
    (here / "table.csv").write_bytes((end.join(separator.join(r) for r in cells) + end).encode())


def table(change: Callable[[list[list[str]]], Any]) -> Callable[[Path], object]:
    """Make a table that `change` has spoilt."""

    def make(here: Path) -> None:
        cells = rows()
        change(cells)
        write_table(here, cells)

    return make


def cell(row: int, column: int, text: str) -> Callable[[Path], object]:
    """Make a table with one other cell; `row` counts as a spreadsheet does."""
    return table(lambda cells: cells[row - 1].__setitem__(column, text))


def image(content: Callable[[], bytes], place: str = SICK) -> Callable[[Path], object]:
    """Replace one image by other bytes."""

    def make(here: Path) -> None:
        (here / SICK).unlink()
        (here / place).write_bytes(content())

    return make


def encoded(suffix: str, array: Any = None, **options: Any) -> bytes:
    """Return a picture as a file's bytes, by Pillow."""
    import io

    file = io.BytesIO()
    source = Image.fromarray(pixels(7)) if array is None else array
    (source if isinstance(source, Image.Image) else Image.fromarray(source)).save(file, suffix, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a PNG's block with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int) -> bytes:
    """Return a whole PNG whose header claims a size that its few bytes do not hold."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(bytes(64))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bmp_of(width: int, height: int) -> bytes:
    """Return a BMP header that claims a size, and a few bytes."""
    return (
        struct.pack("<2sIHHI", b"BM", 1078, 0, 0, 1078)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 0, 0, 0, 0, 256, 0)
        + bytes(1100)
    )


def flipped(data: bytes) -> bytes:
    """Return bytes of which one in the middle is another."""
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 0xFF]) + data[len(data) // 2 + 1 :]


def turned() -> bytes:
    """Return a JPEG that a viewer shows lying on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("JPEG", exif=exif)


def two_frames(kind: str) -> bytes:
    """Return an animation of two pictures."""
    return encoded(kind, save_all=True, append_images=[Image.fromarray(pixels(8))], duration=100)


def dicom() -> bytes:
    """Return what tells a DICOM file: 128 bytes of anything, then DICM."""
    return bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00" + bytes(200)


def only_dicom(here: Path) -> None:
    """Replace all images of a class by DICOM files."""
    for file in (here / "set" / "sick").iterdir():
        file.rename(file.with_suffix(".dcm")).write_bytes(dicom())


def changed(place: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Change the bytes of a file that a stage has left."""

    def make(here: Path) -> None:
        [file] = here.glob(place)
        file.write_bytes(change(file.read_bytes()))

    return make


def half(data: bytes) -> bytes:
    """Return the first half."""
    return data[: len(data) // 2]


def edited(place: str, **values: Any) -> Callable[[Path], object]:
    """Change values in a JSON file that a stage has left."""
    return changed(place, lambda data: json.dumps({**json.loads(data), **values}).encode())


def both(*makers: Callable[[Path], object]) -> Callable[[Path], object]:
    """Make one after the other."""

    def make(here: Path) -> None:
        for one in makers:
            one(here)

    return make


def resaved(place: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], object]:
    """Change what a checkpoint holds."""

    def make(here: Path) -> None:
        checkpoint = torch.load(here / place, weights_only=True)
        torch.save(change(checkpoint), here / place)

    return make


def other_network(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the checkpoint with the weights of a network of other layers."""
    weights = checkpoint["state_dict"]
    first = next(name for name, value in weights.items() if value.ndim == 4)
    return {**checkpoint, "state_dict": {**weights, first: torch.zeros(3, 5, 7, 7)}}


def later(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the checkpoint as a later cxr may write it."""
    return {**checkpoint, "cxr": {"format": 99, "version": "9.1"}}


def unfinished(here: Path) -> None:
    """The run of the classifier was killed."""
    edited("runs/c/status.json", state="running")(here)


def one_image(here: Path) -> None:
    """Leave one image of a class."""
    for file in sorted((here / "set" / "sick").iterdir())[1:]:
        file.unlink()


def no_image(here: Path) -> None:
    """Leave a class's folder empty."""
    for file in (here / "set" / "sick").iterdir():
        file.unlink()


def link_out(here: Path) -> None:
    """Make an image of the set a link to a file outside its folder."""
    cv2.imwrite(str(here / "outside.png"), pixels(5))
    (here / SICK).unlink()
    (here / SICK).symlink_to(here / "outside.png")


def link_to_nothing(here: Path) -> None:
    """Make an image of the set a link to a file that has gone."""
    (here / SICK).unlink()
    (here / SICK).symlink_to("gone")


def outside(path: str) -> Callable[[Path], object]:
    """A table below `set`, one cell of which names an existing image outside it."""

    def make(here: Path) -> None:
        cv2.imwrite(str(here / "outside.png"), pixels(5))
        cells = [[c.removeprefix("set/") for c in row] for row in rows()]
        cells[4][0] = path.replace("HERE", str(here))
        write_table(here, cells)

    return make


def pickled(here: Path) -> None:
    """A checkpoint that would run a command."""

    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(here / "owned"),)

    (here / "runs/c/checkpoints/last.ckpt").write_bytes(pickle.dumps(Payload()))


def a_file(name: str) -> Callable[[Path], object]:
    """Put a file where a folder will be wanted."""
    return lambda here: (here / name).write_text("x")


BAD_FILE = r"1 of 24 image files cannot be used, the first is sick/p03"
MEND = r"rejected\.csv; expected readable images: mend or remove them, or leave them out with cache\.on_bad_image=skip"
WINDOW = r"sick/p03\S*: pixels are {} in \[.*\], not 8-bit; .*set cache\.window=\[LOW,HIGH\]"
FINISHED = r"runs/r: finished"
AGAIN = r"make it again with python generate\.py"
MIXED = [*FOLDER, "cache.size_px=64", "mix=add", "synthetic=[g]", "mix.counts={sick:4}"]


def bad(name: str, content: Callable[[], bytes], reason: str, place: str = SICK) -> Case:
    """A file that is no usable image."""
    return Case("image", name, image(content, place), FOLDER, (BAD_FILE, reason, MEND))


def odd(name: str, content: Callable[[], bytes], place: str = SICK, *extra: str) -> Case:
    """An unusual file that is read."""
    return Case("image", name, image(content, place), [*FOLDER, *extra], (FINISHED,), taken=True)


ROOT = [
    Case("root", "no root given", nothing, [*FOLDER, "data.root=null"], (r"no location: set data\.root=",)),
    Case(
        "root",
        "root does not exist",
        nothing,
        [*FOLDER, "data.root=nowhere"],
        (r"not at nowhere: set data\.root=",),
    ),
    Case(
        "root",
        "root is a file",
        a_file("f"),
        [*FOLDER, "data.root=f"],
        (r"data\.root=f: expected one sub-folder per class, found a file",),
    ),
    Case(
        "root",
        "root is empty",
        lambda here: (here / "e").mkdir(),
        [*FOLDER, "data.root=e"],
        (r"data\.root=e: expected one sub-folder per class, found nothing",),
    ),
    Case(
        "root",
        "root is one folder too high",
        nothing,
        [*FOLDER, "data.root=."],
        (r"no folder 'sick' in \.", "known: .*set"),
    ),
    Case(
        "root",
        "a class folder is misspelt",
        lambda here: (here / "set/sick").rename(here / "set/sikc"),
        FOLDER,
        (r"no folder 'sick' in set; did you mean 'sikc'",),
    ),
    Case(
        "root",
        "a class without an image",
        no_image,
        FOLDER,
        (r"data\.root=set: expected image files in the folder 'sick', found none",),
    ),
    Case(
        "root",
        "a published set's root without its folders",
        nothing,
        [*QUICK, "data=pneumonia", "data.root=set", "name=r"],
        (r"set", r"expected"),
    ),
]

IMAGES = [
    bad("zero bytes", lambda: b"", "empty file"),
    bad("truncated PNG", lambda: half(encoded("PNG")), "truncated PNG"),
    bad("truncated JPEG", lambda: half(encoded("JPEG")), "truncated JPEG", "set/sick/p03.jpg"),
    bad("PNG with a flipped byte", lambda: flipped(encoded("PNG")), "damaged PNG"),
    bad("text named .png", lambda: b"<html>404 not found</html>", "not an image"),
    bad("only a PNG's first 12 bytes", lambda: encoded("PNG")[:12], "truncated file"),
    bad(
        "truncated TIFF",
        lambda: half(encoded("TIFF")),
        "not an image|cannot be decoded|truncated",
        "set/sick/p03.tif",
    ),
    bad(
        "truncated WEBP", lambda: half(encoded("WEBP")), "not an image|damaged|truncated", "set/sick/p03.webp"
    ),
    bad("1 x 1 pixel", lambda: encoded("PNG", pixels(1, 1)), r"1x1 pixels, fewer than the \d+ on each side"),
    bad("20,000 px PNG", lambda: png_of(20_000, 20_000), "20000x20000 pixels, more than the 100,000,000"),
    bad(
        "decompression bomb, PNG",
        lambda: png_of(2**31 - 1, 2**31 - 1),
        r"2147483647x2147483647 pixels, more than",
    ),
    bad(
        "decompression bomb, BMP",
        lambda: bmp_of(30_000, 30_000),
        "a decompression bomb .*900000000 pixels",
        "set/sick/p03.bmp",
    ),
    bad("animated PNG", lambda: two_frames("PNG"), "2 pictures in one file"),
    bad("animated WEBP", lambda: two_frames("WEBP"), "2 pictures in one file", "set/sick/p03.webp"),
    bad("TIFF of two pages", lambda: two_frames("TIFF"), "2 pictures in one file", "set/sick/p03.tif"),
    bad("DICOM named .png", dicom, "DICOM.*convert"),
    bad(
        "float TIFF with a NaN",
        lambda: encoded("TIFF", np.full((40, 40), np.nan, np.float32)),
        "NaN",
        "set/sick/p03.tif",
    ),
    Case(
        "image",
        "a folder of .dcm files",
        only_dicom,
        FOLDER,
        (r"folder 'sick'", r"12 DICOM files", "convert"),
    ),
    Case(
        "image",
        "an image that is a link to nothing",
        link_to_nothing,
        FOLDER,
        ("p03.png", "cannot be read", "expected"),
    ),
    Case(
        "image",
        "an image that is a link to a file elsewhere (sets are spread over disks)",
        link_out,
        FOLDER,
        (FINISHED,),
        taken=True,
    ),
    Case(
        "image",
        "16-bit PNG without a window",
        image(lambda: encoded("PNG", pixels(7).astype(np.uint16) * 200)),
        FOLDER,
        (WINDOW.format("uint16"),),
    ),
    Case(
        "image",
        "float TIFF without a window",
        image(lambda: encoded("TIFF", pixels(7).astype(np.float32)), "set/sick/p03.tif"),
        FOLDER,
        (WINDOW.format("float32"),),
    ),
    Case(
        "image",
        "window upside down",
        nothing,
        [*FOLDER, "cache.window=[9,1]"],
        (r"cache\.window", "LOW < HIGH"),
    ),
    Case(
        "image",
        "a damaged image, cache.on_bad_image=skip",
        image(lambda: half(encoded("PNG"))),
        [*FOLDER, "cache.on_bad_image=skip"],
        (FINISHED,),
        taken=True,
    ),
    Case(
        "image",
        "no image can be used, cache.on_bad_image=skip",
        lambda here: [f.write_bytes(b"x") for f in (here / "set").rglob("*.png")],
        [*FOLDER, "cache.on_bad_image=skip"],
        (r"24 of 24 image files cannot be used",),
    ),
    odd("WEBP named .jpg", lambda: encoded("WEBP"), "set/sick/p03.jpg"),
    odd("JPEG that EXIF turns", turned, "set/sick/p03.jpg"),
    odd("palette PNG", lambda: encoded("PNG", Image.fromarray(pixels(7)).convert("P"))),
    odd("RGBA PNG", lambda: encoded("PNG", Image.fromarray(pixels(7)).convert("RGB").convert("RGBA"))),
    odd(
        "CMYK JPEG",
        lambda: encoded("JPEG", Image.fromarray(pixels(7)).convert("RGB").convert("CMYK")),
        "set/sick/p03.jpg",
    ),
    odd("1-bit PNG", lambda: encoded("PNG", Image.fromarray(pixels(7)).convert("1"))),
    odd(
        "16-bit PNG with a window",
        lambda: encoded("PNG", pixels(7).astype(np.uint16) * 200),
        SICK,
        "cache.window=[0,51000]",
    ),
    odd("inverted TIFF (white is zero)", lambda: encoded("TIFF", tiffinfo={262: 0}), "set/sick/p03.tif"),
]

COLUMN = r"table\.csv: "
TABLES = [
    Case(
        "table",
        "no such table",
        nothing,
        [*TABLE, "data.csv=gone.csv"],
        (r"not at gone\.csv: set data\.csv=",),
        base="table",
    ),
    Case(
        "table",
        "the table is a folder",
        nothing,
        [*TABLE, "data.csv=set"],
        (r"data\.csv=set: .*found a folder",),
        base="table",
    ),
    Case(
        "table",
        "empty table",
        lambda here: write_table(here, [[]]),
        TABLE,
        (COLUMN + "empty; expected a header",),
        base="table",
    ),
    Case(
        "table",
        "header only",
        table(lambda c: c.__delitem__(slice(1, None))),
        TABLE,
        (COLUMN + "no rows below",),
        base="table",
    ),
    Case(
        "table",
        "column missing",
        table(lambda c: [r.pop(1) for r in c]),
        TABLE,
        (COLUMN + r"no column 'label' \(data\.label_column\)", "known: path, patient"),
        base="table",
    ),
    Case(
        "table",
        "column misspelt",
        cell(1, 0, "paht"),
        TABLE,
        (COLUMN + r"no column 'path' \(data\.path_column\); did you mean 'paht'",),
        base="table",
    ),
    Case(
        "table",
        "column doubled",
        cell(1, 2, "label"),
        TABLE,
        (COLUMN + "column 'label' occurs more than once",),
        base="table",
    ),
    Case(
        "table",
        "a row with too few cells",
        table(lambda c: c[5].pop()),
        TABLE,
        (COLUMN + r"row 6 has 2 cells; expected 3",),
        base="table",
    ),
    Case(
        "table",
        "a row with too many cells",
        table(lambda c: c[5].append("x")),
        TABLE,
        (COLUMN + r"row 6 has 4 cells",),
        base="table",
    ),
    Case(
        "table",
        "a blank path",
        cell(5, 0, ""),
        TABLE,
        (r"row 5, column 'path' is ''; expected a path",),
        base="table",
    ),
    Case(
        "table",
        "a blank class",
        cell(5, 1, ""),
        TABLE,
        (r"row 5, column 'label' is ''; expected a class name",),
        base="table",
    ),
    Case(
        "table",
        "an unknown class asked for",
        nothing,
        [*TABLE, "data.classes=[sik,well]"],
        (r"has no label 'sik'; did you mean 'sick'",),
        base="table",
    ),
    Case(
        "table",
        "a label that is neither 1 nor 0",
        table(
            lambda c: [
                r.__setitem__(1, t) for r, t in zip(c, ["label", "1", "maybe", *"01" * 11], strict=True)
            ]
        ),
        [
            *TABLE,
            "data.label_column=null",
            "data.label_columns=[label]",
            "data.multi_label=true",
            "data.classes=[label]",
            "task=gan",
            "cache.size_px=64",
        ],
        (r"row 3, column 'label' is 'maybe'; expected 1, 0 or blank",),
        base="table",
    ),
    Case(
        "table",
        "the same path twice",
        table(lambda c: c.append(c[3])),
        TABLE,
        (r"row 26, column 'path' .*expected each path once; it is also in row 4",),
        base="table",
    ),
    Case(
        "table",
        "paths that do not exist",
        cell(7, 0, "set/sick/gone.png"),
        TABLE,
        (
            r"row 7, column 'path' is 'set/sick/gone.png'; expected a file below \S+ \(1 of 24 rows have none\); set data\.root",
        ),
        base="table",
    ),
    Case(
        "table",
        "an absolute path out of the root",
        outside("HERE/outside.png"),
        [*TABLE, "data.root=set"],
        (r"row 5, column 'path' is '/.*/outside\.png'", "below"),
        base="table",
    ),
    Case(
        "table",
        "a path that climbs out by ..",
        outside("../outside.png"),
        [*TABLE, "data.root=set"],
        (r"row 5, column 'path' is '\.\./outside\.png'", "below"),
        base="table",
    ),
    Case(
        "table",
        "a part that is no part",
        table(
            lambda c: [
                r.__setitem__(2, t) for r, t in zip(c, ["part", *["train"] * 23, "holdout"], strict=True)
            ]
        ),
        [*TABLE, "data.split_column=part"],
        (r"row 25, column 'part' is 'holdout'; expected train, val, test or blank",),
        base="table",
    ),
    Case(
        "table",
        "a spreadsheet named .csv",
        lambda here: (here / "table.csv").write_bytes(b"PK\x03\x04\x14\xff\xfe" * 9),
        TABLE,
        (COLUMN + "byte .* is not UTF-8; expected a CSV",),
        base="table",
    ),
    Case(
        "table",
        "NUL bytes",
        lambda here: (here / "table.csv").write_bytes(b"path,label\n\x00\x00,\x00\n"),
        TABLE,
        (r"table\.csv", "expected"),
        base="table",
    ),
    Case(
        "table",
        "UTF-16 cut short",
        lambda here: (here / "table.csv").write_bytes("path".encode("utf-16")[:-1]),
        TABLE,
        (r"table\.csv", "expected"),
        base="table",
    ),
    Case(
        "table",
        "truncated parquet",
        lambda here: (here / "t.parquet").write_bytes(b"PAR1\x15\x04\x15"),
        [*TABLE, "data.csv=t.parquet"],
        (r"t\.parquet: not a parquet file",),
        base="table",
    ),
    Case(
        "table",
        "byte-order mark",
        changed("table.csv", lambda d: b"\xef\xbb\xbf" + d),
        TABLE,
        (FINISHED,),
        base="table",
        taken=True,
    ),
    Case(
        "table",
        "semicolons",
        lambda here: write_table(here, rows(), ";"),
        TABLE,
        (FINISHED,),
        base="table",
        taken=True,
    ),
    Case(
        "table",
        "CRLF",
        lambda here: write_table(here, rows(), end="\r\n"),
        TABLE,
        (FINISHED,),
        base="table",
        taken=True,
    ),
]

SPLITS = [
    Case("split", "one image of a class", one_image, FOLDER, (FINISHED,), taken=True),
    Case(
        "split",
        "one patient",
        table(lambda c: [r.__setitem__(2, "p") for r in c[1:]]),
        [*TABLE, "data.patient_column=patient", "split=patient"],
        (
            r"split\.(val|test|train): gets no image, expected about \d+: the 24 images are 1 group",
            r"lower split\.val",
        ),
        base="table",
    ),
    Case(
        "split",
        "folds more than patients",
        table(lambda c: [r.__setitem__(2, f"p{i % 3}") for i, r in enumerate(c[1:])]),
        [
            "data=table",
            "data.csv=table.csv",
            "data.classes=[sick,well]",
            "data.patient_column=patient",
            "split=kfold",
            "split.folds=5",
            *QUICK,
            "name=r",
        ],
        (r"3 groups of images cannot make 5 folds: lower split\.folds",),
        base="table",
    ),
    Case(
        "split",
        "fold out of range",
        nothing,
        ["data=phantom", "split=kfold", "split.fold=7", *QUICK, "name=r"],
        (r"split\.fold", "expected"),
    ),
    Case(
        "split",
        "patients asked for where none are known",
        nothing,
        ["data=folder", "data.root=set", "data.classes=[sick,well]", "split=patient", *QUICK, "name=r"],
        (r"no patient ids, which split=patient needs: set split=stratified",),
    ),
    Case(
        "split",
        "the shipped split of a set without one",
        nothing,
        ["data=folder", "data.root=set", "data.classes=[sick,well]", "split=official", *QUICK, "name=r"],
        (r"ships no split; .*set split=patient",),
    ),
    Case(
        "split",
        "a list of test images with an unknown one",
        lambda here: (here / "ids.csv").write_text("image_id\nsick/p99.png\n"),
        [
            "data=folder",
            "data.root=set",
            "data.classes=[sick,well]",
            "split=holdout",
            "split.csv=ids.csv",
            *QUICK,
            "name=r",
        ],
        (
            r"1 of 1 test images are not in the index, the first is 'sick/p99.png'; did you mean 'sick/p\d9.png'",
        ),
    ),
    Case(
        "split",
        "nothing left to train on",
        nothing,
        [*FOLDER, "split.val=0.5", "split.test=0.5"],
        (r"lower split\.val",),
    ),
]

NUMBERS = [
    Case(
        "number",
        f"lr {value}",
        nothing,
        [*FOLDER, f"optimizer.lr={value}"],
        (rf"optimizer\.lr: got {told}, expected a finite number above 0; set optimizer\.lr=",),
    )
    for value, told in (("0.0", "0.0"), ("-1.0", r"-1\.0"), ("inf", "inf"))
] + [
    Case(
        "number",
        "lr nan",
        nothing,
        [*FOLDER, "optimizer.lr=nan"],
        (r"optimizer\.lr: got nan \(not a number\), expected float; set optimizer\.lr=",),
    ),
    Case("number", "batch of 0", nothing, [*FOLDER, "loader.batch_size=0"], (r"loader\.batch_size: got 0",)),
    Case(
        "number",
        "batch larger than the set",
        nothing,
        [*FOLDER, "loader.batch_size=4096"],
        (FINISHED,),
        taken=True,
    ),
    Case(
        "number",
        "batch larger than the set, last batch left out",
        nothing,
        [*FOLDER, "loader.batch_size=4096", "loader.drop_last=true"],
        (r"loader\.", "expected|lower|set"),
    ),
    Case(
        "number",
        "image size that the network cannot take",
        nothing,
        [*FOLDER, "cache.size_px=7"],
        (r"cache\.size_px|image_size_px",),
    ),
    Case(
        "number",
        "image size of a GAN's other size",
        nothing,
        [*GAN, "cache.size_px=48", "name=r"],
        (r"cache\.size_px|image_size_px",),
    ),
    Case(
        "number",
        "the loss is not finite (classifier)",
        nothing,
        [*FOLDER, "optimizer.lr=1e30", "trainer.max_epochs=9"],
        (
            r"(train|val) loss is not finite at step \d+ \(epoch \d+\); last checkpoint: .*; lower optimizer\.lr",
        ),
    ),
    Case(
        "number",
        "the loss is not finite (GAN)",
        nothing,
        [*GAN, "task.optimizer_d.lr=1e30", "trainer.max_epochs=9", "name=r"],
        (r"the GAN diverged: loss_[gd] not finite at step \d+; last good checkpoint: .*; lower task",),
    ),
    Case(
        "number",
        "no step's loss is finite, and task.on_not_finite=skip (GAN)",
        nothing,
        [
            *GAN,
            "task.optimizer_d.lr=1e30",
            "task.on_not_finite=skip",
            "task.max_skipped=2",
            "trainer.max_epochs=9",
            "name=r",
        ],
        (r"not finite in 3 steps in a row, .*task\.max_skipped=2.*last good checkpoint: .*; lower task",),
    ),
    Case(
        "number",
        "task.max_skipped below 0",
        nothing,
        [*FOLDER, "task.on_not_finite=skip", "task.max_skipped=-1"],
        (r"task\.max_skipped: got -1, expected 0 or more steps; set task\.max_skipped=10",),
    ),
]

CACHED = r"runs/r: finished"
PLACES = [
    Case(
        "place",
        "runs_dir is a file",
        a_file("f"),
        [*FOLDER, "runs_dir=f"],
        (r"f(/r)?: (File exists|Not a directory)", "runs_dir"),
    ),
    Case(
        "place",
        "cache.dir is a file",
        a_file("f"),
        [*FOLDER, "cache.dir=f"],
        (r"f\S*: (File exists|Not a directory)", r"cache\.dir"),
    ),
    Case(
        "place",
        "reports_dir is a file",
        a_file("f"),
        ["runs=[c]", "report=phantom", "reports_dir=f", "n_resamples=20"],
        (r"f\S*: (File exists|Not a directory)", "reports_dir"),
        "evaluate",
        "classifier",
    ),
    Case(
        "place",
        "synthetic_dir is a file",
        a_file("f"),
        ["run=g", "n=4", "synthetic_dir=f"],
        (r"f\S*: (File exists|Not a directory)", "synthetic_dir"),
        "generate",
        "gan",
    ),
    Case(
        "place",
        "a run's name that climbs out",
        nothing,
        [*FOLDER, "name=../r"],
        (r"name: got '\.\./r', expected letters",),
    ),
]

LEFT = [
    Case(
        "stage",
        "status.json truncated",
        changed("runs/c/status.json", half),
        CLASSIFIER,
        (r"runs/c/status\.json: not valid JSON",),
        base="classifier",
    ),
    Case(
        "stage",
        "images of the cache edited",
        changed("cache/*/images.npy", lambda d: d[:-5] + b"12345"),
        FOLDER,
        (CACHED, "decoded again"),
        base="classifier",
        taken=True,
    ),
    Case(
        "stage",
        "images of the cache truncated",
        changed("cache/*/images.npy", half),
        FOLDER,
        (CACHED, "decoded again"),
        base="classifier",
        taken=True,
    ),
    Case(
        "stage",
        "manifest of the cache truncated",
        changed("cache/*/manifest.json", half),
        FOLDER,
        (CACHED, "decoded again"),
        base="classifier",
        taken=True,
    ),
    Case(
        "stage",
        "index of the cache replaced",
        changed("cache/*/index.parquet", lambda d: b"x"),
        FOLDER,
        (CACHED, "decoded again"),
        base="classifier",
        taken=True,
    ),
    Case(
        "stage",
        "no such synthetic set",
        nothing,
        [*MIXED, "synthetic=[gg]"],
        (r"no synthetic set at synthetic/gg; did you mean 'g'",),
        base="gan",
    ),
    Case(
        "stage",
        "synthetic images edited",
        changed("synthetic/g/images.npy", lambda d: d[:-5] + b"12345"),
        MIXED,
        (r"synthetic/g/images\.npy is not what its manifest names", AGAIN),
        base="gan",
    ),
    Case(
        "stage",
        "synthetic images truncated",
        changed("synthetic/g/images.npy", half),
        MIXED,
        (r"synthetic/g", AGAIN),
        base="gan",
    ),
    Case(
        "stage",
        "synthetic manifest truncated",
        changed("synthetic/g/manifest.json", half),
        MIXED,
        (r"synthetic/g/manifest\.json: not valid JSON",),
        base="gan",
    ),
    Case(
        "stage",
        "synthetic manifest edited",
        edited("synthetic/g/manifest.json", trained_on=[]),
        MIXED,
        (r"synthetic/g/manifest\.json was changed", AGAIN),
        base="gan",
    ),
    Case(
        "stage",
        "synthetic index truncated",
        changed("synthetic/g/index.parquet", half),
        MIXED,
        (r"synthetic/g", AGAIN),
        base="gan",
    ),
    Case(
        "stage",
        "evaluate a run that does not exist",
        nothing,
        ["runs=[cc]"],
        (r"runs: nothing below runs is called 'cc'; did you mean 'c'",),
        "evaluate",
        "classifier",
    ),
    Case(
        "stage",
        "evaluate a GAN",
        nothing,
        ["runs=[g]"],
        (r"runs/g: not a classifier run",),
        "evaluate",
        "gan",
    ),
    Case(
        "stage",
        "evaluate a run that was killed",
        unfinished,
        ["runs=[c]"],
        (r"runs/c: .*interrupted",),
        "evaluate",
        "classifier",
    ),
    Case(
        "stage",
        "evaluate images that have changed since",
        changed(SICK, lambda d: encoded("PNG", pixels(999))),
        ["runs=[c]"],
        (r"runs/c: its test images are not those of training .*; set data_root=",),
        "evaluate",
        "classifier",
    ),
    Case(
        "stage",
        "evaluate images that have gone",
        lambda here: shutil.rmtree(here / "set"),
        ["runs=[c]"],
        (r"not at set: set data\.?_?root=",),
        "evaluate",
        "classifier",
    ),
    Case(
        "stage",
        "a run's config.yaml is no YAML",
        changed("runs/c/config.yaml", lambda d: b"a: [b\n"),
        ["runs=[c]"],
        (r"config\.yaml",),
        "evaluate",
        "classifier",
    ),
    Case(
        "stage",
        "a run's manifest.json truncated",
        changed("runs/c/manifest.json", half),
        ["runs=[c]"],
        (r"runs/c/manifest\.json: not valid JSON",),
        "evaluate",
        "classifier",
    ),
    Case(
        "stage",
        "generate from a run that does not exist",
        nothing,
        ["run=gg"],
        (r"nothing below runs is called 'gg'; did you mean 'g'",),
        "generate",
        "gan",
    ),
    Case(
        "stage",
        "generate from a classifier",
        nothing,
        ["run=c"],
        (r"runs/c: not a GAN run; set run=",),
        "generate",
        "classifier",
    ),
    Case(
        "stage", "generate no image", nothing, ["run=g", "n=0"], (r"n: got 0, expected",), "generate", "gan"
    ),
]

CKPT = "runs/c/checkpoints/last.ckpt"
LATER = (r"last\.ckpt: in format 99 of cxr 9\.1 .*; this is cxr .* reads formats up to 1: install",)
CHECKPOINTS = [
    Case(
        "checkpoint",
        "gone",
        lambda here: (here / CKPT).unlink(),
        ["runs=[c]"],
        (r"last\.ckpt: no such checkpoint",),
        "evaluate",
        "classifier",
    ),
    Case(
        "checkpoint",
        "truncated",
        changed(CKPT, half),
        ["runs=[c]"],
        (r"last\.ckpt: not a checkpoint of cxr",),
        "evaluate",
        "classifier",
    ),
    Case(
        "checkpoint",
        "zero bytes",
        changed(CKPT, lambda d: b""),
        ["runs=[c]"],
        (r"last\.ckpt: not a checkpoint of cxr",),
        "evaluate",
        "classifier",
    ),
    Case(
        "checkpoint",
        "a pickle that runs a command",
        pickled,
        ["runs=[c]"],
        (r"last\.ckpt: not a checkpoint of cxr",),
        "evaluate",
        "classifier",
    ),
    Case(
        "checkpoint",
        "of another network",
        resaved(CKPT, other_network),
        ["runs=[c]"],
        (r"last\.ckpt", "another network", "expected"),
        "evaluate",
        "classifier",
    ),
    Case(
        "checkpoint",
        "without weights",
        resaved(CKPT, lambda c: {"epoch": 1}),
        ["runs=[c]"],
        (r"last\.ckpt", "expected"),
        "evaluate",
        "classifier",
    ),
    Case(
        "checkpoint",
        "truncated, and training goes on from it",
        both(unfinished, changed(CKPT, half)),
        CLASSIFIER,
        (r"last\.ckpt: not a checkpoint of cxr",),
        base="classifier",
    ),
    Case(
        "checkpoint",
        "of another network, and training goes on from it",
        both(unfinished, resaved(CKPT, other_network)),
        CLASSIFIER,
        (r"another network", "expected"),
        base="classifier",
    ),
    Case(
        "checkpoint",
        "a GAN's truncated",
        changed("runs/g/checkpoints/last.ckpt", half),
        ["run=g", "n=4", "name=h"],
        (r"last\.ckpt: not a checkpoint of cxr",),
        "generate",
        "gan",
    ),
    Case(
        "checkpoint",
        "a GAN's of another network",
        resaved("runs/g/checkpoints/last.ckpt", other_network),
        ["run=g", "n=4", "weights=raw", "name=h"],
        (r"last\.ckpt: fits another generator",),
        "generate",
        "gan",
    ),
    Case(
        "checkpoint",
        "a GAN's without weights",
        resaved("runs/g/checkpoints/last.ckpt", lambda c: {"epoch": 1}),
        ["run=g", "n=4", "name=h"],
        (r"last\.ckpt", "expected"),
        "generate",
        "gan",
    ),
    Case(
        "checkpoint",
        "in the format of a later cxr",
        resaved(CKPT, later),
        ["runs=[c]"],
        LATER,
        "evaluate",
        "classifier",
    ),
    Case(
        "checkpoint",
        "in the format of a later cxr, and training goes on from it",
        both(unfinished, resaved(CKPT, later)),
        CLASSIFIER,
        LATER,
        base="classifier",
    ),
    Case(
        "checkpoint",
        "a GAN's in the format of a later cxr",
        resaved("runs/g/checkpoints/last.ckpt", later),
        ["run=g", "n=4", "name=h"],
        LATER,
        "generate",
        "gan",
    ),
    Case(
        "checkpoint",
        "of a newer Lightning, and training goes on from it",
        both(unfinished, resaved(CKPT, lambda c: {**c, "pytorch-lightning_version": "99.1.0"})),
        CLASSIFIER,
        (
            r"written by cxr \S+ with Lightning 99\.1\.0, .*newer than this: cxr .*install lightning==99\.1\.0",
        ),
        base="classifier",
    ),
    Case(
        "checkpoint",
        "of an earlier cxr, and without what training needs to go on",
        both(unfinished, resaved(CKPT, lambda c: {k: v for k, v in c.items() if k not in ("cxr", "loops")})),
        CLASSIFIER,
        (
            r"last\.ckpt: lacks 'loops'; written by an earlier cxr .*, this is cxr .*: install .* or delete it",
        ),
        base="classifier",
    ),
    Case(
        "checkpoint",
        "of an earlier cxr, whose network was another",
        resaved(CKPT, lambda c: {**other_network(c), "cxr": {"format": 1, "version": "0.0.9"}}),
        ["runs=[c]"],
        (r"another network .*; written by cxr 0\.0\.9 .*, this is cxr",),
        "evaluate",
        "classifier",
    ),
    Case(
        "checkpoint",
        "a GAN's of an earlier cxr, without its counters",
        resaved("runs/g/checkpoints/last.ckpt", lambda c: {**c, "cxr": None, "gan": {"classes": ["sick"]}}),
        ["run=g", "n=4", "name=h"],
        (r"lacks 'gan\.g_steps'; written by an earlier cxr .*, this is cxr .*: install",),
        "generate",
        "gan",
    ),
    Case(
        "checkpoint",
        "of another version that has all that training needs to go on",
        both(unfinished, resaved(CKPT, lambda c: {**c, "cxr": {"format": 1, "version": "0.0.9"}})),
        CLASSIFIER,
        (r"warning: .*last\.ckpt: written by cxr 0\.0\.9 with Lightning \S+; cxr \S+ with .* goes on",),
        base="classifier",
        taken=True,
    ),
]

CASES = [*ROOT, *IMAGES, *TABLES, *SPLITS, *NUMBERS, *PLACES, *LEFT, *CHECKPOINTS]
