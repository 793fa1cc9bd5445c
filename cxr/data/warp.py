"""Geometry and grey values of an image changed in one pass: one affine warp, one table of 256 values.

A recipe draws a `Change` for each image. On the CPU it is carried out on the bytes themselves (`change_batch`): no float
image, no second interpolation, and pixels become floats on the device. On a GPU the same changes are carried out on the
whole batch (`as_tensors` in the loader, `on_device` where the network is). Both give the nearest grey level.

`change_by_opencv` is for recipes whose pixels were always OpenCV's. OpenCV 4.13 rounds places to 1/32 pixel, so its result
is off by up to 1/64 of the steps from pixel to neighbour, in x and in y, and half a level: within one level but at hard
edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Change", "Draws", "affine", "as_tensors", "change_batch", "change_by_opencv", "on_device"]

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

MOST_PIXELS = (
    2**24
)  # that `on_device` takes at once: what it holds beside the batch is 28 bytes for each of them


_STILL = np.eye(2, 3)
_SAME = np.arange(256, dtype=np.uint8)


class Change(NamedTuple):
    """What becomes of one image, in this order.

    matrix: (2, 3), where the centre of a pixel goes, as cv2.warpAffine has it; what is uncovered repeats the border. None:
        nothing moves.
    flip: left and right change places, after the warp.
    table: (256,) uint8, the new grey value of each; None leaves them.
    """

    matrix: Floats | None
    flip: bool
    table: Pixels | None


# What a recipe that is pure geometry and grey values has as `changes`: it can say what it would do without doing it.
# (rng, n, size_px) → the changes of n images of size_px x size_px.
Draws = Callable[[np.random.Generator, int, int], list[Change]]


def affine(
    size_px: int, *, angle_deg: float, shear_deg: float, zoom: tuple[float, float], shift: tuple[float, float]
) -> Floats | None:
    """Return the matrix that zooms (x, y), turns, shears along x, all about the centre, then shifts by pixels (x, y).

    A positive angle turns counter-clockwise. None where all of it is nothing.
    """
    turn, lean = math.radians(angle_deg), math.tan(math.radians(shear_deg))
    cos, sin, (zoom_x, zoom_y), centre = math.cos(turn), math.sin(turn), zoom, size_px / 2 - 0.5
    a, b = (cos - lean * sin) * zoom_x, (sin + lean * cos) * zoom_y
    c, d = -sin * zoom_x, cos * zoom_y
    x, y = shift[0] + centre - a * centre - b * centre, shift[1] + centre - c * centre - d * centre
    if max(abs(a - 1), abs(d - 1)) <= 1e-5 and max(abs(b), abs(c), abs(x), abs(y)) <= 1e-8:
        return None
    return np.array(((a, b, x), (c, d, y)))


def change_batch(batch: Pixels, changes: Sequence[Change]) -> Pixels:
    """Return the images (B, S, S) changed, each by its own; the batch stays as it is."""
    from cxr.data.warp_loops import warp  # compiled: not before there is something to change

    batch = np.ascontiguousarray(batch)
    changed, work = np.empty_like(batch), np.empty(batch.shape[1:], np.uint32)
    for image, out, (matrix, flip, table) in zip(batch, changed, changes, strict=True):
        warp(image, _STILL if matrix is None else matrix, flip, _SAME if table is None else table, work, out)
    return changed


def change_by_opencv(batch: Pixels, changes: Sequence[Change]) -> Pixels:
    """Return the same as `change_batch`, as albumentations 2.0.8 gets it from OpenCV, to the bit."""
    changed = np.empty_like(batch)
    size = batch.shape[:0:-1]
    for image, out, (matrix, flip, table) in zip(batch, changed, changes, strict=True):
        done = image
        if matrix is not None:
            done = np.empty_like(image) if flip else out
            cv2.warpAffine(
                image, matrix, size, dst=done, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
        if flip:
            cv2.flip(done, 1, dst=out)
            done = out
        if table is not None:
            cv2.LUT(done, table, dst=out)
        elif done is image:
            out[:] = image
    return changed


def as_tensors(changes: Sequence[Change], size_px: int) -> dict[str, Tensor]:
    """Return the changes as `on_device` takes them: "theta" float32 (B, 2, 3) and, if any has a table, "table" (B, 256).

    theta is `torch.nn.functional.affine_grid`'s: it says, in units of half the image, whence a pixel of the result comes.
    """
    thetas = np.empty((len(changes), 2, 3))
    half = size_px / 2
    for theta, change in zip(thetas, changes, strict=True):
        whole = np.eye(3)
        if change.matrix is not None:
            whole[:2] = change.matrix
        if change.flip:
            whole = np.array(((-1.0, 0, size_px - 1), (0, 1, 0), (0, 0, 1))) @ whole
        back = np.linalg.inv(whole)[:2]
        theta[:, :2] = back[:, :2]
        theta[:, 2] = (back[:, :2].sum(1) * (size_px - 1) / 2 + back[:, 2] + 0.5) / half - 1
    found = {"theta": torch.from_numpy(thetas.astype(np.float32))}
    if any(change.table is not None for change in changes):
        tables = np.stack([_SAME if change.table is None else change.table for change in changes])
        found["table"] = torch.from_numpy(tables)
    return found


def on_device(images: Tensor, theta: Tensor, table: Tensor | None) -> Tensor:
    """Return uint8 images (B, 1, S, S) changed, on the device where all three are."""
    n = max(1, MOST_PIXELS // images[0].numel())
    if len(images) > n:
        some = (slice(start, start + n) for start in range(0, len(images), n))
        return torch.cat([on_device(images[s], theta[s], None if table is None else table[s]) for s in some])
    size_px = images.shape[-1]
    along = (torch.arange(size_px, device=images.device, dtype=torch.float32) * 2 + 1) / size_px - 1
    x, y = along, along[:, None]
    # Not affine_grid: its matrix product may run in TF32, whose ten bits are half a pixel of a large image.
    rows = (theta[:, row, :, None, None].unbind(1) for row in (0, 1))
    grid = torch.stack([a * x + b * y + c for a, b, c in rows], dim=-1)
    with torch.autocast(images.device.type, enabled=False):
        values = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False).round_()
    if table is None:
        return values.to(torch.uint8)
    return table.gather(1, values.flatten(1).long()).view_as(images)
