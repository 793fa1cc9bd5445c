"""Which of a run's scores stands for it, and which way each score is better."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal

__all__ = ["Direction", "by_headline", "find_score", "is_of_validation", "known_direction"]

Direction = Literal["maximize", "minimize"]  # as Optuna spells them

HEADLINES = ("val/accuracy", "kid_*", "fid_*")  # the first that a run has, by patterns
BETTER: dict[str, Direction] = {
    "accuracy": "maximize",
    "auroc": "maximize",
    "loss": "minimize",
    "kid_*": "minimize",
    "fid_*": "minimize",
}


def by_headline(names: Iterable[str]) -> list[str]:
    """Return the names of a run's scores, its headline first, the others sorted."""
    left = sorted(names)
    first = [name for pattern in HEADLINES for name in left if fnmatchcase(name, pattern)]
    return [*first, *(name for name in left if name not in first)]


def find_score(names: Iterable[str], pattern: str | None) -> str | None:
    """Return the score that `pattern` names (`kid_*/val`: * is any text), or the headline; None where there is none.

    A headline has one of the known names here; what merely comes first in a run without one stands for nothing.
    """
    patterns = HEADLINES if pattern is None else (pattern.replace("[", "[[]"),)
    found = (name for p in patterns for name in by_headline(names) if fnmatchcase(name, p))
    return next(found, None)


def is_of_validation(name: str) -> bool:
    """Say whether a score was made of validation images: `val/accuracy`, `kid_pixel16/val`."""
    return "val" in name.split("/")


def known_direction(name: str) -> Direction | None:
    """Return whether more or less of a score is better; None where its name does not tell."""
    parts = name.split("/")
    return next((way for p, way in BETTER.items() for part in parts if fnmatchcase(part, p)), None)
