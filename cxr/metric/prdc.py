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

The N × N distances are never whole: a tile is made (`cxr.metric.near_pairs`), serves all halves at once, and is dropped. Of an
image the nearest are listed once, and the k-th of any half is looked up there; pairs that are farther apart than any
ball reaches are dropped before halves are counted. Radii and counts are two passes, so distances within the real images are made
twice where there are halves. Distances are squared throughout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError
from cxr.metric.near_pairs import Listed, exact, nearest, tiles

__all__ = ["Neighbours", "neighbours", "neighbours_of_halves"]

_HELD = 2**18  # pairs that a ball may hold, held at once: 8 MB
_SPARE, _MOST = (
    2.5,
    256,
)  # times k + 1: neighbours of an image listed of the smallest set, on average; in all, at most

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


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
    """The balls of some images: their rows (n,), and the squared radii (n,) of precision and of density."""

    rows: Ints
    precision: Floats
    density: Floats

    def over(self, n: int, radii: Floats) -> Floats:
        """Return radii of theirs, one for each of all n images: -inf, which holds nothing, for those that have none."""
        found = np.full(n, -np.inf)
        found[self.rows] = radii
        return found


def _balls(x: Features, sets: Sequence[Ints], ks: tuple[int, int]) -> list[_Balls]:
    """Return the balls of each of some sets of rows of x; to the k-th neighbour: itself, at 0, is not one."""
    found = [_Balls(rows, np.empty(len(rows)), np.empty(len(rows))) for rows in sets]
    everyone, fewest = np.arange(len(x)), min(len(rows) for rows in sets)
    most = max(2 * (max(ks) + 1), min(math.ceil(_SPARE * (max(ks) + 1) * len(x) / fewest), _MOST))
    for listed in nearest(x, everyone, everyone, most):
        start, stop = listed.rows.start, listed.rows.stop
        for one in found:
            mine = np.flatnonzero((one.rows >= start) & (one.rows < stop))
            member = np.zeros(len(x), np.bool_)
            member[one.rows] = True
            radii, sure = _reached(member, listed, one.rows[mine] - start, ks)
            if not sure.all():  # too few of the listed are of this set
                radii[:, ~sure] = _among(x, one.rows[mine[~sure]], one.rows, member, ks, most)
            one.precision[mine], one.density[mine] = radii
    return found


def _among(x: Features, rows: Ints, others: Ints, member: Bools, ks: tuple[int, int], most: int) -> Floats:
    """Return how far the k-th of some others is from some rows, for both k (2, b); member: who the others are."""
    found = np.empty((2, len(rows)))
    for listed in nearest(x, rows, others, most):
        radii, sure = _reached(member, listed, np.arange(len(listed.who)), ks)
        for place in np.flatnonzero(~sure):  # it is not clear who they are: too many are as near
            row = np.full(len(others), rows[listed.rows][place])
            radii[:, place] = np.partition(exact(x, x, row, others), ks)[list(ks)]
        found[:, listed.rows] = radii
    return found


def _reached(member: Bools, listed: Listed, here: Ints, ks: tuple[int, int]) -> tuple[Floats, Bools]:
    """Return how far the k-th member is from some of the listed rows, for both k (2, h), and whether both are sure (h,)."""
    rank = member[listed.who[here]].cumsum(axis=1)
    radii = np.stack([listed.reach[here, (rank > k).argmax(axis=1)] for k in ks])
    # nothing is nearer than 0
    sure = (rank[:, -1] > max(ks)) & ((radii < listed.complete[here]) | (radii == 0)).all(axis=0)
    return radii, sure


def _counted(
    x: Features, y: Features, real: Sequence[_Balls], fake: Sequence[_Balls], k_density: int
) -> list[Neighbours]:
    """Return the four of each pair of sets, of rows of x and of rows of y."""
    n, m = len(x), len(y)
    found = [
        Neighbours(*(np.zeros(len(one.rows)) for one in (b, a, b, a)))
        for a, b in zip(real, fake, strict=True)
    ]
    for i, j, apart, error in _pairs(x, y, real, fake):
        for one, a, b in zip(found, real, fake, strict=True):
            of_x, of_x_density = (a.over(n, radii)[i] for radii in (a.precision, a.density))
            of_y = b.over(m, b.precision)[j]
            for radii in (of_x, of_x_density, of_y):
                open_ = np.flatnonzero(np.abs(apart - radii) < error)
                apart[open_], error[open_] = exact(x, y, i[open_], j[open_]), 0.0
            in_a, in_b = of_x > -np.inf, of_y > -np.inf
            near = (apart <= of_x_density) & in_b
            precise, recalled = j[(apart <= of_x) & in_b], i[(apart <= of_y) & in_a]
            np.maximum(one.precision, _times(precise, m)[b.rows] > 0, out=one.precision)
            np.maximum(one.recall, _times(recalled, n)[a.rows] > 0, out=one.recall)
            np.add(one.density, _times(j[near], m)[b.rows], out=one.density)
            np.maximum(one.coverage, _times(i[near], n)[a.rows] > 0, out=one.coverage)
    return [replace(one, density=one.density / k_density) for one in found]


def _pairs(
    x: Features, y: Features, real: Sequence[_Balls], fake: Sequence[_Balls]
) -> Iterator[tuple[Ints, Ints, Floats, Floats]]:
    """Yield the pairs that some ball may hold, many at a time: rows of x and y, squared distances, how far off these are."""
    if not real:
        return
    rows, columns = np.arange(len(x)), np.arange(len(y))
    farthest_x = np.max([a.over(len(x), np.maximum(a.precision, a.density)) for a in real], axis=0)
    farthest_y = np.max([b.over(len(y), b.precision) for b in fake], axis=0)
    held: list[tuple[Ints, Ints, Floats, Floats]] = []
    for tile in tiles(x, rows, y, columns):
        least = tile.squared - tile.error[:, None]
        i, j = np.nonzero((least <= farthest_x[tile.rows, None]) | (least <= farthest_y[tile.columns]))
        held.append((i + tile.rows.start, j + tile.columns.start, tile.squared[i, j], tile.error[i]))
        last = tile.rows.stop == len(x) and tile.columns.stop == len(y)
        if last or sum(len(one) for one, *_ in held) > _HELD:
            i, j, apart, error = (np.concatenate(each) for each in zip(*held, strict=True))
            held = []
            yield i, j, apart, error


def _times(rows: Ints, n: int) -> Ints:
    """Return how often each of n rows is named."""
    return np.bincount(rows, minlength=n)
