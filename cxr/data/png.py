"""Plain PNG files of 8-bit gray, as films are published, decoded in a third of the time that OpenCV takes.

That time is inflating, which ISA-L does twice as fast as zlib, and undoing filters, for which libpng has no quick way at a
byte a pixel. Only what is surely read alike is read here: whoever is given None asks OpenCV, whose answer, or refusal,
holds. So nothing here needs to know what a damaged file means, nor a palette, transparency, interlacing or 16 bit.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

__all__ = ["read_plain"]

Pixels = npt.NDArray[np.uint8]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PLAIN = bytes((8, 0, 0, 0, 0))  # bits, gray, deflate, the five filters, not interlaced
WINDOW = b"\x78"  # zlib's largest; within a smaller one libpng refuses what reaches beyond it
# Beside these, which say nothing about pixels, only the header, the pixels and the end are let through.
REMARKS = (b"tEXt", b"tIME", b"pHYs")
# Below this OpenCV needs a millisecond or two, and numba, once in a process, half a second.
LEAST_PIXELS = 2**18


def read_plain(data: bytes, least_pixels: int = LEAST_PIXELS) -> Pixels | None:
    """Return a PNG file's pixels (H, W); None where it is not plain, not whole, or has fewer than `least_pixels`."""
    found = _packed(data, least_pixels)
    if found is None:
        return None
    height, width, packed = found
    n_bytes = height * (1 + width)
    inflate = isal_zlib.decompressobj()
    try:
        filtered = inflate.decompress(packed, n_bytes + 1)  # at most: a bomb stops here
    except isal_zlib.error:  # type: ignore[misc]  # an exception, whatever its stub says
        return None
    if len(filtered) != n_bytes or not inflate.eof or inflate.unused_data:
        return None
    from cxr.data.png_loops import unfilter  # compiled: not before there is something to read

    pixels = np.empty((height, width), np.uint8)
    rows = np.frombuffer(filtered, np.uint8).reshape(height, 1 + width)
    return pixels if unfilter(rows, pixels) else None


def _packed(data: bytes, least_pixels: int) -> tuple[int, int, bytes] | None:
    """Return (height, width, the deflated rows) of a file without any peculiarity."""
    if not data.startswith(SIGNATURE + struct.pack(">I4s", 13, b"IHDR")) or data[24:29] != PLAIN:
        return None
    width, height = struct.unpack_from(">II", data, 16)
    if not 0 < least_pixels <= width * height:
        return None
    order: list[bytes] = []
    parts: list[bytes] = []
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data) or zlib.crc32(data[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return None
        if kind == b"IDAT":
            parts.append(data[at + 8 : end])
        if kind != b"IDAT" or order[-1] != kind:
            order.append(kind)
        if kind == b"IEND" and length == 0:
            break
        at = end + 4
    packed = b"".join(parts)
    if [kind for kind in order if kind not in REMARKS] != [b"IHDR", b"IDAT", b"IEND"]:
        return None
    return (height, width, packed) if packed.startswith(WINDOW) else None
