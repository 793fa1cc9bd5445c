"""What conf/filter/*.yaml says: how to choose among the images of a synthetic set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cxr.errors import UserError

__all__ = ["Agreement", "Filter", "Realism", "Review"]


@dataclass(frozen=True, kw_only=True)
class Review:
    """By people: the CSVs that review pages exported.

    Attributes:
        csv: files; of every part of a review, of several reviewers.
        undecided: what becomes of an image that nobody decided.
        conflict: what becomes of one that was kept by one reviewer and rejected by another.
    """

    csv: list[str]
    undecided: Literal["keep", "drop", "refuse"]
    conflict: Literal["keep", "drop", "refuse"]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """By a classifier of ours: an image stays whose own class it finds probable enough.

    Attributes:
        run: the classifier's run.
        at_least: probability, in [0, 1].
        keep: of these only so many of each class, the most probable first; None: all.
    """

    run: str
    checkpoint: Literal["last", "best"]
    at_least: float
    keep: int | None

    def __post_init__(self) -> None:
        if not 0.0 <= self.at_least <= 1.0:
            raise UserError(
                f"filter.at_least: got {self.at_least:g}, expected a probability in [0, 1]; set filter.at_least=0.5"
            )
        if self.keep is not None and self.keep < 1:
            raise UserError(
                f"filter.keep: got {self.keep}, expected at least 1 image per class; set filter.keep=null"
            )


@dataclass(frozen=True, kw_only=True)
class Realism:
    """By nearness: an image stays that is no farther from a real one than most real ones are from each other.

    There is no "nearest n of each class": the nearest of all are copies of training images.

    Attributes:
        run: a classifier's run, whose training images and features are used; with features=pixels a GAN's will do.
        features: what goes into the classifier's last dense layer, or pixels averaged over blocks.
        quantile: of the distances between real images that is the limit, in (0, 1].
    """

    run: str
    checkpoint: Literal["last", "best"]
    features: Literal["classifier", "pixels"]
    quantile: float

    def __post_init__(self) -> None:
        if not 0.0 < self.quantile <= 1.0:
            raise UserError(
                f"filter.quantile: got {self.quantile:g}, expected a share in (0, 1]; set filter.quantile=0.95"
            )


Filter = Review | Agreement | Realism
