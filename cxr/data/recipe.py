"""Augmentation recipes: a random affine per training image, alone or with grey values and steps of albumentations.

`AlbumentationsRecipe` is the papers'. They used Keras' ImageDataGenerator and name its settings, mostly without amounts.
The amounts here mean what they mean there: each is drawn evenly from its range, all of them make one affine warp about the
centre, and what the warp uncovers repeats the border ("nearest"). Two departures: Keras shears first and zooms last and
albumentations orders them its own way, which matters little at these amounts; and pixels stay uint8.

`WarpRecipe` is ours: the same geometry, gamma, contrast and brightness, and what else albumentations offers.

What is pure geometry and grey values is one warp and one table per image (`warp`); only `then` needs albumentations.

albumentations 2.0.8 is the last release under the MIT licence. Its successor is AGPL, is called albumentationsx
and installs the same import name, so the distribution is checked, not only the import.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import random
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.data.warp import Change, Draws, affine, change_batch, change_by_opencv
from cxr.errors import UserError

__all__ = ["AlbumentationsRecipe", "WarpRecipe", "albumentations"]

VERSION = "2.0.8"

Pixels = npt.NDArray[np.uint8]

LIMITS = {"rotation_deg": 180.0, "shift_width": 1.0, "shift_height": 1.0, "shear_deg": 89.0, "zoom": 0.99,
          "brightness": 1.0, "contrast": 0.99, "gamma": 0.99}  # fmt: skip
_GREY = np.arange(256) / 255
IN_ONE = "one warp and one table per image"


class AlbumentationsRecipe:
    """Warp, flip and scale the grey values of each image of a batch, anew for every image.

    Called with a batch (B, H, W) uint8, H = W, and an rng, returns the same shape and type. The result is a function
    of the two: each image gets a seed drawn from the rng, and no global random state is read or written.

    It draws what albumentations 2.0.8 draws for Affine, HorizontalFlip and MultiplicativeNoise from that seed, and its
    pixels are albumentations' to the bit (tests/data/test_recipe.py), so what was trained by it holds; only the way is
    shorter. Part of that is a flaw of albumentations, kept: its steps begin from the same seed, so that the images that are
    flipped are those that are shifted to the left. `WarpRecipe` draws each amount on its own.

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
        UserError: an amount is out of range.
    """

    about = IN_ONE

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
        self.amounts = _amounts(
            rotation_deg=rotation_deg,
            shift_width=shift_width,
            shift_height=shift_height,
            shear_deg=shear_deg,
            zoom=zoom,
        )
        if rescale is not None and not 0 < rescale[0] <= rescale[1] < np.inf:
            raise UserError(
                f"augment.rescale: got {list(rescale)}, expected [low, high] above 0; set augment.rescale=…"
            )
        self.horizontal_flip = horizontal_flip
        self.rescale = None if rescale is None else (float(rescale[0]), float(rescale[1]))

    def __call__(self, batch: Pixels, rng: np.random.Generator) -> Pixels:
        """Return the batch, each image changed by its own draw of `rng`."""
        return change_by_opencv(batch, self.changes(rng, len(batch), batch.shape[-1]))

    def changes(self, rng: np.random.Generator, n: int, size_px: int) -> list[Change]:
        """Draw the changes of n images of size_px x size_px."""
        return [self._change(seed, size_px) for seed in rng.integers(2**32, size=n, dtype=np.uint64).tolist()]

    def _change(self, seed: int, size_px: int) -> Change:
        """Draw as albumentations does: each step from a generator of its own with this seed."""
        turn, width, height, shear, zoom = self.amounts.values()
        draw = random.Random(seed).random
        first = draw()
        matrix = None
        if any(self.amounts.values()):
            x, y = _even(width, first), _even(height, draw())
            lean = -_even(shear, draw())
            draw()  # the shear along y, always 0
            zooms = 1 + zoom * (2 * draw() - 1), 1 + zoom * (2 * draw() - 1)
            matrix = affine(size_px, angle_deg=_even(turn, draw()), shear_deg=lean, zoom=zooms,
                            shift=(int(x * size_px), int(y * size_px)))  # fmt: skip
        table = None
        if self.rescale is not None:
            factor = np.float32(np.random.default_rng(seed).uniform(*self.rescale))
            table = np.clip(np.arange(256, dtype=np.float32) * factor, 0, 255).astype(np.uint8)
        return Change(matrix, self.horizontal_flip and first < 0.5, table)


class WarpRecipe:
    """Warp each image and change its grey values, then, if asked, go on by albumentations.

    Called with a batch (B, H, W) uint8, H = W, and an rng, returns the same shape and type. The result is a function of
    the two.

    Args:
        rotation_deg, shift_width, shift_height, shear_deg, zoom, horizontal_flip: as `AlbumentationsRecipe`'s, but shifts
            are not rounded to whole pixels and every amount is drawn on its own.
        gamma: grey values, as a share v of 255, become v ** g, g from 1 ± this.
        contrast: then (v - 1/2) c + 1/2, c from 1 ± this.
        brightness: then v + b, b from ± this; clipped to [0, 1] and rounded to uint8, all three in one step.
        then: steps of albumentations, one after the other, each with its name and its settings, e.g.
            [{name: ElasticTransform, alpha: 30, sigma: 6, p: 0.5}]. Without any, the whole is one warp and one table.

    Raises:
        UserError: an amount is out of range, a step is unknown, or albumentations 2.0.8 is not what is installed.
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
        gamma: float,
        contrast: float,
        brightness: float,
        then: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.amounts = _amounts(
            rotation_deg=rotation_deg,
            shift_width=shift_width,
            shift_height=shift_height,
            shear_deg=shear_deg,
            zoom=zoom,
            gamma=gamma,
            contrast=contrast,
            brightness=brightness,
        )
        self.horizontal_flip = horizontal_flip
        self._then = _steps(then) if then else None
        self.changes: Draws | None = None if then else self._drawn
        self.about = f"{IN_ONE}, then albumentations" if then else IN_ONE

    def __call__(self, batch: Pixels, rng: np.random.Generator) -> Pixels:
        """Return the batch, each image changed by its own draw of `rng`."""
        changed = change_batch(batch, self._drawn(rng, len(batch), batch.shape[-1]))
        if self._then is not None:
            for i, seed in enumerate(rng.integers(2**32, size=len(batch), dtype=np.uint64).tolist()):
                self._then.set_random_seed(seed)
                image = self._then(image=changed[i])["image"]
                if image.shape != changed[i].shape or image.dtype != np.uint8:
                    raise UserError(
                        f"augment.then: makes {image.dtype} {image.shape} of uint8 {changed[i].shape}; "
                        "expected steps that keep size and type: take out the one that does not"
                    )
                changed[i] = image
        return changed

    def _drawn(self, rng: np.random.Generator, n: int, size_px: int) -> list[Change]:
        """Draw the changes of n images of size_px x size_px, before `then`."""
        turn, width, height, shear, zoom, gamma, contrast, brightness = self.amounts.values()
        drawn = []
        for u in rng.random((n, 10)).tolist():
            zooms = 1 + _even(zoom, u[4]), 1 + _even(zoom, u[5])
            shift = _even(width, u[1]) * size_px, _even(height, u[2]) * size_px
            matrix = affine(size_px, angle_deg=_even(turn, u[0]), shear_deg=_even(shear, u[3]),
                            zoom=zooms, shift=shift)  # fmt: skip
            table = None
            if gamma or contrast or brightness:
                table = _table(1 + _even(gamma, u[7]), 1 + _even(contrast, u[8]), _even(brightness, u[9]))
            drawn.append(Change(matrix, self.horizontal_flip and u[6] < 0.5, table))
        return drawn


def _even(amount: float, u: float) -> float:
    """Return what `u` from [0, 1) is in ±amount; the sum that random.uniform computes."""
    return -amount + (amount + amount) * u


def _table(gamma: float, contrast: float, brightness: float) -> Pixels:
    grey = _GREY**gamma if gamma != 1 else _GREY
    shares = (grey - 0.5) * contrast + 0.5 + brightness
    # Not np.clip, whose call costs more than all else here.
    table: Pixels = np.rint(255 * np.minimum(np.maximum(shares, 0), 1)).astype(np.uint8)
    return table


def _amounts(**amounts: float) -> dict[str, float]:
    for name, amount in amounts.items():
        if not 0 <= amount <= LIMITS[name]:
            raise UserError(
                f"augment.{name}: got {amount}, expected 0 to {LIMITS[name]:g}; set augment.{name}=…"
            )
    return amounts


def _steps(then: Sequence[Mapping[str, Any]]) -> Any:
    """Build albumentations' steps; what it would only warn about (an unknown setting) is refused."""
    a = albumentations()
    steps = []
    for step in then:
        settings = dict(step)
        name = str(settings.pop("name", ""))
        kind = getattr(a, name, None)
        if not (isinstance(kind, type) and issubclass(kind, a.BasicTransform)):
            raise UserError(
                f"augment.then: no step '{name}' in albumentations {VERSION}; expected a transform's name, "
                "e.g. {name: ElasticTransform, alpha: 30, sigma: 6, p: 0.5}"
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                steps.append(kind(**settings))
        except (ValueError, TypeError, UserWarning) as error:
            told = " ".join(str(error).split())[:160]
            raise UserError(
                f"augment.then: {name}: {told}; expected albumentations {VERSION}'s settings"
            ) from None
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
