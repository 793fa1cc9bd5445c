"""Augmentation as the papers had it: one random affine per training image, by albumentations.

The papers used Keras' ImageDataGenerator and name its settings, mostly without amounts. The amounts here mean
what they mean there: each is drawn evenly from its range, all of them make one affine warp about the centre, and
what the warp uncovers repeats the border ("nearest"). Two departures: Keras shears first and zooms last and
albumentations orders them its own way, which matters little at these amounts; and pixels stay uint8.

albumentations 2.0.8 is the last release under the MIT licence. Its successor is AGPL, is called albumentationsx
and installs the same import name, so the distribution is checked, not only the import.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from functools import cache
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr.errors import UserError

__all__ = ["AlbumentationsRecipe"]

VERSION = "2.0.8"

Pixels = npt.NDArray[np.uint8]


class AlbumentationsRecipe:
    """Warp, flip and scale the grey values of each image of a batch, anew for every image.

    Called with a batch (B, H, W) uint8 and an rng, returns the same shape and type. The result is a function
    of the two: each image gets a seed drawn from the rng, and no global random state is read or written.

    Args:
        rotation_deg: the angle is drawn from ±this.
        shift_width: to the side, from ± this share of the width.
        shift_height: up or down, from ± this share of the height.
        shear_deg: from ± this; Keras' `shear_range`, which is in degrees too.
        zoom: width and height each by a factor from 1 ± this, as Keras does (it does not keep the shape).
        horizontal_flip: flip half of the images. On a radiograph this puts the heart on the right.
        rescale: grey values times a factor from [low, high], clipped to 255; None leaves them. Keras'
            `rescale=1/255` is none of this: it only changes units, which happens here when pixels become floats.

    Raises:
        UserError: an amount is out of range, or albumentations 2.0.8 is not what is installed.
    """

    def __init__(
        self,
        *,
        rotation_deg: float,
        shift_width: float,
        shift_height: float,
        shear_deg: float,
        zoom: float,
        horizontal_flip: bool,
        rescale: tuple[float, float] | None,
    ) -> None:
        limits = {
            "rotation_deg": 180.0,
            "shift_width": 1.0,
            "shift_height": 1.0,
            "shear_deg": 89.0,
            "zoom": 0.99,
        }
        amounts = {
            "rotation_deg": rotation_deg,
            "shift_width": shift_width,
            "shift_height": shift_height,
            "shear_deg": shear_deg,
            "zoom": zoom,
        }
        for name, limit in limits.items():
            if not 0 <= amounts[name] <= limit:
                raise UserError(
                    f"augment.{name}: got {amounts[name]}, expected 0 to {limit:g}; set augment.{name}=…"
                )
        if rescale is not None and not 0 < rescale[0] <= rescale[1] < np.inf:
            raise UserError(
                f"augment.rescale: got {list(rescale)}, expected [low, high] above 0; set augment.rescale=…"
            )
        self.amounts = amounts
        self.horizontal_flip = horizontal_flip
        self.rescale = None if rescale is None else (float(rescale[0]), float(rescale[1]))
        self._transform = self._compose()

    def __call__(self, batch: Pixels, rng: np.random.Generator) -> Pixels:
        """Return the batch, each image changed by its own draw of `rng`."""
        changed = np.empty_like(batch)
        for i, seed in enumerate(rng.integers(2**32, size=len(batch), dtype=np.uint64).tolist()):
            self._transform.set_random_seed(seed)
            changed[i] = self._transform(image=batch[i])["image"]
        return changed

    def _compose(self) -> Any:
        a = albumentations()
        zoom, turn, shear = (self.amounts[k] for k in ("zoom", "rotation_deg", "shear_deg"))
        shift_x, shift_y = self.amounts["shift_width"], self.amounts["shift_height"]
        steps = []
        if any(self.amounts.values()):
            affine = a.Affine(
                scale={"x": (1 - zoom, 1 + zoom), "y": (1 - zoom, 1 + zoom)},
                translate_percent={"x": (-shift_x, shift_x), "y": (-shift_y, shift_y)},
                rotate=(-turn, turn),
                shear={"x": (-shear, shear), "y": (0.0, 0.0)},
                interpolation=cv2.INTER_LINEAR,
                border_mode=cv2.BORDER_REPLICATE,
                p=1.0,
            )
            steps.append(affine)
        if self.horizontal_flip:
            steps.append(a.HorizontalFlip(p=0.5))
        if self.rescale is not None:
            steps.append(a.MultiplicativeNoise(multiplier=self.rescale, p=1.0))
        return a.Compose(steps, seed=0)  # seeded anew for every image


@cache
def albumentations() -> ModuleType:
    """Import albumentations 2.0.8, offline; a UserError says how to install it where another is."""
    mend = f"pip install 'albumentations=={VERSION}'"
    found = {}
    for name in ("albumentations", "albumentationsx"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if "albumentationsx" in found:
        raise UserError(
            f"augment: albumentationsx {found['albumentationsx']} (AGPL) answers to the import name albumentations, "
            f"expected albumentations {VERSION} (MIT); pip uninstall albumentationsx, then {mend}"
        )
    if found.get("albumentations") != VERSION:
        raise UserError(
            f"augment: albumentations is {found.get('albumentations', 'not installed')}, expected {VERSION}; {mend}"
        )
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version
    module = importlib.import_module("albumentations")
    if module.__version__ != VERSION:
        raise UserError(
            f"augment: import albumentations gives {module.__version__}, expected {VERSION}; {mend}"
        )
    return module
