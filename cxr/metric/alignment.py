"""A distance between radiographs that a blur, a shift of some pixels or another contrast hardly changes.

All chest radiographs are alike: their gray values correlate at 0.9 and more. So both images are first brought to 64 px,
lightly smoothed (a blur of the copy then adds little) and normalised locally, (gray - local mean) / local SD, which
takes off exposure, contrast and the common anatomy and leaves ribs, vessels and markers. The distance is

    1 - max over shifts up to 3 px of the normalised cross-correlation      (0 = the same, about 1 = nothing in common)

of the central 58 × 58 px of one image with equal windows of the other. Flips and rotations are not searched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from scipy.fft import irfft2, rfft2

from cxr.metric.neighbours import Ints, Neighbours

__all__ = [
    "PROTOCOL",
    "SHIFT_PX",
    "SIZE_PX",
    "aligned_neighbours",
    "best_window",
    "correlations",
    "normalised",
]

SIZE_PX = 64
SHIFT_PX = 3
SMOOTH_PX = 1.0  # SD of the Gaussian that both images get
LOCAL_PX = 4.0  # SD of the Gaussian window of local mean and SD
FLOOR = 2.0  # gray levels added to the local SD, so that flat background does not become noise
CANDIDATES = 32  # of the coarse search, compared in full
BLOCK = 4096  # references held against all queries at once
PROTOCOL = (
    f"{SIZE_PX} px, Gaussian {SMOOTH_PX:g} px, local mean and SD ({LOCAL_PX:g} px) taken off, "
    f"1 - largest normalised cross-correlation over shifts up to {SHIFT_PX} px"
)

Floats = npt.NDArray[np.float32]

# (7, 64): row i adds up the pixels i … i + 57
_WINDOWS = np.array(
    [[float(i <= x < i + SIZE_PX - 2 * SHIFT_PX) for x in range(SIZE_PX)] for i in range(2 * SHIFT_PX + 1)],
    np.float32,
)


class Images(Protocol):
    """(N, S, S) uint8 that is read an image at a time: an array, a memory-map, a `cxr.data.picked.Picked`."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


def normalised(images: Images) -> Floats:
    """Return (N, 64, 64) float32 of images (N, S, S) uint8: small, smooth, local mean and SD taken off."""
    if images.dtype != np.uint8 or len(images.shape) != 3:
        raise ValueError(f"expected uint8 (N, S, S), got {images.dtype} {images.shape}")
    found = np.empty((len(images), SIZE_PX, SIZE_PX), np.float32)
    for row, image in enumerate(images):
        small = np.asarray(image)
        if small.shape != (SIZE_PX, SIZE_PX):
            how = cv2.INTER_AREA if small.shape[0] > SIZE_PX else cv2.INTER_CUBIC
            small = cv2.resize(small, (SIZE_PX, SIZE_PX), interpolation=how)
        smooth = _blurred(small.astype(np.float32), SMOOTH_PX)
        detail = smooth - _blurred(smooth, LOCAL_PX)
        found[row] = detail / (np.sqrt(_blurred(detail * detail, LOCAL_PX)) + FLOOR)
    return found


def aligned_neighbours(
    queries: Floats, references: Floats, k: int, *, itself: Ints | None = None
) -> Neighbours:
    """Return the k nearest of `references` (M, 64, 64) for each of `queries` (N, 64, 64), both `normalised`.

    itself: as for `feature_neighbours`. At half the size, by shifts of 2 px, all references are compared; of the 32
    best the distance is computed. So a far image's k-th neighbour may be missed, a copy's source practically not
    (docs/results/memorisation.md counts).
    """
    if k > CANDIDATES:
        raise ValueError(f"k = {k}, at most {CANDIDATES} candidates are compared")
    k = min(k, len(references) - (itself is not None))
    if k < 1 or len(queries) == 0:
        raise ValueError(f"{len(queries)} queries, {len(references)} references")
    candidates = _candidates(queries, references, itself)
    distance, rows = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    for i, (query, found) in enumerate(zip(queries, candidates, strict=True)):
        # the query itself stands last among the candidates, if it had to be taken for want of others
        others = found if itself is None else found[found != itself[i]]
        gaps = 1.0 - correlations(query, references[others]).max(axis=(1, 2))
        order = np.argsort(gaps, kind="stable")[:k]
        distance[i], rows[i] = gaps[order], others[order]
    return Neighbours(np.maximum(distance, 0.0), rows)


def correlations(query: Floats, references: Floats) -> Floats:
    """Return the normalised cross-correlation (M, 7, 7) of a query's centre with windows of (M, 64, 64) references.

    Entry [y, x] is the window that begins at (y, x); [3, 3] is no shift. A constant window correlates 0. As OpenCV's
    matchTemplate (TM_CCOEFF_NORMED) of one reference, but all by one transform: some ten times faster.
    """
    side = SIZE_PX - 2 * SHIFT_PX
    shifts = 2 * SHIFT_PX + 1
    centre = query[SHIFT_PX:-SHIFT_PX, SHIFT_PX:-SHIFT_PX]
    padded = np.zeros((SIZE_PX, SIZE_PX), np.float32)
    padded[:side, :side] = centre - centre.mean()
    spectrum = rfft2(references) * np.conj(rfft2(padded))  # float32 throughout
    products = irfft2(spectrum, s=(SIZE_PX, SIZE_PX))[:, :shifts, :shifts]
    sums, squares = _WINDOWS @ references @ _WINDOWS.T, _WINDOWS @ references**2 @ _WINDOWS.T
    spread = np.maximum(squares - sums**2 / side**2, 0.0)
    scale = np.sqrt(spread * (padded**2).sum())
    found = np.divide(products, scale, out=np.zeros_like(products), where=scale > 1e-3)
    return np.asarray(np.clip(found, -1.0, 1.0), np.float32)


def best_window(query: Floats, reference: Floats) -> tuple[int, int]:
    """Return (dy, dx) in pixels of 64: `reference` moved by it lies on `query` (both normalised)."""
    found = correlations(query, reference[None])[0]
    y, x = np.unravel_index(int(found.argmax()), found.shape)
    return SHIFT_PX - int(y), SHIFT_PX - int(x)


def _candidates(queries: Floats, references: Floats, itself: Ints | None) -> Ints:
    """Return the rows (N, at most 32) that look most alike at half the size."""
    templates = _unit(_halved(queries)[:, 1:-1, 1:-1])
    n = min(CANDIDATES + (itself is not None), len(references))
    score = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(references), BLOCK):
        small = _halved(references[start : start + BLOCK])
        side = small.shape[1] - 2
        best = np.full((len(queries), len(small)), -2.0, np.float32)
        for y in range(3):
            for x in range(3):
                np.maximum(best, templates @ _unit(small[:, y : y + side, x : x + side]).T, out=best)
        score = np.concatenate([score, best], axis=1)
        here = np.broadcast_to(np.arange(start, start + len(small)), best.shape)
        rows = np.concatenate([rows, here], axis=1)
        kept = np.argpartition(-score, min(n, score.shape[1]) - 1, axis=1)[:, :n]
        score, rows = np.take_along_axis(score, kept, 1), np.take_along_axis(rows, kept, 1)
    return rows


def _halved(images: Floats) -> Floats:
    n = SIZE_PX // 2
    small: Floats = images.reshape(len(images), n, 2, n, 2).mean(axis=(2, 4))
    return small


def _unit(images: Floats) -> Floats:
    """Return (N, pixels): mean 0, length 1."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    unit: Floats = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return unit


def _blurred(image: Floats, sigma: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101), np.float32)
