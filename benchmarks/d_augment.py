"""D4: augmentation on the CPU. One warp and one table on uint8 bytes, against what a training script usually composes.

Ours is `WarpRecipe` as the loader calls it, with a generator for each image, and leaves uint8, which becomes float on the
device; the peers end, as in their own examples, in normalised float32 tensors. All draw from the same ranges: rotation,
shift, shear, zoom, flip, brightness, contrast and, but for torchvision, which draws none, gamma. kornia takes a batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import cxr  # noqa: F401  # first: it lets torchvision be imported beside a CPU-only torch

# isort: split
import cv2
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness import Line, optional
from cxr.data.phantom import Phantom
from cxr.data.recipe import WarpRecipe
from cxr.data.warp import Change

Pixels = npt.NDArray[np.uint8]

N, SIZE_PX = 32, 256
TURN, SHIFT, SHEAR, ZOOM, GREY = 15.0, 0.1, 5.0, 0.1, 0.1


def lines() -> Iterator[Line]:
    """Yield D4."""
    source = Phantom(N, 1, ["normal", "opacity"], 0.6, SIZE_PX, 0, False)
    images = np.stack([source.read(f"phantom/{i:06d}") for i in range(N)])
    recipe = WarpRecipe(
        rotation_deg=TURN,
        shift_width=SHIFT,
        shift_height=SHIFT,
        shear_deg=SHEAR,
        zoom=ZOOM,
        horizontal_flip=True,
        gamma=GREY,
        contrast=GREY,
        brightness=GREY,
    )

    def ours() -> Pixels:
        changed = np.empty_like(images)
        for i in range(N):
            changed[i : i + 1] = recipe(images[i : i + 1], np.random.default_rng([0, 1, i]))
        return changed

    yield Line(
        "D4", f"{N} images of {SIZE_PX} px augmented on the CPU (peers: to float, normalised)", ">=",
        {"albumentations, gray": 2.5, "albumentations, RGB": 6.0, "torchvision v2, RGB": 9.0, "kornia, a batch": 12.0},
        ours=ours,
        peers={"albumentations, gray": albumentations(images), "albumentations, RGB": albumentations(rgb(images)),
               "torchvision v2, RGB": torchvision(rgb(images)), "kornia, a batch": kornia(images)},
        check=lambda: near_exact(images, ours(), recipe),
    )  # fmt: skip


def rgb(images: Pixels) -> Pixels:
    """Return gray images (n, S, S) as (n, S, S, 3)."""
    return np.ascontiguousarray(np.repeat(images[..., None], 3, axis=-1))


def exact(image: Pixels, change: Change) -> npt.NDArray[np.float64]:
    """Return the change in float64, by SciPy's interpolation."""
    from scipy.ndimage import map_coordinates

    assert change.matrix is not None and change.table is not None
    y, x = np.mgrid[: len(image), : len(image)].astype(np.float64)
    turn, shift = np.linalg.inv(change.matrix[:, :2]), change.matrix[:, 2]
    at = np.einsum("ij,jrc->irc", turn, np.stack([x - shift[0], y - shift[1]]))
    value = map_coordinates(image.astype(np.float64), at[::-1], order=1, mode="nearest")
    value = value[:, ::-1] if change.flip else value
    return np.interp(value, np.arange(256), change.table.astype(np.float64))


def near_exact(images: Pixels, changed: Pixels, recipe: WarpRecipe) -> str:
    """Compare with arithmetic in float64."""
    assert recipe.changes is not None
    most = 0.0
    for i, image in enumerate(images):
        (change,) = recipe.changes(np.random.default_rng([0, 1, i]), 1, SIZE_PX)
        most = max(most, float(np.abs(changed[i] - np.rint(exact(image, change))).max()))
    assert most <= 1, f"off float64 by {most:.0f} grey levels"
    return f"every pixel within {most:.0f} grey level of float64"


def albumentations(images: Pixels) -> Callable[[], object]:
    """One image after the other."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    a = optional("albumentations")
    assert a is not None, "a dependency of cxr's"
    channels = 1 if images.ndim == 3 else 3
    whole = a.Compose([
        a.Affine(scale={"x": (1 - ZOOM, 1 + ZOOM), "y": (1 - ZOOM, 1 + ZOOM)},
                 translate_percent={"x": (-SHIFT, SHIFT), "y": (-SHIFT, SHIFT)}, rotate=(-TURN, TURN),
                 shear={"x": (-SHEAR, SHEAR), "y": (0.0, 0.0)}, interpolation=cv2.INTER_LINEAR,
                 border_mode=cv2.BORDER_REPLICATE, p=1.0),
        a.HorizontalFlip(p=0.5),
        a.RandomBrightnessContrast(brightness_limit=GREY, contrast_limit=GREY, p=1.0),
        a.RandomGamma(gamma_limit=(100 * (1 - GREY), 100 * (1 + GREY)), p=1.0),
        a.Normalize(mean=(0.5,) * channels, std=(0.5,) * channels),
        a.ToTensorV2(),
    ], seed=0)  # fmt: skip
    return lambda: torch.stack([whole(image=image)["image"] for image in images])


def torchvision(images: Pixels) -> Callable[[], object] | None:
    """One image after the other, RGB as its models take it."""
    if optional("torchvision") is None:
        return None
    from torchvision.transforms import InterpolationMode, v2

    whole: Any = v2.Compose([
        v2.RandomAffine(TURN, (SHIFT, SHIFT), (1 - ZOOM, 1 + ZOOM), SHEAR, InterpolationMode.BILINEAR),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(brightness=GREY, contrast=GREY),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.5] * 3),
    ])  # fmt: skip
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return lambda: torch.stack([whole(image) for image in tensors])


def kornia(images: Pixels) -> Callable[[], object] | None:
    """All images in one call."""
    if optional("kornia") is None:
        return None
    import kornia.augmentation as k

    whole = k.AugmentationSequential(
        k.RandomAffine(TURN, (SHIFT, SHIFT), (1 - ZOOM, 1 + ZOOM), SHEAR, padding_mode="border", p=1.0),
        k.RandomHorizontalFlip(),
        k.RandomBrightness((1 - GREY, 1 + GREY), p=1.0),
        k.RandomContrast((1 - GREY, 1 + GREY), p=1.0),
        k.RandomGamma((1 - GREY, 1 + GREY), p=1.0),
        k.Normalize(torch.tensor([0.5]), torch.tensor([0.5])),
    )
    batch = torch.from_numpy(images)[:, None]
    return lambda: whole(batch.float() / 255)
