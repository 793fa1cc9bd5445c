"""Plain gray PNG without OpenCV: its pixels to the bit, and whatever is not plain, or damaged, is left to it."""

from __future__ import annotations

import itertools
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr.data import decode
from cxr.data.decode import BadImage, fit, read_gray
from cxr.data.png import LEAST_PIXELS, SIGNATURE, read_plain

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
HEADER = (8, 0, 0, 0, 0)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def filtered(image: Pixels, kinds: Pixels) -> bytes:
    """Return rows as a PNG stores them, by the specification's words: predictor by predictor, distance by distance."""
    wide = np.pad(image.astype(int), ((1, 0), (1, 0)))
    x, left, above, corner = wide[1:, 1:], wide[1:, :-1], wide[:-1, 1:], wide[:-1, :-1]
    guess = left + above - corner
    near = np.stack([left, above, corner])
    paeth = np.take_along_axis(near, np.abs(near - guess).argmin(0)[None], 0)[0]  # the first of equals
    by = np.stack([0 * x, left, above, (left + above) // 2, paeth])
    rows = (x - by[kinds, np.arange(len(x))]) % 256
    return np.concatenate([kinds[:, None], rows], 1).astype(np.uint8).tobytes()


def packed(
    raw: bytes, size: tuple[int, int], header: tuple[int, ...] = HEADER, before: bytes = b"", n: int = 1
) -> bytes:
    """Return a PNG file of stored rows, its pixels in n blocks, with `before` in front of them."""
    data = zlib.compress(raw)
    cuts = [len(data) * i // n for i in range(n + 1)]
    blocks = b"".join(chunk(b"IDAT", data[a:b]) for a, b in itertools.pairwise(cuts))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], *header))
    return SIGNATURE + head + before + blocks + chunk(b"IEND", b"")


def by_opencv(data: bytes) -> Pixels | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)


def some(size: tuple[int, int], seed: int = 0) -> Pixels:
    """Smooth with noise, or noise: predictors meet ties, wrap around, and differ from each other."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, size, dtype=np.uint8)
    ramp = np.add.outer(3 * np.arange(size[0]), 2 * np.arange(size[1])) + rng.integers(0, 3, size)
    return noise if seed % 2 else (ramp % 256).astype(np.uint8)


SIZES = [(1, 1), (1, 9), (9, 1), (2, 2), (3, 5), (8, 8), (17, 31), (40, 64), (64, 33)]


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, None])
def test_every_filter_at_every_size_is_opencvs_to_the_bit(kind: int | None) -> None:
    """`None`: each row its own, so that rows with Paeth come in ones, twos and more, first and last too."""
    for number, size in enumerate(SIZES * (1 if kind is not None else 12)):
        image, rng = some(size, number), np.random.default_rng(number)
        kinds = (
            np.full(size[0], kind)
            if kind is not None
            else rng.choice(5, size[0], p=[0.1, 0.1, 0.1, 0.1, 0.6])
        )
        data = packed(filtered(image, kinds), size, n=1 + number % 3)
        ours, theirs = read_plain(data, 1), by_opencv(data)
        assert ours is not None and theirs is not None
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(ours, image)


def test_a_large_file_by_two_encoders_as_the_cache_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by four threads at once; OpenCV is not asked for its pixels, and is for those of a small file."""
    image = cv2.GaussianBlur(some((600, 517), 1), (0, 0), 1.5)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    Image.fromarray(image).save(files[0])
    cv2.imwrite(str(files[1]), image, [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS])
    Image.fromarray(image[:64, :64]).save(files[2])
    theirs = cv2.resize(
        cv2.imread(str(files[1]), cv2.IMREAD_GRAYSCALE), (64, 64), interpolation=cv2.INTER_AREA
    )
    asked = []
    monkeypatch.setattr(
        decode.cv2, "imdecode", lambda data, flags: asked.append(len(data)) or image[:64, :64]
    )
    with ThreadPoolExecutor(4) as pool:
        for ours in pool.map(lambda file: fit(read_gray(file), 64, "stretch"), files[:2] * 4):
            np.testing.assert_array_equal(ours, theirs)
    assert not asked and image.size >= LEAST_PIXELS
    read_gray(files[2])
    assert len(asked) == 1


def test_what_is_not_plain_is_left_to_opencv() -> None:
    image, size = some((20, 20)), (20, 20)
    raw = filtered(image, np.full(20, 4))
    assert read_plain(packed(raw, size), 1) is not None
    assert read_plain(packed(raw, size), 401) is None and read_plain(packed(raw, size)) is None  # small
    assert (
        read_plain(packed(raw, size, before=chunk(b"tEXt", b"k\0v") + chunk(b"tIME", bytes(7))), 1)
        is not None
    )
    whole = packed(raw, size)
    at = whole.index(b"IDAT") - 4
    other = {
        "16 bit": packed(raw, (20, 10), (16, 0, 0, 0, 0)), "palette": packed(raw, size, (8, 3, 0, 0, 0)),
        "with alpha": packed(raw, (20, 10), (8, 4, 0, 0, 0)), "4 bit": packed(raw, (20, 40), (4, 0, 0, 0, 0)),
        "interlaced": packed(raw, size, (8, 0, 0, 0, 1)), "another filter method": packed(raw, size, (8, 0, 0, 1, 0)),
        "too few rows": packed(raw[:-21], size), "too many": packed(raw + raw[:21], size),
        "a byte less": packed(raw[:-1], size), "an unknown filter": packed(b"\5" + raw[1:], size),
        "no size": packed(b"", (0, 20)), "a small window": packed(raw, size).replace(b"IDAT\x78", b"IDAT\x18"),
        "more after the pixels": packed(raw, size)[:-12] + chunk(b"IDAT", b"x") + whole[-12:],
        "pixels in two places": whole[:-12] + chunk(b"tEXt", b"k\0v") + chunk(b"IDAT", b"x") + whole[-12:],
        "two headers": whole[:33] + whole[8:], "no pixels": whole[:at] + whole[-12:], "pixels first": whole[:8] + whole[at:],
        "no end": whole[:-12], "half an end": whole[:-3], "nothing": b"", "a remark's checksum":
        packed(raw, size, before=chunk(b"tEXt", b"k\0v")[:-1] + b"x"),
    } | {kind.decode(): packed(raw, size, before=chunk(kind, body)) for kind, body in (
        (b"tRNS", b"\0\7"), (b"gAMA", struct.pack(">I", 45455)), (b"PLTE", bytes(3)), (b"sBIT", b"\5"),
        (b"eXIf", b"MM\0*\0\0\0\10\0\1\1\22\0\3\0\0\0\1\0\6\0\0\0\0\0\0"), (b"acTL", struct.pack(">II", 2, 0)),
    )}  # fmt: skip
    read = [name for name, data in other.items() if read_plain(data, 1) is not None]
    assert not read


def test_damaged_files_come_out_as_opencv_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes changed, cut, doubled, with checksums made right again: read alike, or not at all, or refused alike."""
    rng = np.random.default_rng(0)
    path, outcomes, read = tmp_path / "x.png", [], []
    for number in range(300):
        size = (12, 16)
        raw = bytearray(filtered(some(size, number), rng.integers(0, 5, 12)))
        for _ in range(number % 3):  # also in the rows, before they are packed
            raw[rng.integers(len(raw))] = rng.integers(256)
        data = bytearray(packed(bytes(raw), size))
        where = int(rng.integers(8, len(data)))
        match number % 5:
            case 0:
                data[where] ^= 1 << int(rng.integers(8))
            case 1:
                del data[where : where + int(rng.integers(1, 9))]
            case 2:
                data[where:where] = data[where : where + 4]
            case 3:
                data[where:] = b""
        if number % 2:  # checksums, where the lengths still lead to them
            data = mended(data)
        path.write_bytes(data)
        found = []
        for plain in (lambda data: read_plain(data, 1), lambda data: None):
            monkeypatch.setattr(decode, "read_plain", plain)
            try:
                found.append(read_gray(path).tolist())
            except BadImage as error:
                found.append(error.reason)
        outcomes.append(found[0] == found[1])
        read.append(read_plain(bytes(data), 1) is not None)
    assert all(outcomes), [i for i, same in enumerate(outcomes) if not same]
    assert 20 < sum(read) < 280


def mended(data: bytearray) -> bytearray:
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return data


def test_a_bomb_stops_at_the_size_that_the_header_says() -> None:
    """20 MB of zeros behind a header of 512 x 512: no more than that is inflated."""
    import tracemalloc

    data = packed(bytes(20_000_000), (512, 512))
    tracemalloc.start()
    assert read_plain(data) is None
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_real_films(pack: Any) -> None:
    files = sorted((pack("nih-chestxray14-256") / "images_001").rglob("*.png"))[:20]
    plain = [read_plain(file.read_bytes(), 1) for file in files]
    assert sum(one is not None for one in plain) > 10
    for file, one in zip(files, plain, strict=True):
        if one is not None:
            np.testing.assert_array_equal(one, by_opencv(file.read_bytes()))
