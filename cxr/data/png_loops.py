"""The loop of `cxr.data.png`: undoing a PNG's filters where a pixel is one byte (PNG specification 3, section 9).

libpng has vector code for three and four bytes a pixel, none for one, where each pixel waits for its left neighbour. Here two
rows with the filter Paeth, which most rows of a film have, are undone at once, the lower one a pixel behind: a processor
works on one while it waits for the other, in half the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from cxr.jit import compiled, inlined

__all__ = ["unfilter"]

Pixels = npt.NDArray[np.uint8]

NONE, SUB, UP, AVERAGE, PAETH = range(5)
BYTE = np.int32(255)


@inlined
def _predict(left: Any, above: Any, corner: Any) -> Any:
    """Return whichever of the three is nearest to left + above - corner; the first of equals, as the specification says.

    Without distances, as stb_image has it: the least or the greatest of the two, where the corner lies beyond, else the corner.
    """
    threshold = corner + corner + corner - left - above
    low, high = min(left, above), max(left, above)
    lower = low if high <= threshold else corner
    return high if threshold <= low else lower


@inlined
def _paeth(row: Pixels, above: Pixels, out: Pixels) -> None:
    left = corner = np.int32(0)
    for c in range(len(row)):
        over = np.int32(above[c])
        left = (_predict(left, over, corner) + np.int32(row[c])) & BYTE
        corner = over
        out[c] = left


@inlined
def _two_paeth(row: Pixels, next_row: Pixels, above: Pixels, out: Pixels, next_out: Pixels) -> None:
    """Undo a row and the one below it."""
    corner = np.int32(above[0])
    left = (corner + np.int32(row[0])) & BYTE
    out[0] = left
    next_left = next_corner = np.int32(0)
    for c in range(1, len(row)):
        over = np.int32(above[c])
        value = (_predict(left, over, corner) + np.int32(row[c])) & BYTE
        next_left = (_predict(next_left, left, next_corner) + np.int32(next_row[c - 1])) & BYTE
        corner, next_corner, left = over, left, value
        out[c], next_out[c - 1] = value, next_left
    next_out[-1] = (_predict(next_left, left, next_corner) + np.int32(next_row[-1])) & BYTE


@compiled(types.boolean(types.Array(types.uint8, 2, "C", readonly=True), types.uint8[:, ::1]))
def unfilter(filtered: Pixels, out: Pixels) -> bool:
    """Write the pixels (H, W) of rows (H, 1 + W), each with its filter first, into `out`; False at an unknown filter.

    H and W are at least 1.
    """
    height, width = out.shape
    above = np.zeros(width, np.uint8)
    r = 0
    while r < height:
        kind, row, made = filtered[r, 0], filtered[r, 1:], out[r]
        if kind == PAETH and r + 1 < height and filtered[r + 1, 0] == PAETH:
            _two_paeth(row, filtered[r + 1, 1:], above, made, out[r + 1])
            r += 1
            made = out[r]
        elif kind == PAETH:
            _paeth(row, above, made)
        elif kind == UP:
            for c in range(width):
                made[c] = row[c] + above[c]
        elif kind in (SUB, AVERAGE):
            left = np.int32(0)
            for c in range(width):
                near = left if kind == SUB else (left + np.int32(above[c])) >> np.int32(1)
                left = (np.int32(row[c]) + near) & BYTE
                made[c] = left
        elif kind == NONE:
            made[:] = row
        else:
            return False
        above = made
        r += 1
    return True
