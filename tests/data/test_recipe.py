"""The papers' augmentation: what an rng fixes, what each amount does, and which albumentations does it."""

from __future__ import annotations

import importlib.metadata
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cxr.config import build
from cxr.data import recipe
from cxr.data.module import CXRDataModule
from cxr.data.recipe import AlbumentationsRecipe
from cxr.errors import UserError

STILL: dict[str, Any] = {
    "rotation_deg": 0.0, "shift_width": 0.0, "shift_height": 0.0, "shear_deg": 0.0, "zoom": 0.0,
    "horizontal_flip": False, "rescale": None,
}  # fmt: skip
ALL: dict[str, Any] = {
    "rotation_deg": 30.0, "shift_width": 0.2, "shift_height": 0.2, "shear_deg": 10.0, "zoom": 0.2,
    "horizontal_flip": True, "rescale": (0.8, 1.2),
}  # fmt: skip


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def batch() -> np.ndarray:
    return rng(0).integers(0, 256, (6, 48, 48), dtype=np.uint8)


def ramp(n: int = 8, axis: int = 1) -> np.ndarray:
    """Images (n, 64, 64) whose grey value is 2 × the column, or the row with axis=0."""
    image = np.tile(2 * np.arange(64, dtype=np.uint8), (64, 1))
    return np.tile(image if axis else image.T, (n, 1, 1))


def test_the_rng_fixes_the_result_and_global_state_is_untouched(batch: np.ndarray) -> None:
    whole, numpy_before, python_before = AlbumentationsRecipe(**ALL), np.random.get_state(), random.getstate()  # noqa: NPY002
    torch_before, cv2_threads, given = torch.get_rng_state(), cv2.getNumThreads(), batch.copy()
    first = whole(batch, rng())
    assert (first.shape, first.dtype) == (batch.shape, np.uint8)
    np.testing.assert_array_equal(batch, given)  # its input stays as it is
    np.testing.assert_array_equal(first, whole(batch, rng()))
    np.testing.assert_array_equal(first, AlbumentationsRecipe(**ALL)(batch, rng()))
    np.testing.assert_array_equal(first, pickle.loads(pickle.dumps(whole))(batch, rng()))  # in a worker
    assert not np.array_equal(first, whole(batch, rng(2)))
    assert all(not np.array_equal(a, b) for a, b in zip(first, batch, strict=True))
    np.testing.assert_array_equal(numpy_before[1], np.random.get_state()[1])  # noqa: NPY002
    assert random.getstate() == python_before
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert cv2.getNumThreads() == cv2_threads


def test_equal_images_of_a_batch_are_changed_differently() -> None:
    changed = AlbumentationsRecipe(**ALL)(ramp(), rng())
    assert len({image.tobytes() for image in changed}) == len(changed)


def test_nothing_on_changes_nothing(batch: np.ndarray) -> None:
    np.testing.assert_array_equal(AlbumentationsRecipe(**STILL)(batch, rng()), batch)


@pytest.mark.parametrize(("name", "axis"), [("shift_width", 1), ("shift_height", 0)])
def test_shifts_stay_in_range_along_their_axis_and_repeat_the_border(name: str, axis: int) -> None:
    changed = AlbumentationsRecipe(**{**STILL, name: 0.25})(ramp(40, axis), rng()).astype(int)
    middle = changed[:, 32, 32] - 64  # two grey values per pixel
    assert np.abs(middle).max() <= 2 * 16 + 1
    assert middle.min() < -16 and middle.max() > 16
    across = changed if axis else changed.transpose(0, 2, 1)
    assert (across == across[:, :1]).all()  # nothing moved the other way
    assert across[:, 0, 0].min() == 0 and across[:, 0, -1].max() == 126


def test_zoom_scales_about_the_centre() -> None:
    changed = AlbumentationsRecipe(**{**STILL, "zoom": 0.2})(ramp(40), rng()).astype(float)
    slopes = (changed[:, 32, 42] - changed[:, 32, 22]) / 40
    assert 1 / 1.21 < slopes.min() < 0.95 and 1.05 < slopes.max() < 1 / 0.79
    assert np.abs(changed[:, 32, 31:33].mean(1) - 63).max() <= 1.5


@pytest.mark.parametrize("name", ["rotation_deg", "shear_deg"])
def test_angles_stay_in_range(name: str) -> None:
    """The direction in which a ramp rises turns by at most the angle; it does turn."""
    changed = AlbumentationsRecipe(**{**STILL, name: 20.0})(ramp(40), rng()).astype(float)
    dx, dy = changed[:, 32, 40] - changed[:, 32, 24], changed[:, 40, 32] - changed[:, 24, 32]
    turned = np.degrees(np.arctan2(dy, dx))
    assert np.abs(turned).max() <= 22
    assert turned.min() < -8 and turned.max() > 8


def test_half_of_the_images_are_flipped() -> None:
    changed = AlbumentationsRecipe(**{**STILL, "horizontal_flip": True})(ramp(60), rng())
    flipped = (changed == ramp(60)[:, :, ::-1]).all((1, 2))
    assert (flipped | (changed == ramp(60)).all((1, 2))).all()
    assert 15 < flipped.sum() < 45


def test_rescale_multiplies_and_clips() -> None:
    images = np.full((40, 8, 8), 200, np.uint8)
    images[:, 0, 0] = 255
    changed = AlbumentationsRecipe(**{**STILL, "rescale": [0.5, 1.2]})(images, rng())
    assert (changed[:, 1:] == changed[:, 1:2, :1]).all()  # one factor per image
    assert 100 <= changed[:, 4, 4].min() < 140 and 210 < changed[:, 4, 4].max() <= 240
    assert changed[:, 0, 0].max() == 255


def test_only_training_batches_are_changed(batch: np.ndarray) -> None:
    module = CXRDataModule(
        images=batch, labels=np.tile(np.float32([[1, 0]]), (6, 1)),
        parts={"train": np.arange(2), "val": np.arange(2, 4), "test": np.arange(4, 6)},
        batch_size=2, eval_batch_size=2, num_workers=0, drop_last=False, seed=0,
        augment=AlbumentationsRecipe(**ALL),
    )  # fmt: skip
    seen = {
        "train": next(iter(module.train_dataloader())),
        "val": next(iter(module.val_dataloader())),
        "test": next(iter(module.test_dataloader())),
    }
    for part, one in seen.items():
        same = np.array_equal(one["image"][:, 0].numpy(), batch[one["row"].numpy()])
        assert same is (part != "train"), part


@pytest.mark.parametrize("name", ["densenet14", "covidgan"])
def test_the_papers_recipes(name: str, repository: Path, batch: np.ndarray) -> None:
    node = OmegaConf.to_container(OmegaConf.load(repository / "conf" / "augment" / f"{name}.yaml"))
    assert isinstance(node, dict)
    moved = {key for key, value in node.items() if key != "_target_" and value}
    shifts = {"shift_width", "shift_height", "zoom"}
    assert moved == shifts | (
        {"rotation_deg", "shear_deg", "horizontal_flip"} if name == "covidgan" else set()
    )
    changed = build(node)(batch, rng())
    assert changed.shape == batch.shape and not np.array_equal(changed, batch)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"zoom": 1.0}, "augment.zoom: got 1.0, expected 0 to 0.99"),
        ({"shift_width": -0.1}, "augment.shift_width"),
        ({"rotation_deg": float("nan")}, "augment.rotation_deg"),
        ({"rescale": (1.2, 0.8)}, "augment.rescale"),
        ({"rescale": (0.0, 1.0)}, "augment.rescale"),
    ],
)
def test_amounts_out_of_range_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        AlbumentationsRecipe(**{**STILL, **change})


@pytest.mark.parametrize(
    ("installed", "told"),
    [
        ({"albumentations": "2.0.8", "albumentationsx": "2.0.12"}, r"\(AGPL\)"),
        ({"albumentations": "1.4.0"}, "albumentations is 1.4.0, expected 2.0.8"),
        ({}, "not installed"),
    ],
)
def test_another_distribution_is_refused(
    installed: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(recipe.importlib.metadata, "version", version)
    recipe.albumentations.cache_clear()
    with pytest.raises(UserError, match=told):
        recipe.albumentations()
    recipe.albumentations.cache_clear()


def test_it_is_the_mit_release_and_its_import_asks_no_network(repository: Path) -> None:
    found = importlib.metadata.distribution("albumentations")
    assert found.version == "2.0.8"
    assert found.metadata["License"].startswith("MIT License")
    code = (
        "import sys; sys.addaudithook(lambda event, _: sys.exit(event) if event in"
        " ('socket.connect', 'socket.getaddrinfo', 'urllib.Request') else None);"
        "from cxr.data.recipe import albumentations as a; print(a().__version__)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        cwd=repository, env=environment, text=True, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout == "2.0.8\n", done.stderr
