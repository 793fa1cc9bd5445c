"""One warp and one table per image: against arithmetic in float64, against albumentations, on a device, in the loader."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from omegaconf import OmegaConf

from cxr.config import build
from cxr.data.module import CXRDataModule
from cxr.data.recipe import AlbumentationsRecipe, WarpRecipe, albumentations
from cxr.data.warp import Change, affine, as_tensors, change_batch, change_by_opencv, on_device
from cxr.errors import UserError
from cxr.run.naming import identity

STILL: dict[str, Any] = {"rotation_deg": 0.0, "shift_width": 0.0, "shift_height": 0.0, "shear_deg": 0.0, "zoom": 0.0,
                         "horizontal_flip": False}  # fmt: skip
MOVING = {
    **STILL,
    "rotation_deg": 30.0,
    "shift_width": 0.2,
    "shift_height": 0.1,
    "shear_deg": 10.0,
    "zoom": 0.2,
}
GREY = {"gamma": 0.1, "contrast": 0.1, "brightness": 0.1}
NO_GREY = dict.fromkeys(GREY, 0.0)
ALL = {**MOVING, **GREY, "horizontal_flip": True}
Floats = npt.NDArray[np.float64]


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def smooth(n: int, size_px: int = 64) -> np.ndarray:
    """Images whose neighbouring pixels differ by less than 32 levels, as a radiograph's do but at a hard edge."""
    coarse = rng(0).uniform(0, 255, (n, 6, 6))
    fine = [cv2.resize(one, (size_px, size_px), interpolation=cv2.INTER_CUBIC) for one in coarse]
    return np.rint(np.clip(fine, 0, 255)).astype(np.uint8)


def exact(image: np.ndarray, change: Change) -> Floats:
    """Bilinear in float64, by the definition: the border repeats, then the flip, then the table. No library."""
    size = len(image)
    value = image.astype(np.float64)
    if change.matrix is not None:
        turn, shift = change.matrix[:, :2], change.matrix[:, 2]
        y, x = np.mgrid[:size, :size].astype(np.float64)
        x, y = np.einsum("ij,jrc->irc", np.linalg.inv(turn), np.stack([x - shift[0], y - shift[1]]))
        left, top = np.floor(x), np.floor(y)

        def at(row: Floats, column: Floats) -> Floats:
            return value[row.clip(0, size - 1).astype(int), column.clip(0, size - 1).astype(int)]

        value = (at(top, left) * (left + 1 - x) + at(top, left + 1) * (x - left)) * (top + 1 - y) + (
            at(top + 1, left) * (left + 1 - x) + at(top + 1, left + 1) * (x - left)
        ) * (y - top)
    if change.flip:
        value = value[:, ::-1]
    if change.table is not None:
        value = np.interp(value, np.arange(256), change.table)
    return value


def by_albumentations(amounts: dict[str, Any]) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """The papers' recipe as it was trained with: three steps of albumentations 2.0.8."""
    a = albumentations()
    zoom, turn, shear = (amounts[k] for k in ("zoom", "rotation_deg", "shear_deg"))
    x, y = amounts["shift_width"], amounts["shift_height"]
    steps = []
    if any((zoom, turn, shear, x, y)):
        steps.append(a.Affine(
            scale={"x": (1 - zoom, 1 + zoom), "y": (1 - zoom, 1 + zoom)},
            translate_percent={"x": (-x, x), "y": (-y, y)}, rotate=(-turn, turn),
            shear={"x": (-shear, shear), "y": (0.0, 0.0)},
            interpolation=cv2.INTER_LINEAR, border_mode=cv2.BORDER_REPLICATE, p=1.0,
        ))  # fmt: skip
    if amounts["horizontal_flip"]:
        steps.append(a.HorizontalFlip(p=0.5))
    if amounts["rescale"] is not None:
        steps.append(a.MultiplicativeNoise(multiplier=amounts["rescale"], p=1.0))
    whole = a.Compose(steps, seed=0)

    def call(batch: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        changed = np.empty_like(batch)
        for i, seed in enumerate(generator.integers(2**32, size=len(batch), dtype=np.uint64).tolist()):
            whole.set_random_seed(seed)
            changed[i] = whole(image=batch[i])["image"]
        return changed

    return call


@pytest.mark.parametrize("change", [
    {}, {"horizontal_flip": True}, {"rescale": (0.8, 1.2)}, {"horizontal_flip": True, "rescale": (0.8, 1.2)},
    {"rotation_deg": 0.0, "shear_deg": 0.0}, {**STILL, "horizontal_flip": True, "rescale": (0.5, 1.5)}, STILL,
])  # fmt: skip
@pytest.mark.parametrize("size_px", [33, 64])
def test_the_papers_recipes_are_albumentations_to_the_bit(change: dict[str, Any], size_px: int) -> None:
    """Also of noise, where a place that is off by a thousandth of a pixel shows: what was trained by it holds."""
    amounts = {**MOVING, "rescale": None, **change}
    images = rng(5).integers(0, 256, (30, size_px, size_px), dtype=np.uint8)
    expected = by_albumentations(amounts)(images, rng(7))
    np.testing.assert_array_equal(AlbumentationsRecipe(**amounts)(images, rng(7)), expected)
    assert amounts == {**STILL, "rescale": None} or (expected != images).any()


@pytest.mark.parametrize("name", ["covidgan", "densenet14"])
def test_the_papers_configurations_are_albumentations_to_the_bit(name: str, repository: Path) -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(repository / "conf" / "augment" / f"{name}.yaml"))
    images = smooth(40)
    expected = by_albumentations(node)(images, rng())
    np.testing.assert_array_equal(build(node)(images, rng()), expected)


def test_the_flaw_that_is_kept_and_the_recipe_without_it() -> None:
    """albumentations flips those that it shifts to the left; `WarpRecipe` draws both on their own."""
    papers = AlbumentationsRecipe(**{**STILL, "shift_width": 0.25, "horizontal_flip": True, "rescale": None})
    ours = WarpRecipe(**{**STILL, "shift_width": 0.25, "horizontal_flip": True}, **NO_GREY)
    together = []
    for recipe in (papers, ours):
        assert recipe.changes is not None
        drawn = [c for c in recipe.changes(rng(), 200, 64) if c.matrix is not None and c.matrix[0, 2]]
        together.append(float(np.mean([c.flip == (c.matrix[0, 2] < 0) for c in drawn])))  # type: ignore[index]
    assert together[0] == 1.0 and 0.35 < together[1] < 0.65


def test_the_nearest_grey_level_of_exact_arithmetic() -> None:
    """OpenCV, for the papers' recipes, within one."""
    recipe = WarpRecipe(**{**MOVING, "horizontal_flip": True}, **NO_GREY)
    assert recipe.changes is not None
    images, drawn = smooth(40), recipe.changes(rng(), 40, 64)
    assert max(np.abs(np.diff(images.astype(int), axis=axis)).max() for axis in (1, 2)) < 48
    tensors = as_tensors(drawn, 64)
    device = on_device(torch.from_numpy(images)[:, None], tensors["theta"], None)[:, 0].numpy()
    made = zip(
        images, drawn, change_batch(images, drawn), device, change_by_opencv(images, drawn), strict=True
    )
    for image, change, ours, on_gpu, opencv in made:
        reference = exact(image, change)
        assert np.abs(ours - reference).max() <= 0.5 + 2e-3
        assert np.abs(on_gpu - reference).max() <= 0.5 + 2e-3
        assert np.abs(opencv - np.rint(reference)).max() <= 1


def test_hard_edges_are_off_by_what_opencv_rounds_places_to() -> None:
    """Noise, the worst there is: half a level and 1/64 of the steps between neighbours; ours and a device stay exact."""
    images = rng(0).integers(0, 256, (10, 64, 64), dtype=np.uint8)
    recipe = WarpRecipe(**MOVING, **NO_GREY)
    assert recipe.changes is not None
    drawn = recipe.changes(rng(), 10, 64)
    tensors = as_tensors(drawn, 64)
    device = on_device(torch.from_numpy(images)[:, None], tensors["theta"], None)[:, 0].numpy()
    made = zip(
        images, drawn, change_batch(images, drawn), device, change_by_opencv(images, drawn), strict=True
    )
    for image, change, ours, on_gpu, opencv in made:
        reference = exact(image, change)
        assert np.abs(ours - reference).max() <= 0.5 + 1e-2
        assert np.abs(on_gpu - reference).max() <= 0.5 + 1e-2
        assert np.abs(opencv - reference).max() <= 0.5 + 2 * 255 / 64 + 1


@pytest.mark.parametrize("size_px", [1, 2, 7, 300])
def test_a_compiled_warp_at_odd_sizes_with_flip_and_table(size_px: int) -> None:
    """Also what lies far outside, a batch that cannot be written to or is not in one piece, and a change of one kind."""
    images = rng(2).integers(0, 256, (4, size_px, size_px), dtype=np.uint8)
    images.setflags(write=False)
    recipe = WarpRecipe(**{**MOVING, "zoom": 0.9, "shift_width": 1.0, "horizontal_flip": True}, **GREY)
    assert recipe.changes is not None
    drawn = [change._replace(flip=i < 2) for i, change in enumerate(recipe.changes(rng(3), 4, size_px))]
    drawn[1] = Change(None, True, None)
    for image, change, ours in zip(images, drawn, change_batch(images, drawn), strict=True):
        table = np.arange(256) if change.table is None else change.table
        grey = exact(image, change._replace(table=None))
        lowest, highest = (table[np.rint(grey + off).clip(0, 255).astype(int)] for off in (-0.02, 0.02))
        assert ((lowest == ours) | (highest == ours)).all()
    still, swapped = [Change(None, False, None)] * 4, images.transpose(0, 2, 1)
    np.testing.assert_array_equal(change_batch(images, still), images)
    np.testing.assert_array_equal(change_batch(swapped, drawn), change_batch(swapped.copy(), drawn))


def test_real_radiographs(pack: Callable[[str], Path]) -> None:
    """Within a level of exact arithmetic; OpenCV's beyond that are at hard edges, and few."""
    files = sorted((pack("nih-chestxray14-256") / "images_001").rglob("*.png"))[:12]
    images = np.stack([cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files])
    recipe = WarpRecipe(**MOVING, **NO_GREY)
    assert recipe.changes is not None
    drawn = recipe.changes(rng(), len(images), 256)
    wanted = np.rint([exact(*one) for one in zip(images, drawn, strict=True)])
    assert np.abs(change_batch(images, drawn) - wanted).max() <= 1
    off = np.abs(change_by_opencv(images, drawn) - wanted)
    assert (off > 1).mean() < 1e-3, f"{(off > 1).mean():.1e} of the pixels, {off.max():.0f} levels at most"


def test_a_shift_of_whole_pixels_by_hand() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4) * 16
    matrix = affine(4, angle_deg=0, shear_deg=0, zoom=(1, 1), shift=(1, 0))
    expected = image[:, :, [0, 0, 1, 2]]
    for flip in (False, True):
        drawn = [Change(matrix, flip, None)]
        wanted = expected[:, :, ::-1] if flip else expected
        np.testing.assert_array_equal(change_batch(image, drawn), wanted)
        theta = as_tensors(drawn, 4)["theta"]
        np.testing.assert_array_equal(on_device(torch.from_numpy(image)[:, None], theta, None)[:, 0], wanted)
    quarter = affine(4, angle_deg=90, shear_deg=0, zoom=(1, 1), shift=(0, 0))
    np.testing.assert_array_equal(change_batch(image, [Change(quarter, False, None)])[0], np.rot90(image[0]))
    assert affine(4, angle_deg=0, shear_deg=0, zoom=(1, 1), shift=(0, 0)) is None


def test_grey_values_by_hand() -> None:
    recipe = WarpRecipe(**STILL, gamma=0.2, contrast=0.3, brightness=0.1)
    assert recipe.changes is not None
    u = rng().random((1, 10))[0]
    gamma, contrast, brightness = 1 + 0.2 * (2 * u[7] - 1), 1 + 0.3 * (2 * u[8] - 1), 0.1 * (2 * u[9] - 1)
    (change,) = recipe.changes(rng(), 1, 8)
    assert change.table is not None and change.matrix is None
    for grey in (0, 1, 100, 255):
        value = ((grey / 255) ** gamma - 0.5) * contrast + 0.5 + brightness
        assert change.table[grey] == round(255 * min(max(value, 0.0), 1.0))


def test_a_device_does_what_the_loader_does(monkeypatch: pytest.MonkeyPatch) -> None:
    images = smooth(7)
    recipe = WarpRecipe(**ALL)
    assert recipe.changes is not None
    drawn = recipe.changes(rng(), 7, 64)
    drawn[3] = Change(None, False, None)
    tensors = as_tensors(drawn, 64)
    batch = torch.from_numpy(images)[:, None]
    cpu, whole = change_batch(images, drawn), on_device(batch, **tensors)
    assert np.abs(whole[:, 0].numpy().astype(int) - cpu).max() <= 2  # a level, times the table's slope
    assert (np.abs(whole[:, 0].numpy().astype(int) - cpu) > 1).mean() < 5e-3
    np.testing.assert_array_equal(whole[3, 0], images[3])
    monkeypatch.setattr("cxr.data.warp.MOST_PIXELS", 64 * 64 * 2)
    assert torch.equal(on_device(batch, **tensors), whole)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(on_device(batch, **tensors), whole)


def loader(augment: Any, on: Any, batch_size: int = 4) -> CXRDataModule:
    return CXRDataModule(
        images=smooth(8), labels=np.tile(np.float32([[1, 0]]), (8, 1)),
        parts={"train": np.arange(8), "val": np.arange(4)}, batch_size=batch_size, eval_batch_size=4, num_workers=0,
        drop_last=False, seed=3, augment=augment, augment_on=on,
    )  # fmt: skip


def test_the_same_change_wherever_it_is_made_and_whatever_the_batch() -> None:
    """By row: the loader's images, and those that the hook makes of the same batches on a device."""
    seen: dict[Any, dict[int, np.ndarray]] = {}
    for on, batch_size in (("cpu", 4), ("device", 4), ("device", 2), ("auto", 4)):
        module = loader(WarpRecipe(**MOVING, **NO_GREY), on, batch_size)
        rows = seen[on, batch_size] = {}
        for batch in module.train_dataloader():
            assert ("theta" in batch) is (on == "device")
            batch = module.on_after_batch_transfer(batch, 0)
            assert set(batch) == {"image", "label", "row"} and batch["image"].dtype == torch.uint8
            rows.update(zip(batch["row"].tolist(), batch["image"][:, 0].numpy().astype(int), strict=True))
    for row in range(8):
        cpu, device = seen["cpu", 4][row], seen["device", 4][row]
        assert np.abs(cpu - device).max() <= 1 and (cpu != smooth(8)[row]).any()
        np.testing.assert_array_equal(device, seen["device", 2][row])
        np.testing.assert_array_equal(cpu, seen["auto", 4][row])  # no trainer, no GPU
    batch = next(iter(loader(WarpRecipe(**ALL), "device").val_dataloader()))  # type: ignore[arg-type]
    assert set(batch) == {"image", "label", "row"}


def test_what_is_more_than_a_warp_is_done_by_albumentations_in_the_loader() -> None:
    step = {"name": "ElasticTransform", "alpha": 60, "sigma": 6, "p": 1.0}
    plain, richer = WarpRecipe(**ALL), WarpRecipe(**ALL, then=[step])
    images, before = smooth(3), np.random.get_state()[1].copy()  # noqa: NPY002
    assert plain.about == "one warp and one table per image" and richer.changes is None
    assert richer.about == "one warp and one table per image, then albumentations"
    changed = richer(images, rng())
    assert (changed != plain(images, rng())).any()
    np.testing.assert_array_equal(changed, pickle.loads(pickle.dumps(richer))(images, rng()))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    with pytest.raises(
        UserError, match=r"loader\.augment_on=device: this augmentation is more than geometry"
    ):
        loader(richer, "device").train_dataloader()
    assert "theta" not in next(iter(loader(richer, "auto").train_dataloader()))


@pytest.mark.parametrize(("step", "told"), [
    ({"name": "Elastic"}, "augment.then: no step 'Elastic' in albumentations 2.0.8"),
    ({"name": "ElasticTransform", "alfa": 3}, "augment.then: ElasticTransform: .*alfa"),
    ({"name": "GaussNoise", "p": 2.0}, "augment.then: GaussNoise: "),
    ({}, "no step ''"),
])  # fmt: skip
def test_a_wrong_step_is_told(step: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        WarpRecipe(**ALL, then=[step])


def test_a_step_that_changes_the_size_is_told() -> None:
    with pytest.raises(UserError, match=r"augment.then: makes uint8 \(8, 8\) of uint8 \(64, 64\)"):
        WarpRecipe(**ALL, then=[{"name": "CenterCrop", "height": 8, "width": 8, "p": 1.0}])(smooth(1), rng())


@pytest.mark.parametrize(("loader_on", "accelerator", "recipe", "kept"), [
    ("auto", "cpu", "WarpRecipe", False), ("cpu", "gpu", "WarpRecipe", False), ("auto", "gpu", "WarpRecipe", True),
    ("device", "cpu", "WarpRecipe", True), (None, "gpu", "WarpRecipe", False), ("auto", "gpu", None, False),
])  # fmt: skip
def test_only_a_device_makes_another_run(
    loader_on: str | None, accelerator: str, recipe: str | None, kept: bool
) -> None:
    target = f"cxr.data.recipe.{recipe}" if recipe else "cxr.data.augment.none"
    found = identity({"loader": {} if loader_on is None else {"augment_on": loader_on}, "augment": {"_target_": target},
                      "trainer": {"accelerator": accelerator}})  # fmt: skip
    assert ("augment_on" in found["loader"]) is kept
