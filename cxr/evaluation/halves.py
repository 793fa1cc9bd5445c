"""The real-to-real null of a distance: what two halves of the real images score, and synthetic ones against a half."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cxr.evaluation.interval import percentiles

__all__ = ["Cut", "cuts", "null_and_same_n"]

Ints = npt.NDArray[np.int64]


class Cut(NamedTuple):
    """A half: rows of real images, of other real ones, and of as many synthetic images as of those."""

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
        made = rng.choice(n_synthetic, n, replace=False)
        found.append(Cut(np.flatnonzero(first), other, made))
    return found


def null_and_same_n(
    halves: Sequence[Cut], null: npt.ArrayLike, same_n: npt.ArrayLike
) -> list[dict[str, dict[str, Any] | None]]:
    """Return {"null", "same_n"} of each of S scores; [] where there is no cut.

    null, same_n: (C, S), the scores of each half to the other real images, and to the synthetic ones.
    Each is {"value", "low", "high", "n_first", "n_second", "cuts"}; low and high are percentiles over cuts: how much
    the cut matters, and no interval.
    """
    if not halves:
        return []
    counts = {
        "n_first": float(np.mean([len(cut.first) for cut in halves])),
        "n_second": float(np.mean([len(cut.other) for cut in halves])),
        "cuts": len(halves),
    }
    table = np.stack([np.asarray(null, np.float64), np.asarray(same_n, np.float64)], axis=1)
    found = []
    for values in np.moveaxis(table, 2, 0):  # (cuts, 2) of each score
        sides: dict[str, dict[str, Any] | None] = {}
        for name, column in zip(("null", "same_n"), values.T, strict=True):
            low, high = percentiles(column)
            sides[name] = {"value": float(column.mean()), "low": low, "high": high, **counts}
        found.append(sides)
    return found
