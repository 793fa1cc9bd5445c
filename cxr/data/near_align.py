"""Two thumbnails laid on each other: how much of their fine structure is the same."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["THUMB_PX", "likeness"]

THUMB_PX = 48
FARTHEST = 0.16  # of half a side: crops of 5 % on two sides scale by 1.11 and shift by 0.1
PASSES = ((24, 1.2, 3), (48, 1.2, 2))  # size in pixels, blur in pixels, steps: from coarse to fine
HOPELESS = 0.5  # a coarse correlation below it is not looked at more closely
BAND_PX = 1.5  # what is left of a thumbnail less its blur by so much is its fine structure
LOCAL_PX = 4.0  # its strength is made even over so much
EDGE = 3  # pixels of an edge that are not compared: what a blur knows nothing of

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


def likeness(a: U8, b: U8) -> F32:
    """Return the likeness (M,) in [0, 1] of thumbnails (M, 48, 48) in pairs.

    The correlation of fine structure, its strength made even from place to place, over what both show when `b` is
    scaled and shifted onto `a` (each axis on its own, as crops and squashes do): 1 for the same image. A
    Gauss-Newton search (Lucas and Kanade 1981, with gain and offset), all pairs at once: cv2.findTransformECC takes
    6 ms a pair and also shears and turns, which lets different chests meet.
    """
    move = np.tile(np.array([1, 0, 1, 0], np.float32), (len(a), 1))  # scale, shift in x; in y
    found = np.zeros(len(a), np.float32)
    left = np.arange(len(a))
    for size_px, blur_px, steps in PASSES:
        x, y = (_blurred(_shrunk(stack[left], size_px), blur_px) for stack in (a, b))
        for _ in range(steps):
            move[left] = _step(x, y, move[left])
        near = _correlation(x, _moved(y, move[left]), move[left]) > HOPELESS
        left = left[near]
    if len(left):
        y = _moved(b[left].astype(np.float32), move[left])
        found[left] = _correlation(_fine(a[left].astype(np.float32)), _fine(y), move[left])
    return found.clip(0, 1)


def _shrunk(thumbs: U8, size_px: int) -> F32:
    if size_px == THUMB_PX:
        return thumbs.astype(np.float32)
    halves = thumbs.reshape(len(thumbs), size_px, 2, size_px, 2)
    return np.asarray(halves.mean(axis=(2, 4), dtype=np.float32), np.float32)


def _blurred(stack: F32, sigma_px: float) -> F32:
    out = np.empty_like(stack)
    for row, image in enumerate(stack):
        out[row] = cv2.GaussianBlur(image, (0, 0), sigma_px)
    return out


def _fine(stack: F32) -> F32:
    """Return the fine structure of (M, S, S), about equally strong everywhere: dark lungs count as bright bones do."""
    band = stack - _blurred(stack, BAND_PX)
    return np.asarray(
        band / np.sqrt(_blurred(band * band, LOCAL_PX) + 4), np.float32
    )  # 4: two levels are noise of rounding


def _places(size_px: int) -> F32:
    """Return the pixels' places (S,), -1 to 1 from edge to edge."""
    return ((np.arange(size_px) + 0.5) / size_px * 2 - 1).astype(np.float32)


def _sampler(scale: F32, shift: F32, size_px: int) -> F32:
    """Return matrices (M, S, S) that read a line of S pixels at scale * place + shift, linearly."""
    at = (_places(size_px) * scale[:, None] + shift[:, None] + 1) * size_px / 2 - 0.5
    at = np.clip(at, 0, size_px - 1)
    far = np.abs(at[:, :, None] - np.arange(size_px, dtype=np.float32))
    return np.asarray(np.maximum(0, 1 - far), np.float32)


def _moved(stack: F32, move: F32) -> F32:
    size_px = stack.shape[1]
    across = _sampler(move[:, 0], move[:, 1], size_px).transpose(0, 2, 1)
    return np.asarray(_sampler(move[:, 2], move[:, 3], size_px) @ stack @ across, np.float32)


def _step(a: F32, b: F32, move: F32) -> F32:
    """Return `move` (M, 4) one step on: least squares of a against gain * moved b + offset, linear in the move."""
    size_px = a.shape[1]
    y = _moved(b, move)
    half = size_px / 2
    down, across = (np.gradient(y, axis=axis) * half for axis in (1, 2))
    inner = (slice(None), slice(EDGE, -EDGE), slice(EDGE, -EDGE))
    place = _places(size_px)[EDGE:-EDGE]
    y, down, across, x = y[inner], down[inner], across[inner], a[inner]
    columns = [across * place, across, down * place[:, None], down, y, np.ones_like(y)]
    jacobian = np.stack(columns, 1).reshape(len(a), 6, -1)
    normal = (jacobian @ jacobian.transpose(0, 2, 1)).astype(np.float64) + np.eye(6) * 1e-2
    right = (jacobian @ x.reshape(len(a), -1, 1)).astype(np.float64)
    solved = np.linalg.solve(normal, right)[..., 0]
    change = np.clip(solved[:, :4] / np.maximum(solved[:, 4:5], 0.3), -0.05, 0.05)
    still = np.array([1, 0, 1, 0])
    return np.asarray(np.clip(move + change - still, -FARTHEST, FARTHEST) + still, np.float32)


def _correlation(a: F32, b: F32, move: F32) -> F32:
    """Return the correlation (M,) of a and the moved b over what lies within both."""
    size_px = a.shape[1]
    place = _places(size_px)
    within = 1 - 2 / size_px
    wide, high = (np.abs(place * move[:, k : k + 1] + move[:, k + 1 : k + 2]) < within for k in (0, 2))
    both = (high[:, :, None] & wide[:, None, :]).astype(np.float32)
    both[:, :2] = both[:, -2:] = 0
    both[:, :, :2] = both[:, :, -2:] = 0
    n = np.maximum(both.sum(axis=(1, 2), keepdims=True), 1)
    a, b = ((c - (c * both).sum(axis=(1, 2), keepdims=True) / n) * both for c in (a, b))
    power = np.sqrt((a * a).sum(axis=(1, 2)) * (b * b).sum(axis=(1, 2)))
    return np.asarray((a * b).sum(axis=(1, 2)) / np.maximum(power, 1e-6), np.float32)
