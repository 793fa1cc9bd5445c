"""Where findings lie in a picture of the cache: boxes that people drew, or masks that a phantom knows.

A source that knows them has `boxes()`, a table with image_id, label and box_x, box_y, box_w, box_h (left, top,
width, height as fractions of the image as `read` gives it), and may have `mask(path, label)`, exact to the pixel
of that image. Both go the way of the pixels: stretched, padded or cut as `cxr.data.decode.fit` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.data.decode import Fit, fit
from cxr.data.index import Source

__all__ = ["Boxed", "Masked", "Regions", "box_mask", "find_regions", "fit_box"]

BOX = ("box_x", "box_y", "box_w", "box_h")

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


@runtime_checkable
class Boxed(Protocol):
    """A source that knows boxes."""

    def boxes(self) -> pd.DataFrame:
        """Return one row per box: image_id (None: not on the disk), label, box_x, box_y, box_w, box_h."""


@runtime_checkable
class Masked(Protocol):
    """A source that knows the findings' very pixels."""

    def mask(self, path: str, finding: str | None = None) -> Mask:
        """Return where one finding is in an image, (H, W) bool as `read` gives it."""


@dataclass(frozen=True)
class Regions:
    """K regions, one for each image and label that has any; several boxes of one label are one region.

    Attributes:
        rows: (K,) rows of the cache, ascending.
        labels: (K,) positions in `classes`.
        masks: (K, S, S), each with at least one position.
        kind: what they are made of.
        n_outside: left out, since the cache's crop cuts their boxes off.
    """

    rows: Rows
    labels: Rows
    masks: Mask
    kind: Literal["boxes", "masks"]
    n_outside: int


def find_regions(
    source: Source, index: pd.DataFrame, rows: Rows, classes: Sequence[str], size_px: int, policy: Fit
) -> Regions | None:
    """Return the regions of a cache's images `rows` for labels in `classes`; None where the source knows none.

    Raises:
        DatasetNotFound: the source would know boxes, but their file is not there.
    """
    if not isinstance(source, Boxed):
        return None
    boxes = source.boxes()
    row_of = {str(index["image_id"][row]): int(row) for row in rows}
    position = {name: at for at, name in enumerate(classes)}
    wanted = boxes["image_id"].isin(list(row_of)) & boxes["label"].isin(list(position))
    cases: dict[tuple[int, int], list[tuple[float, ...]]] = {}
    for image_id, label, *box in boxes.loc[wanted, ["image_id", "label", *BOX]].itertuples(index=False):
        cases.setdefault((row_of[image_id], position[label]), []).append(tuple(map(float, box)))
    keys = sorted(cases)

    def one(key: tuple[int, int]) -> Mask:
        path = str(index["path"][key[0]])
        if isinstance(source, Masked):
            covered = source.mask(path, classes[key[1]]).astype(np.uint8) * np.uint8(255)
            small = fit(covered, size_px, policy)
            return np.asarray(small >= np.clip(small.max(), 1, 128))  # a speck keeps its fullest pixel
        # stretched, a box keeps its fractions; else the picture's shape says where its edges go
        shape = (1, 1) if policy == "stretch" else source.read(path).shape[:2]
        mask = np.zeros((size_px, size_px), np.bool_)
        for box in cases[key]:
            mask |= box_mask(fit_box(box, shape, size_px, policy), size_px)
        return mask

    with ThreadPoolExecutor(max_workers=4) as pool:
        made = list(pool.map(one, keys))
    kept = [at for at, mask in enumerate(made) if mask.any()]
    masks = np.stack([made[at] for at in kept]) if kept else np.zeros((0, size_px, size_px), np.bool_)
    return Regions(
        rows=np.array([keys[at][0] for at in kept], dtype=np.int64),
        labels=np.array([keys[at][1] for at in kept], dtype=np.int64),
        masks=masks,
        kind="masks" if isinstance(source, Masked) else "boxes",
        n_outside=len(keys) - len(kept),
    )


def fit_box(
    box: Sequence[float], shape: tuple[int, ...], size_px: int, policy: Fit
) -> tuple[float, float, float, float]:
    """Map a box (left, top, width, height; fractions of an image of `shape` H, W) to pixels of the cache.

    Returns left, top, right, bottom in [0, size_px], after the same scaling and the same rounding of borders as
    `cxr.data.decode.fit`; right = left, or bottom = top, where a crop leaves nothing of it.
    """
    left, top, width, height = box
    across, down = np.array([left, left + width]), np.array([top, top + height])
    tall, wide = shape[:2]
    if policy == "stretch":
        x, y = across * size_px, down * size_px
    elif policy == "crop":
        side = min(tall, wide)
        x = (across * wide - (wide - side) // 2) * (size_px / side)
        y = (down * tall - (tall - side) // 2) * (size_px / side)
    else:
        scale = size_px / max(tall, wide)
        inner_wide, inner_tall = max(1, round(wide * scale)), max(1, round(tall * scale))
        x = (size_px - inner_wide) // 2 + across * inner_wide
        y = (size_px - inner_tall) // 2 + down * inner_tall
    (x0, x1), (y0, y1) = np.clip(x, 0, size_px).tolist(), np.clip(y, 0, size_px).tolist()
    return float(x0), float(y0), float(x1), float(y1)


def box_mask(box: Sequence[float], size_px: int) -> Mask:
    """Return the pixels (S, S) whose centre a box (left, top, right, bottom; pixels) covers.

    A box narrower than a pixel takes the one it lies in; an empty one takes none.
    """
    left, top, right, bottom = box
    mask = np.zeros((size_px, size_px), np.bool_)
    if right > left and bottom > top:
        mask[_covered(top, bottom, size_px), _covered(left, right, size_px)] = True
    return mask


def _covered(low: float, high: float, size_px: int) -> slice[Any, Any, Any]:
    first, last = int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5))
    if last <= first:
        first = min(int((low + high) / 2), size_px - 1)
        last = first + 1
    return slice(first, last)
