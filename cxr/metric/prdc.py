"""Precision, recall, density and coverage: how many images lie among the nearest neighbours of the other set.

Each image of a set has a ball that reaches to its k-th nearest neighbour within the set.

- precision (Kynkäänniemi et al. 2019, eq. 2): the share of synthetic images in the ball of any real one;
  recall: the share of real images in the ball of any synthetic one. k = 3, the paper's.
- density (Naeem et al. 2020, eq. 4): the number of real balls that a synthetic image lies in, over k, on average (1 for
  equal sets, may exceed it); coverage (eq. 6): the share of real images whose ball holds a synthetic one. k = 5, theirs.

A ball holds its edge, as in the formulas and the first authors' code; Naeem's code leaves it out, which shows only
where distances are equal. k is part of a score's name, and all four depend on n: read them beside the null.

By hand rather than by torch-fidelity or the authors' `prdc`: the first has two of the four, the second is not kept, and
neither gives the answer per image that an interval is drawn from. Both definitions are tested against scikit-learn.

The N × N distances are never whole: a block of rows is made, serves all halves at once, and is dropped. Radii and counts are
two passes, so distances within the real images are made twice where there are halves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError

__all__ = ["Neighbours", "distances", "neighbours", "neighbours_of_halves"]

_ENTRIES = 2**20  # distances, or float64 features, held at once: 8 MB, and a copy of those between two sets

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Neighbours:
    """The four by image; a score is the mean of one of them.

    Attributes:
        precision, density: (M,), one per synthetic image.
        recall, coverage: (N,), one per real image.
    """

    precision: Floats
    recall: Floats
    density: Floats
    coverage: Floats


def distances(x: npt.ArrayLike, y: npt.ArrayLike) -> Floats:
    """Return Euclidean distances (n, m) of features (n, d) and (m, d), from differences: equal rows are at exactly 0."""
    import torch

    a, b = torch.from_numpy(np.array(x, dtype=np.float64)), np.asanyarray(y)
    found = np.empty((len(a), len(b)))
    for part in _parts(len(b), b.shape[1]):  # the whole of y as float64 would double float32 features
        some = torch.from_numpy(np.array(b[part], dtype=np.float64))
        found[:, part] = torch.cdist(a, some, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    return found


def neighbours(real: npt.ArrayLike, fake: npt.ArrayLike, *, k_precision: int, k_density: int) -> Neighbours:
    """Return the four from features (N, d) and (M, d).

    Raises:
        UserError: a set has no k-th neighbour.
    """
    return neighbours_of_halves(real, fake, [], k_precision=k_precision, k_density=k_density)[0]


def neighbours_of_halves(
    real: npt.ArrayLike,
    fake: npt.ArrayLike,
    halves: Sequence[tuple[Ints, Ints, Ints]],
    *,
    k_precision: int,
    k_density: int,
) -> tuple[Neighbours, list[Neighbours], list[Neighbours]]:
    """Return the four from features (N, d) and (M, d), then of each half to other real images, and to fake ones.

    halves: rows of real images, of other real ones, of fake ones.

    Raises:
        UserError: a set has no k-th neighbour.
    """
    x, y, ks = np.asanyarray(real), np.asanyarray(fake), (k_precision, k_density)
    firsts, others, mades = ([cut[i] for cut in halves] for i in range(3))
    fewest = min(len(x), len(y), *(len(rows) for rows in (*firsts, *others, *mades)))
    if min(ks) < 1:
        raise UserError(f"k_precision, k_density: got {k_precision} and {k_density}, expected at least 1; set k_precision=3 "
                        "k_density=5")  # fmt: skip
    if fewest <= max(ks):
        raise UserError(f"precision, recall, density, coverage: a set has {fewest} images, expected more than k = {max(ks)}; set "
                        "k_precision=… and k_density=… lower, or generate more")  # fmt: skip
    all_x, all_y, c = np.arange(len(x)), np.arange(len(y)), len(halves)
    of_x, of_y = _balls(x, [all_x, *firsts, *others], ks), _balls(y, [all_y, *mades], ks)
    whole, *same_n = _counted(x, y, [of_x[0], *of_x[1 : 1 + c]], of_y, k_density)
    return whole, _counted(x, x, of_x[1 : 1 + c], of_x[1 + c :], k_density), same_n


@dataclass(frozen=True)
class _Balls:
    """The balls of some images: their rows (n,), and the radii (n,) of precision and of density."""

    rows: Ints
    precision: Floats
    density: Floats

    def within(self, part: slice) -> tuple[Ints, Ints]:
        """Return which of them are rows of a block, and those rows, counted from the block's first."""
        mine = np.flatnonzero((self.rows >= part.start) & (self.rows < part.stop))
        return mine, self.rows[mine] - part.start


def _balls(x: Features, sets: Sequence[Ints], ks: tuple[int, int]) -> list[_Balls]:
    """Return the balls of each of some sets of rows of x; to the k-th neighbour: itself, at 0, is not one."""
    found = [_Balls(rows, np.empty(len(rows)), np.empty(len(rows))) for rows in sets]
    for part in _parts(len(x), len(x)):
        block = distances(x[part], x)
        for one in found:
            mine, here = one.within(part)
            near = block[np.ix_(here, one.rows)]
            near.partition(ks, axis=1)
            one.precision[mine], one.density[mine] = near[:, ks[0]], near[:, ks[1]]
    return found


def _counted(
    x: Features, y: Features, real: Sequence[_Balls], fake: Sequence[_Balls], k_density: int
) -> list[Neighbours]:
    """Return the four of each pair of sets, of rows of x and of rows of y."""
    found = [
        Neighbours(*(np.zeros(len(one.rows)) for one in (b, a, b, a)))
        for a, b in zip(real, fake, strict=True)
    ]
    for part in _parts(len(x), len(y)) if found else ():
        block = distances(x[part], y)
        for one, a, b in zip(found, real, fake, strict=True):
            mine, here = a.within(part)
            across = block[np.ix_(here, b.rows)]
            near = across <= a.density[mine, None]
            np.maximum(one.precision, (across <= a.precision[mine, None]).any(axis=0), out=one.precision)
            one.recall[mine] = (across <= b.precision).any(axis=1)
            np.add(one.density, near.sum(axis=0), out=one.density)
            one.coverage[mine] = near.any(axis=1)
    return [replace(one, density=one.density / k_density) for one in found]


def _parts(n: int, width: int) -> Iterator[slice]:
    """Cut n rows into blocks of at most `_ENTRIES` numbers, `width` in a row."""
    step = max(1, _ENTRIES // width)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))
