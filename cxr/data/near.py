"""Near-duplicates: the same radiograph twice, though its bytes differ.

`fingerprints` keeps a small normalised thumbnail of every image, `near_pairs` says which images are one: copies
that were resized, squashed to another aspect ratio, saved as JPEG, cropped by a few percent a side, made brighter,
darker or of another contrast. A mirrored copy is not found. Two images of one patient are no copies of each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Fingerprints", "NearPairs", "fingerprints", "near_pairs"]

THUMB_PX = 48
WAVES = 8  # candidates are compared by their WAVES x WAVES lowest cosine waves
CHUNK = 2048  # rows of a block: (CHUNK, CHUNK) likenesses are in memory at a time
CANDIDATE = 0.9
THRESHOLD = 0.9

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fingerprints:
    """What is kept of N images to know their copies by: `thumbs` (N, 48, 48) uint8, 2.3 kB an image."""

    thumbs: U8

    def __len__(self) -> int:
        return len(self.thumbs)

    def take(self, rows: Rows) -> Fingerprints:
        """Return those of some rows, in their order."""
        return Fingerprints(self.thumbs[rows])


@dataclass(frozen=True)
class NearPairs:
    """Pairs that are one image: row `i` of the first, row `j` of the second (M,), and their `likeness` in [0, 1].

    Sorted by i, then j.
    """

    i: Rows
    j: Rows
    likeness: F32

    def __len__(self) -> int:
        return len(self.i)


def fingerprints(images: U8) -> Fingerprints:
    """Return the fingerprints of images (N, S, S) uint8, S of 32 or more; a memory-map is read row by row."""
    if images.ndim != 3 or images.dtype != np.uint8 or min(images.shape[1:]) < 32:
        raise ValueError(
            f"expected images (N, S, S) uint8 of at least 32 px, got {images.dtype} {images.shape}"
        )
    thumbs = np.empty((len(images), THUMB_PX, THUMB_PX), np.uint8)
    for row, image in enumerate(images):
        thumbs[row] = _thumb(np.asarray(image))
    return Fingerprints(thumbs)


def near_pairs(a: Fingerprints, b: Fingerprints | None = None) -> NearPairs:
    """Return the near-duplicates among `a` (i < j), or between `a` (i) and `b` (j)."""
    other = a if b is None else b
    first, second = _descriptors(a.thumbs), _descriptors(other.thumbs)
    found: list[tuple[int, int, float]] = []
    for top in range(0, len(first), CHUNK):
        for left in range(top if b is None else 0, len(second), CHUNK):
            alike = first[top : top + CHUNK] @ second[left : left + CHUNK].T
            for i, j in np.argwhere(alike > CANDIDATE) + (top, left):
                if (b is not None or i < j) and (
                    likeness := _likeness(a.thumbs[i], other.thumbs[j])
                ) > THRESHOLD:
                    found.append((int(i), int(j), likeness))
    found.sort()
    return NearPairs(
        np.array([i for i, _, _ in found], np.int64),
        np.array([j for _, j, _ in found], np.int64),
        np.array([s for _, _, s in found], np.float32),
    )


def _thumb(image: U8) -> U8:
    """Return (48, 48): levels by rank, so that brightness, contrast and gamma leave nothing behind."""
    small = cv2.resize(image, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.equalizeHist(small), np.uint8)


def _descriptors(thumbs: U8) -> F32:
    """Return the lowest cosine waves (N, WAVES² - 1) of thumbnails, each of length 1."""
    waves = np.empty((len(thumbs), WAVES * WAVES - 1), np.float32)
    for row, thumb in enumerate(thumbs):
        waves[row] = cv2.dct(thumb.astype(np.float32))[:WAVES, :WAVES].ravel()[1:]
    return waves / np.maximum(np.linalg.norm(waves, axis=1, keepdims=True), 1e-6)


def _likeness(a: U8, b: U8) -> float:
    """Return the correlation of two thumbnails' structure."""
    x, y = (t.astype(np.float32) - cv2.GaussianBlur(t.astype(np.float32), (0, 0), 4) for t in (a, b))
    return float((x * y).sum() / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-6))
