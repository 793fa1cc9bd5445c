"""What `explore` finds, before it is a page: parts, strips of pictures, how many of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["RANGE", "Part", "Pixels", "Rows", "Sizes", "Strip"]

Pixels = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]

RANGE = 64  # gray levels at which a difference is fully red or blue


@dataclass(frozen=True)
class Sizes:
    """How much is shown; tests ask for less."""

    strips: int = 4  # ways between two images, over all classes (at least one of each)
    steps: int = 8  # images of a way, ends among them
    morphs: int = 4  # latents shown as every class
    morph_latents: int = 16  # over which the difference of classes is averaged
    gallery: int = 8  # synthetic images beside their nearest training images
    searched: int = 64  # synthetic images, and held-out ones, whose nearest training image is looked for
    projected: int = 3  # held-out real images
    starts: int = (
        3  # latents from which each is looked for: one random, the others of the set's nearest images
    )
    projection_steps: int = 100


@dataclass(frozen=True)
class Strip:
    """A row of pictures: uint8 (S, S), or signed differences int16 (S, S), a caption each, "" for none."""

    about: str
    pictures: Sequence[npt.NDArray[Any]]
    captions: Sequence[str]


@dataclass(frozen=True)
class Part:
    """A section of the page: `told` says what is seen and what was found, `real` whether radiographs are in it."""

    key: str
    title: str
    told: Sequence[str]
    strips: Sequence[Strip] = ()
    real: bool = False
    record: dict[str, Any] = field(default_factory=dict)
