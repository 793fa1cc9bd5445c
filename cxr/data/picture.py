"""Pictures for people: images laid out beside each other, and PNG files that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.files import atomic_path

__all__ = ["contact_sheet", "tile", "write_png"]


def contact_sheet(images: npt.NDArray[np.uint8], index: pd.DataFrame) -> npt.NDArray[np.uint8]:
    """Lay out up to 32 images of each class of a synthetic set, 8 in a row; each class begins a row."""
    shown = []
    for label in index["class"].unique():
        rows = np.flatnonzero((index["class"] == label).to_numpy())[:32]
        black = np.zeros((-len(rows) % 8, *images.shape[1:]), np.uint8)
        shown.append(np.concatenate([images[rows], black]))
    return tile(np.concatenate(shown), columns=8)


def tile(images: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.uint8]:
    """Lay uint8 images (N, H, W) out row by row with 2 px of black between; empty places are black."""
    n, height, width = images.shape
    gap, rows = 2, -(-n // columns)
    grid = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap), dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


def write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Write a uint8 image (H, W) as PNG, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", image)[1].tobytes())
