"""Near-duplicates: the same radiograph twice, though its bytes differ.

`fingerprints` keeps a small thumbnail of every image, its levels by rank. `near_pairs` says which images are one:
copies that were resized, squashed to another aspect ratio, padded, saved as JPEG (quality 50 and more), cropped by up
to 5 % a side, made brighter or darker or of another contrast or gamma. A mirrored or turned copy is not found, and
two exposures of one patient are no copies of each other. docs/reliability.md says how often it is right.

Two steps, for chest radiographs are all alike. Candidates are pairs whose lowest cosine waves point the same way,
after the directions in which crops move an image are weighed down (Fisher's linear discriminant: copies against all,
learnt from the thumbnails at hand with crops planted in them). It is one matrix product in blocks, so
nothing grows with the square of N but time. The verdict on a candidate is the correlation of fine structure after
one thumbnail is laid on the other (cxr/data/near_align.py).

Perceptual hashes were measured first, on the same images and changes (imagehash 4.3.2): pHash with 86 false positives
in 6.8 million pairs finds 23 % of padded squashes, 21 % of crops and 20 % of all changes together; to find 91 % of the last
it takes 44,033 false positives. dHash is worse. Here it is over 99 % of each at one, which is one picture under two names.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from cxr.data.near_align import THUMB_PX, likeness

__all__ = ["MIN_PX", "THRESHOLD", "Fingerprints", "NearPairs", "fingerprints", "near_pairs"]

MIN_PX = 32
THRESHOLD = 0.75  # unlike real radiographs reach about 0.7 once they are laid on each other, copies rarely stay below 0.8
CANDIDATE = 0.55  # cosine of two descriptors; of unlike images about one pair in 9,000 has it
WAVES = 12  # descriptors are made of the WAVES x WAVES lowest cosine waves
FEWER = 0.3  # lower it is where next to nothing could be learnt from: two copies among few are part of what is usual
KEPT = 96  # directions of a descriptor
SAMPLE = 1000  # thumbnails that the directions are learnt from
BLOCK = 2048  # rows of a block: (BLOCK, BLOCK) cosines are in memory at a time
BATCH = 512  # candidates that are judged together
FLAT = 6  # levels: a row of pixels that spans no more is border

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

    Sorted by i, then j. The likeness is above THRESHOLD.
    """

    i: Rows
    j: Rows
    likeness: F32

    def __len__(self) -> int:
        return len(self.i)


def fingerprints(images: U8) -> Fingerprints:
    """Return the fingerprints of images (N, S, S) uint8, S of 32 or more; a memory-map is read row by row.

    Raises:
        ValueError: other images.
    """
    if images.ndim != 3 or images.dtype != np.uint8 or min(images.shape[1:]) < MIN_PX:
        raise ValueError(
            f"expected images (N, S, S) uint8 of at least {MIN_PX} px, got {images.dtype} {images.shape}"
        )
    thumbs = np.empty((len(images), THUMB_PX, THUMB_PX), np.uint8)
    for row in range(len(images)):
        thumbs[row] = _thumb(np.asarray(images[row]))
    return Fingerprints(thumbs)


def near_pairs(a: Fingerprints, b: Fingerprints | None = None) -> NearPairs:
    """Return the near-duplicates among `a` (i < j), or between `a` (i) and `b` (j)."""
    other = a if b is None else b
    found: list[tuple[Rows, Rows, F32]] = []
    if len(a) and len(other):
        learnt = a.thumbs if b is None else np.concatenate([_sample(a.thumbs), _sample(b.thumbs)])
        learnt = _sample(learnt)
        candidate = CANDIDATE - FEWER * (1 - len(learnt) / SAMPLE)
        first, second = _descriptors([a.thumbs, other.thumbs], learnt)
        for top in range(0, len(first), BLOCK):
            for left in range(top if b is None else 0, len(second), BLOCK):
                alike = first[top : top + BLOCK] @ second[left : left + BLOCK].T
                if b is None and left == top:
                    alike = np.triu(alike, 1)
                i, j = np.nonzero(alike > candidate)
                found += _judged(a.thumbs, other.thumbs, i + top, j + left)
    i, j = (np.concatenate([np.empty(0, np.int64), *(one[k] for one in found)]) for k in (0, 1))
    alike = np.concatenate([np.empty(0, np.float32), *(one[2] for one in found)])
    order = np.lexsort((j, i))
    return NearPairs(i[order], j[order], alike[order])


def _judged(a: U8, b: U8, i: Rows, j: Rows) -> list[tuple[Rows, Rows, F32]]:
    found = []
    for start in range(0, len(i), BATCH):
        rows, others = i[start : start + BATCH], j[start : start + BATCH]
        score = likeness(a[rows], b[others])
        same = score > THRESHOLD
        found.append((rows[same], others[same], score[same]))
    return found


def _sample(thumbs: U8) -> U8:
    """Return at most SAMPLE thumbnails, evenly spaced."""
    return thumbs[np.unique(np.linspace(0, len(thumbs) - 1, SAMPLE).astype(np.int64))]


def _thumb(image: U8) -> U8:
    """Return (48, 48): without a flat border, levels by rank, so that brightness, contrast and gamma leave nothing."""
    for _ in range(2):  # rows, then columns
        flat = image.max(axis=1).astype(np.int16) - image.min(axis=1) <= FLAT
        lively = np.flatnonzero(~flat)
        if len(lively) > len(image) // 2:
            image = image[lively[0] : lively[-1] + 1]
        image = image.T
    image = np.ascontiguousarray(image)
    # INTER_AREA samples points where a side grows: as many pixels as there are, first.
    height, width = (min(side, THUMB_PX) for side in image.shape)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    if small.shape != (THUMB_PX, THUMB_PX):
        small = cv2.resize(small, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.equalizeHist(small), np.uint8)


def _waves(thumbs: U8) -> F32:
    """Return the lowest cosine waves (N, WAVES² - 1) of thumbnails, without the mean."""
    waves = np.empty((len(thumbs), WAVES * WAVES - 1), np.float32)
    for row, thumb in enumerate(thumbs):
        waves[row] = cv2.dct(thumb.astype(np.float32) / 255)[:WAVES, :WAVES].ravel()[1:]
    return waves


def _descriptors(stacks: list[U8], sample: U8) -> list[F32]:
    """Return unit vectors (N, KEPT) of each stack of thumbnails; a flat thumbnail has a zero vector."""
    waves = _waves(sample)
    mean = waves.mean(axis=0)
    moved = np.concatenate([_waves(_cropped(sample, margins)) - waves for margins in _MARGINS])
    within = moved.T @ moved / len(moved)
    total = (waves - mean).T @ (waves - mean) / len(waves)
    size = len(mean)
    # Of few or equal images neither matrix has an inverse.
    within += np.eye(size, dtype=np.float32) * (1e-2 * np.trace(within) / size + 1e-6)
    total += np.eye(size, dtype=np.float32) * (1e-3 * np.trace(total) / size + 1e-6)
    root = np.linalg.inv(np.linalg.cholesky(within.astype(np.float64)))
    gain, directions = np.linalg.eigh(root @ total @ root.T)
    gain, directions = gain[-KEPT:], root.T @ directions[:, -KEPT:]
    weights = (directions / np.sqrt(1 + gain)).astype(np.float32)  # all images: about one in each direction
    found = []
    for thumbs in stacks:
        one = (_waves(thumbs) - mean) @ weights
        one[np.ptp(thumbs, axis=(1, 2)) == 0] = 0
        found.append(one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-9))
    return found


# What is cut off as a part of the side (top, bottom, left, right): the corners of what is to be survived.
_C = 0.05
_MARGINS = ((_C, _C, _C, _C), (_C, 0, _C, 0), (_C, 0, 0, _C), (0, _C, _C, 0), (0, _C, 0, _C),
            (0, 0, _C, _C), (_C, _C, 0, 0), (_C / 2, _C / 2, _C / 2, _C / 2))  # fmt: skip


def _cropped(thumbs: U8, margins: tuple[float, float, float, float]) -> U8:
    """Return thumbnails of the cropped images, made from the whole images' thumbnails."""
    top, bottom, left, right = (m * THUMB_PX for m in margins)
    matrix = np.array(
        [[1 - (left + right) / THUMB_PX, 0, left], [0, 1 - (top + bottom) / THUMB_PX, top]], np.float32
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (THUMB_PX, THUMB_PX)
    out = np.empty_like(thumbs)
    for row, thumb in enumerate(thumbs):
        moved = cv2.warpAffine(thumb, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        out[row] = cv2.equalizeHist(moved)
    return out
