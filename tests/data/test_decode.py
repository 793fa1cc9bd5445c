"""Decoding: every kind of file becomes the gray pixels a person would see, or a reason."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cxr.data.convert import to_float
from cxr.data.convert import to_uint8 as tensor_to_uint8
from cxr.data.decode import BadImage, NeedsWindow, fit, read_gray, to_uint8
from cxr.errors import UserError

RAMP = np.add.outer(np.arange(40), 3 * np.arange(60)).astype(np.uint8)  # (40, 60), 0 … 216


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_every_8_bit_mode_gives_the_same_gray(tmp_path: Path, mode: str) -> None:
    gray = Image.fromarray(RAMP)
    image = gray.convert("RGB").convert("RGBA") if mode == "RGBA" else gray.convert(mode)
    pixels = read_gray(saved(tmp_path / "x.png", image))
    assert pixels.dtype == np.uint8 and pixels.shape == (40, 60)
    assert np.abs(pixels.astype(int) - RAMP.astype(int)).max() <= 1


def test_16_bit_keeps_its_depth_and_is_refused_without_a_window(tmp_path: Path) -> None:
    deep = RAMP.astype(np.uint16) * 100
    cv2.imwrite(str(tmp_path / "x.png"), deep)
    pixels = read_gray(tmp_path / "x.png")
    assert pixels.dtype == np.uint16 and (pixels == deep).all()
    with pytest.raises(NeedsWindow, match=r"uint16.*cache\.window=\[LOW,HIGH\]"):
        to_uint8(pixels, None)
    shown = to_uint8(pixels, (5000, 10000))
    assert shown[deep <= 5000].max() == 0 and shown[deep >= 10000].min() == 255
    assert shown[deep == 7500][0] in (127, 128)
    with pytest.raises(UserError, match="LOW < HIGH"):
        to_uint8(pixels, (10.0, 10.0))


def test_float_tiff_is_windowed_and_nan_is_named(tmp_path: Path) -> None:
    values = RAMP.astype(np.float32) / 216 - 0.5
    cv2.imwrite(str(tmp_path / "x.tif"), values)
    assert (to_uint8(read_gray(tmp_path / "x.tif"), (-0.5, 0.5)) == np.rint((values + 0.5) * 255)).all()
    values[3, 3] = np.nan
    cv2.imwrite(str(tmp_path / "y.tif"), values)
    with pytest.raises(BadImage, match="NaN"):
        read_gray(tmp_path / "y.tif")


def test_8_bit_ignores_the_window() -> None:
    assert to_uint8(RAMP, (0.0, 65535.0)) is RAMP


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(RAMP), exif=exif)
    expected = np.rot90(RAMP, turn)
    pixels = read_gray(path)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected.astype(int)).max() <= 6  # JPEG loses a little


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bad_files(folder: Path) -> dict[str, Path]:
    """One file of each way to be unusable."""
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    whole = {suffix: cv2.imencode(f".{suffix}", noise)[1].tobytes() for suffix in ("jpg", "png")}
    png, jpg = whole["png"], whole["jpg"]
    middle = len(png) // 2
    bomb = png[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    bodies = {
        "truncated.jpg": jpg[: len(jpg) // 2],
        "no-end.jpg": jpg[:-2],
        "header.jpg": jpg[:30],
        "truncated.png": png[:middle],
        "flipped.png": png[:middle] + bytes([png[middle] ^ 0xFF]) + png[middle + 1 :],
        "empty.png": b"",
        "text.png": b"patient moved, retake",
        "bomb.png": bomb + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""),
    }
    for name, body in bodies.items():
        (folder / name).write_bytes(body)
    return {name: folder / name for name in [*bodies, "missing.png"]}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated.jpg", "truncated JPEG"),
        ("no-end.jpg", "truncated JPEG"),
        ("header.jpg", "truncated"),
        ("truncated.png", "truncated PNG"),
        ("flipped.png", "damaged PNG"),
        ("empty.png", "empty file"),
        ("text.png", "not an image"),
        ("bomb.png", "60000x60000 pixels, more than"),
        ("missing.png", "No such file"),
    ],
)
def test_bad_files_say_why_and_print_nothing(
    tmp_path: Path, name: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = bad_files(tmp_path / "bad")[name]
    with pytest.raises(BadImage) as caught:
        read_gray(path)
    assert reason in caught.value.reason and caught.value.path == path
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_thumbnail_does_not_hide_that_a_jpeg_is_cut(tmp_path: Path) -> None:
    jpg = cv2.imencode(".jpg", RAMP)[1].tobytes()
    thumbnail = struct.pack(">HH", 0xFFE1, len(jpg) + 2) + jpg  # a whole JPEG, with its end, in a segment
    (tmp_path / "whole.jpg").write_bytes(jpg[:2] + thumbnail + jpg[2:])
    (tmp_path / "cut.jpg").write_bytes((jpg[:2] + thumbnail + jpg[2:])[:-40])
    assert read_gray(tmp_path / "whole.jpg").shape == RAMP.shape
    with pytest.raises(BadImage, match="truncated JPEG"):
        read_gray(tmp_path / "cut.jpg")


def test_stretch_fills_and_pad_keeps_the_aspect_ratio_and_crop_the_centre() -> None:
    wide = np.full((100, 200), 200, np.uint8)
    wide[:, :50] = 50
    wide[:, 150:] = 50
    stretched, padded, cropped = (fit(wide, 64, policy) for policy in ("stretch", "pad", "crop"))
    assert {image.shape for image in (stretched, padded, cropped)} == {(64, 64)}
    assert stretched[0, 0] == 50 and stretched[32, 32] == 200
    assert padded[:16].max() == 0 and padded[48:].max() == 0 and padded[16:48].min() == 50
    assert cropped.min() == 200


def test_shrinking_averages_and_does_not_alias_when_the_other_side_grows() -> None:
    checks = (np.indices((256, 16)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = fit(checks, 32, "stretch")  # 256 -> 32 shrinks, 16 -> 32 grows
    assert np.abs(small.astype(int) - 127).max() <= 1
    assert (fit(checks[:32, :].repeat(2, axis=1), 32, "stretch") == checks[:32].repeat(2, axis=1)).all()
    ramp = np.arange(4, dtype=np.uint8)[None].repeat(4, 0) * 80
    assert (fit(ramp, 8, "stretch") == cv2.resize(ramp, (8, 8), interpolation=cv2.INTER_LINEAR)).all()


def test_every_real_oddity_is_read(pack: Any) -> None:
    for path in sorted((pack("cxr-oddities") / "images").iterdir()):
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB"))[..., 0].astype(int)  # all channels are equal
        pixels = read_gray(path)
        assert pixels.dtype == np.uint8 and pixels.shape == expected.shape
        assert np.abs(pixels.astype(int) - expected).max() <= 2
        assert fit(pixels, 128, "pad").shape == (128, 128)


@pytest.mark.parametrize("channels", [1, 3])
def test_uint8_to_float_and_back_is_exact_for_every_value(channels: int) -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    floats = to_float(every, channels)
    assert floats.shape == (4, channels, 8, 8) and floats.dtype == torch.float32
    assert floats.min() == -1 and floats.max() == 1
    assert torch.equal(tensor_to_uint8(floats), every)


def test_floats_outside_the_range_are_clamped_not_wrapped() -> None:
    outside = torch.tensor([-1.01, -9.0, 1.01, 9.0, 0.0]).reshape(5, 1, 1, 1)
    assert tensor_to_uint8(outside).flatten().tolist() == [0, 0, 255, 255, 128]
    with pytest.raises(ValueError, match="uint8"):
        to_float(torch.zeros(1, 1, 2, 2), 1)
