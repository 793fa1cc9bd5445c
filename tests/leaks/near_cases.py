"""What a near-duplicate search is measured with: planted changes, and the packs with what is known of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

U8 = npt.NDArray[np.uint8]
Change = Callable[[U8, np.random.Generator], U8]
SIZE_PX = 256


def _resized(image: U8, rng: np.random.Generator) -> U8:
    side = int(rng.integers(64, 225))
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, image.shape[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def _squashed(image: U8, rng: np.random.Generator) -> U8:
    """Kept at another aspect ratio (3:4 to 4:3), then padded with black to a square."""
    side = image.shape[0]
    other = round(side * rng.uniform(0.75, 1))
    height, width = (side, other) if rng.random() < 0.5 else (other, side)
    out = np.zeros_like(image)
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA
    )
    return out


def _jpeg(image: U8, _: np.random.Generator) -> U8:
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)


def _cropped(image: U8, rng: np.random.Generator) -> U8:
    side = image.shape[0]
    top, bottom, left, right = (round(side * m) for m in rng.uniform(0, 0.05, 4))
    inner = image[top : side - bottom, left : side - right]
    return np.asarray(cv2.resize(inner, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)


def _brightened(image: U8, rng: np.random.Generator) -> U8:
    level = (image / 255.0) ** rng.uniform(0.6, 1.7)
    level = (level - 0.5) * rng.uniform(0.7, 1.3) + 0.5 + rng.uniform(-0.1, 0.1)
    return np.asarray((level.clip(0, 1) * 255).round(), np.uint8)


def _all(image: U8, rng: np.random.Generator) -> U8:
    for change in (_brightened, _cropped, _resized, _jpeg):
        image = change(image, rng)
    return image


CHANGES: dict[str, tuple[str, Change]] = {
    "resize": ("to 64 … 224 px and back", _resized),
    "squash": ("to an aspect ratio of 3:4 … 4:3, padded with black", _squashed),
    "JPEG": ("quality 50", _jpeg),
    "crop": ("0 … 5 % of each side", _cropped),
    "brightness": ("gamma 0.6 … 1.7, contrast ±30 %, brightness ±10 %, clipped", _brightened),
    "all together": ("brightness, crop, resize, JPEG", _all),
}


class Packs(NamedTuple):
    """Images (N, 256, 256) of several packs, with pack, patient and the name of the file they were made from."""

    images: U8
    table: pd.DataFrame

    def half(self, odd: bool) -> npt.NDArray[np.int64]:
        """Return the rows of the patients whose id has an odd (or even) checksum."""
        parity = self.table["patient"].map(lambda one: crc32(one.encode()) % 2).to_numpy()
        return np.flatnonzero(parity == int(odd)).astype(np.int64)


def load_packs(pack: Callable[[str], Path]) -> Packs:
    """Return the pneumonia, ChestX-ray14 and COVID packs; patients and sources are named alike in all three."""
    rows = []
    for file in sorted(pack("chest-xray-pneumonia-224").rglob("*.jpeg")):
        found = re.match(r"person\d+_(?:bacteria|virus)", file.name) or re.search(r"IM-\d+", file.name)
        assert found
        rows.append((file, "pneumonia", f"gwcmc-{found[0]}", file.name))
    rows += [(file, "nih", f"nih-{int(file.name.split('_')[0])}", file.name)
             for file in sorted(pack("nih-chestxray14-256").rglob("*.png"))]  # fmt: skip
    covid = pack("covid19-radiography-like")
    for one in pd.read_csv(covid / "provenance.csv").itertuples():
        source = Path(str(one.source_path)).name
        rows.append(
            (covid / "COVID-19_Radiography_Dataset" / str(one.file), "covid", str(one.patient_id), source)
        )
    images = np.empty((len(rows), SIZE_PX, SIZE_PX), np.uint8)
    for row, (file, *_) in enumerate(rows):
        image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        assert image is not None, file
        images[row] = cv2.resize(image, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_LINEAR)
    return Packs(images, pd.DataFrame(rows, columns=["file", "pack", "patient", "source"]))
