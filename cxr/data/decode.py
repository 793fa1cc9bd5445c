"""From the bytes of an image file to gray pixels, and from those to a square of uint8.

    read_gray  ->  to_uint8  ->  fit

Whatever OpenCV reads is taken: gray, RGB, RGBA (alpha is dropped), palette, 1 to 16 bit,
float TIFF. EXIF orientation is applied. Colour becomes gray by OpenCV's luma weights, which
leave three equal channels as they are. Large plain gray PNG files are read without OpenCV (`png`), to the same bits.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from cxr.data.png import read_plain
from cxr.errors import UserError

__all__ = ["MAX_PIXELS", "BadImage", "Fit", "NeedsWindow", "fit", "read_gray", "to_uint8"]

Fit = Literal["stretch", "pad", "crop"]
Gray = npt.NDArray[Any]

# The largest radiographs have about 25 million pixels. A file that claims more than this
# would take gigabytes to decode: a mistake, or a decompression bomb.
MAX_PIXELS = 100_000_000
# Below this on a side a file is a spacer, a broken export, a tracking pixel: nothing that shows a chest.
MIN_SIDE_PX = 8

# We run one image per thread; OpenCV's own threads would compete, and do not survive a fork.
cv2.setNumThreads(1)
# What OpenCV would print about a broken file is in `BadImage.reason`.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class BadImage(UserError):
    """A file that cannot be used as an image; `path` and `reason` say which and why."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}; expected a whole image file")
        self.path = Path(path)
        self.reason = reason


class NeedsWindow(UserError):
    """Pixels deeper than 8 bit, and nobody said which range of values to show."""


class _Facts(NamedTuple):
    """What a file's header says, before anything is decoded."""

    size_px: tuple[int, int] | None  # (width, height), where we know the format
    damage: str | None


def read_gray(path: Path) -> Gray:
    """Read one image file as gray (H, W) uint8, uint16 or float32; raises `BadImage`."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadImage(path, f"cannot be read ({error.strerror or error})") from None
    if not data:
        raise BadImage(path, "empty file")
    if data[128:132] == b"DICM":
        raise BadImage(
            path,
            "a DICOM file; convert it to PNG with its window and photometric interpretation applied, "
            "e.g. by dcmj2pnm +oo --use-window 1",
        )
    size_px, damage = _facts(data)
    if size_px is not None and size_px[0] * size_px[1] > MAX_PIXELS:
        raise BadImage(
            path, f"{size_px[0]}x{size_px[1]} pixels, more than the {MAX_PIXELS:,} that are decoded"
        )
    if size_px is not None and min(size_px) < MIN_SIDE_PX:
        raise BadImage(
            path, f"{size_px[0]}x{size_px[1]} pixels, fewer than the {MIN_SIDE_PX} on each side of a picture"
        )
    if damage is not None:
        raise BadImage(path, damage)
    if (plain := read_plain(data)) is not None:
        return plain
    try:
        # Without IGNORE_ORIENTATION, so that EXIF is applied.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    except (cv2.error, MemoryError) as error:
        raise BadImage(path, f"cannot be decoded ({' '.join(str(error).split())[:120]})") from None
    if image is None or image.size == 0:
        raise BadImage(path, "not an image, or a damaged one")
    if image.size > MAX_PIXELS:
        raise BadImage(path, f"{image.size:,} pixels, more than the {MAX_PIXELS:,} that are used")
    if image.dtype not in (np.uint8, np.uint16):
        image = image.astype(np.float32)
        if not np.isfinite(image).all():
            raise BadImage(path, "has pixels that are NaN or infinite")
    return np.asarray(image)


def to_uint8(image: Gray, window: tuple[float, float] | None) -> npt.NDArray[np.uint8]:
    """Map gray values to uint8: `window` = (low, high) goes to (0, 255), linearly, clipped, rounded.

    8-bit pixels are display values already and stay as they are, window or not. Deeper ones
    are refused without a window: to guess it (by maximum, say) changes from image to image.
    """
    if image.dtype == np.uint8:
        return image
    if window is None:
        raise NeedsWindow(
            f"pixels are {image.dtype} in [{image.min():g}, {image.max():g}], not 8-bit; expected the "
            f"range of values to show: set cache.window=[LOW,HIGH], e.g. [{image.min():g},{image.max():g}]"
        )
    low, high = window
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"window [{low:g}, {high:g}]; expected LOW < HIGH: set cache.window=[LOW,HIGH]")
    scaled = (image.astype(np.float64) - low) * (255.0 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def fit(image: npt.NDArray[np.uint8], size_px: int, policy: Fit) -> npt.NDArray[np.uint8]:
    """Bring (H, W) uint8 to (size_px, size_px).

    stretch: both sides scaled on their own, the aspect ratio is lost (as in Talukdar et al.);
    pad: the whole image, centred on black; crop: the central square.
    """
    height, width = image.shape
    if policy == "stretch":
        return _resize(image, size_px, size_px)
    if policy == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _resize(image[top : top + side, left : left + side], size_px, size_px)
    if policy == "pad":
        scale = size_px / max(height, width)
        inner = _resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
        square = np.zeros((size_px, size_px), np.uint8)
        top, left = (size_px - inner.shape[0]) // 2, (size_px - inner.shape[1]) // 2
        square[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
        return square
    raise UserError(f"fit '{policy}'; expected stretch, pad or crop: set cache.fit=stretch")


def _resize(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Shrink by area, then enlarge linearly.

    In two steps, because INTER_AREA falls back to point sampling on both axes as soon as
    one of them grows.
    """
    shrunk = (min(image.shape[0], height), min(image.shape[1], width))
    if shrunk != image.shape:
        image = np.asarray(cv2.resize(image, shrunk[::-1], interpolation=cv2.INTER_AREA))
    if shrunk != (height, width):
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
    return np.ascontiguousarray(image)


def _facts(data: bytes) -> _Facts:
    """Look at a PNG's or JPEG's structure; of other formats only at the header, by Pillow.

    The decoders behind OpenCV fill what a cut-off file lacks with gray, some versions
    silently. So we look for the end ourselves. Of several pictures they take the first, silently too.
    """
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
    except (struct.error, IndexError):
        return _Facts(None, "truncated file (its header is incomplete)")
    return _header(data)


def _header(data: bytes) -> _Facts:
    """Return what Pillow reads in a header, without decoding: OpenCV would first allocate what a bomb claims."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the caller has its own limit
            with Image.open(io.BytesIO(data)) as image:
                return _Facts(image.size, _several(int(getattr(image, "n_frames", 1))))
    except Image.DecompressionBombError as error:
        return _Facts(None, f"a decompression bomb ({error})")
    except UnidentifiedImageError:  # PGM of some depths, say: OpenCV may know better
        return _Facts(None, None)
    except Exception as error:  # Pillow's plugins raise whatever a broken header leads them to
        return _Facts(None, f"truncated or damaged file ({' '.join(str(error).split())[:80]})")


def _several(n: int) -> str | None:
    return f"{n} pictures in one file; expected one: save the one that is meant" if n > 1 else None


def _png(data: bytes) -> _Facts:
    width, height = struct.unpack_from(">II", data, 16)
    at, frames = 8, 1
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data):
            break
        # Only critical chunks (upper-case first letter): a broken comment hurts nobody.
        if kind[:1].isupper() and zlib.crc32(data[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return _Facts((width, height), f"damaged PNG (checksum of a {kind.decode('latin-1')} block)")
        if kind == b"acTL":  # animation control: the number of frames
            (frames,) = struct.unpack_from(">I", data, at + 8)
        if kind == b"IEND":
            return _Facts((width, height), _several(frames))
        at = end + 4
    return _Facts((width, height), "truncated PNG (it has no end)")


def _jpeg(data: bytes) -> _Facts:
    size_px: tuple[int, int] | None = None
    at = 2
    while True:
        while data[at] != 0xFF:  # padding between segments
            at += 1
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in (0x01, *range(0xD0, 0xD9)):  # these carry no length
            at += 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        # Start of frame: C0–CF without the tables C4, C8, CC.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            size_px = (width, height)
        at += 2 + length
        if marker == 0xDA:  # after this: pixels, in which FF D9 cannot occur
            return _Facts(size_px, None if b"\xff\xd9" in data[at:] else "truncated JPEG (it has no end)")
