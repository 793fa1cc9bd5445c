"""The real-to-real null of a distance: what two halves of the real images score, and synthetic ones against a half."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.evaluation.interval import percentiles

__all__ = ["Cut", "cuts", "null_and_same_n"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """Rows of images where the N real ones come first: a half, as many others, as many synthetic images."""

    first: Ints
    other: Ints
    made: Ints


def cuts(groups: Ints, n_synthetic: int, *, n_halves: int, seed: int) -> list[Cut]:
    """Cut the patients (`groups` (N,): which one each real image is of) into two halves, `n_halves` times.

    A cut that leaves fewer than two images on a side is left out; none with fewer than two patients.
    """
    rng = np.random.default_rng(seed)
    sizes = np.bincount(groups)
    found = []
    for _ in range(n_halves if len(sizes) > 1 else 0):
        order = rng.permutation(len(sizes))
        # the first patients up to half of the images, at least one and not all
        cut = int(np.clip(np.searchsorted(np.cumsum(sizes[order]), len(groups) / 2) + 1, 1, len(sizes) - 1))
        first = np.isin(groups, order[:cut])
        n = min(int((~first).sum()), n_synthetic)
        if first.sum() < 2 or n < 2:
            continue
        other = rng.choice(np.flatnonzero(~first), n, replace=False)
        made = rng.choice(n_synthetic, n, replace=False) + len(groups)
        found.append(Cut(np.flatnonzero(first), other, made))
    return found


def null_and_same_n(
    halves: Sequence[Cut], score: Callable[[Ints, Ints], Sequence[float]]
) -> list[dict[str, dict[str, Any] | None]]:
    """Return {"null", "same_n"} of each of the scores that `score` returns; [] where there is no cut.

    `score` takes the rows of a half of the real images and of the images held against it: real ones for the null.
    Each is {"value", "low", "high", "n_first", "n_second", "cuts"}; low and high are percentiles over cuts: how much
    the cut matters, and no interval.
    """
    counts = {
        "n_first": float(np.mean([len(cut.first) for cut in halves] or [0])),
        "n_second": float(np.mean([len(cut.other) for cut in halves] or [0])),
        "cuts": len(halves),
    }
    table = np.array([[score(cut.first, cut.other), score(cut.first, cut.made)] for cut in halves])
    found = []
    for values in np.moveaxis(table, 2, 0) if len(halves) else []:  # (cuts, 2) of each score
        sides: dict[str, dict[str, Any] | None] = {}
        for name, column in zip(("null", "same_n"), values.T, strict=True):
            low, high = percentiles(column)
            sides[name] = {"value": float(column.mean()), "low": low, "high": high, **counts}
        found.append(sides)
    return found
