"""Leaks of augmentation: planted ones are found, new real images and merely duller ones are clean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from cxr.data.phantom import Phantom
from cxr.gan.augment import DiffAugment
from cxr.metric.augment_leak import LEVEL, SIGNS, augment_leaks

Pixels = npt.NDArray[np.uint8]
OFF = {
    "brightness": 0.0,
    "contrast": 0.0,
    "translation": 0.0,
    "zoom": 0.0,
    "rotation_deg": 0.0,
    "cutout": 0.0,
}
N = 120  # of each of two sets of patients


@pytest.fixture(scope="module")
def phantoms() -> tuple[Pixels, Pixels]:
    """Chests of two sets of patients."""
    source = Phantom(
        n_patients=2 * N,
        images_per_patient=1,
        classes=["normal", "opacity"],
        difficulty=0.5,
        size_px=32,
        seed=0,
        multi_label=False,
    )
    images = np.stack([source.read(f"phantom/{n:06d}") for n in range(2 * N)])
    return images[:N], images[N:]


@pytest.fixture(scope="module")
def radiographs(pack: Callable[[str], Path]) -> tuple[Pixels, Pixels]:
    """400 real chests of 400 patients at 64 px, in two halves."""
    files = sorted((pack("chest-xray-pneumonia-224") / "chest_xray" / "train" / "PNEUMONIA").glob("person*"))
    firsts = list({file.name.partition("_")[0]: file for file in reversed(files)}.values())
    order = np.random.default_rng(0).permutation(len(firsts))[:400]
    read = (cv2.imread(str(firsts[i]), cv2.IMREAD_GRAYSCALE) for i in order)
    images = np.stack([cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA) for image in read])
    return images[:200], images[200:]


def augmented(images: Pixels, **strengths: float) -> Pixels:
    x = torch.from_numpy(images).float().unsqueeze(1) / 127.5 - 1
    out = DiffAugment(**{**OFF, **strengths})(x, torch.Generator().manual_seed(0))
    return np.asarray(((out.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()[:, 0])


def mirrored(images: Pixels, share: float) -> Pixels:
    chosen = np.random.default_rng(1).random(len(images)) < share
    return np.where(chosen[:, None, None], images[:, :, ::-1], images)


PLANTED: list[tuple[dict[str, float], str]] = [
    ({"translation": 0.125}, "shift"),
    ({"translation": 0.125}, "edge"),
    ({"rotation_deg": 15.0}, "rotation"),
    ({"brightness": 0.5}, "brightness"),
    ({"contrast": 0.5}, "contrast"),
    ({"zoom": 0.3}, "edge"),
    ({"cutout": 0.5}, "cutout"),
]


@pytest.mark.parametrize("where", ["phantoms", "radiographs"])
def test_planted_leaks_are_found(where: str, request: pytest.FixtureRequest) -> None:
    real, new = request.getfixturevalue(where)
    for strengths, name in PLANTED:
        found = augment_leaks(real, augmented(new, **strengths))
        assert name in found["leaks"], (strengths, found["signs"][name])
    for share in (0.5, 0.25):
        found = augment_leaks(real, mirrored(new, share))
        assert found["leaks"] == ["mirror"]
        sign = found["signs"]["mirror"]
        assert sign["low"] - LEVEL < share < sign["high"]  # up to LEVEL of the others are flagged, too


@pytest.mark.parametrize("where", ["phantoms", "radiographs"])
def test_new_real_images_are_clean(where: str, request: pytest.FixtureRequest) -> None:
    real, new = request.getfixturevalue(where)
    for generated in (new, (0.7 * new).astype(np.uint8), real[:40]):
        found = augment_leaks(real, generated)
        assert found["leaks"] == [], found
        assert list(found["signs"]) == list(SIGNS)
    whole = np.concatenate((real, new))
    for seed in range(2):  # other halves
        order = np.random.default_rng(seed).permutation(len(whole))
        assert augment_leaks(whole[order[: len(real)]], whole[order[len(real) :]])["leaks"] == []


def test_a_blurred_generator_has_not_leaked(radiographs: tuple[Pixels, Pixels]) -> None:
    real, new = radiographs
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), 1.2) for image in new])
    assert augment_leaks(real, blurred)["leaks"] == []


def test_a_record_says_how_sure_it_is(phantoms: tuple[Pixels, Pixels]) -> None:
    record: dict[str, Any] = augment_leaks(phantoms[0], mirrored(phantoms[1], 1.0))["signs"]["mirror"]
    assert record["value"] > 0.9 and record["low"] < record["value"] <= record["high"]
    assert record["n"] == record["n_held_out"] == N and record["p_value"] < 1e-6 and record["leaks"]


def test_an_image_alone_by_hand() -> None:
    """One of twenty copies of a ramp is given each mark: it is the one that is flagged."""
    rng = np.random.default_rng(0)
    ramp = np.tile(np.linspace(20, 220, 32), (32, 1)) + np.linspace(0, 30, 32)[:, None]
    images = np.clip(ramp + rng.normal(0, 4, (40, 32, 32)), 0, 255).astype(np.uint8)
    real, generated = images[:20], images[20:].copy()
    clean = augment_leaks(real, generated)["signs"]
    generated[0, :4] = generated[0, 4]  # the top lines repeat the fifth
    generated[1, 8:20, 4:16] = 127
    generated[2] = generated[2, :, ::-1]
    signs = augment_leaks(real, generated)["signs"]
    for name in ("edge", "cutout", "mirror"):
        assert clean[name]["n_flagged"] == 0 and signs[name]["n_flagged"] == 1, name


def test_what_cannot_be_compared_is_refused() -> None:
    images = np.zeros((20, 16, 16), np.uint8)
    with pytest.raises(ValueError, match="at least 20"):
        augment_leaks(images[:19], images)
    with pytest.raises(ValueError, match="one size"):
        augment_leaks(images, np.zeros((20, 32, 32), np.uint8))
    with pytest.raises(ValueError, match="from 16 pixels"):
        augment_leaks(images[:, :8], images[:, :8])
    assert augment_leaks(images, images)["leaks"] == []  # nothing to see, nothing to divide by
