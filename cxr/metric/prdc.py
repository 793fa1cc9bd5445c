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

The N × N distances are never whole: a block of rows is made (`cxr.metric.near_pairs`), serves all halves at once, and is
dropped. Of a row the nearest images are listed once, and the k-th of any half is looked up there; pairs that are farther
apart than any ball reaches are dropped before halves are counted. Radii and counts are two passes, so distances within
the real images are made twice where there are halves. Distances are squared throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError
from cxr.metric.near_pairs import blocks, exact

__all__ = ["Neighbours", "neighbours", "neighbours_of_halves"]

_LISTED = 8  # times k + 1: neighbours listed of an image; a half has about half of them

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

    def within(self, part: slice) -> tuple[Ints, Ints]:
        """Return which of them are rows of a block, and those rows, counted from the block's first."""
        mine = np.flatnonzero((self.rows >= part.start) & (self.rows < part.stop))
        return mine, self.rows[mine] - part.start

    def spread(self, radii: Floats, part: slice) -> Floats:
        """Return radii of theirs, one for each row of a block: -inf, which holds nothing, of rows that have none."""
        found = np.full(part.stop - part.start, -np.inf)
        mine, here = self.within(part)
        found[here] = radii[mine]
        return found


def _balls(x: Features, sets: Sequence[Ints], ks: tuple[int, int]) -> list[_Balls]:
    """Return the balls of each of some sets of rows of x; to the k-th neighbour: itself, at 0, is not one."""
    found = [_Balls(rows, np.empty(len(rows)), np.empty(len(rows))) for rows in sets]
    most, everyone = _LISTED * (max(ks) + 1), np.arange(len(x))
    for part, squared, error in blocks(x, x):
        listed = _listed(x, everyone[part], everyone, squared, error, most)
        for one in found:
            mine, here = one.within(part)
            member = np.zeros(len(x), np.bool_)
            member[one.rows] = True
            radii, sure = _reached(listed, here, member, ks)
            if not sure.all():  # too few of the listed are of this set
                again = here[~sure]
                own = _listed(
                    x, everyone[part][again], one.rows, squared[np.ix_(again, one.rows)], error[again], most
                )
                radii[:, ~sure], certain = _reached(own, np.arange(len(again)), member, ks)
                for place in np.flatnonzero(~sure)[
                    ~certain
                ]:  # nor is it clear who they are: too many as near
                    row = np.full(len(one.rows), everyone[part][here[place]])
                    radii[:, place] = np.partition(exact(x, x, row, one.rows), ks)[list(ks)]
            one.precision[mine], one.density[mine] = radii
    return found


@dataclass(frozen=True)
class _Listed:
    """Rows near those of a block: who (b, most), nearest first, how far (b, most), and below what none is missing (b,)."""

    rows: Ints
    reach: Floats
    complete: Floats


def _listed(x: Features, rows: Ints, others: Ints, squared: Floats, error: Floats, most: int) -> _Listed:
    """Return the `most` of some others that are nearest to each of some rows, from distances (b, m) and their errors (b,)."""
    if most < len(others):
        near = np.argpartition(squared, most - 1, axis=1)[:, :most]
        complete = np.take_along_axis(squared, near[:, -1:], axis=1)[:, 0] - error
    else:
        near = np.tile(np.arange(len(others)), (len(rows), 1))
        complete = np.full(len(rows), np.inf)
    who = others[near]
    reach = exact(x, x, np.repeat(rows, who.shape[1]), who.ravel()).reshape(who.shape)
    order = reach.argsort(axis=1)
    return _Listed(np.take_along_axis(who, order, axis=1), np.take_along_axis(reach, order, axis=1), complete)


def _reached(listed: _Listed, here: Ints, member: Bools, ks: tuple[int, int]) -> tuple[Floats, Bools]:
    """Return how far the k-th member is from some rows of the block, for both k (2, h), and whether both are sure (h,)."""
    rank = member[listed.rows[here]].cumsum(axis=1)
    radii = np.stack([listed.reach[here, (rank > k).argmax(axis=1)] for k in ks])
    # nothing is nearer than 0
    sure = (rank[:, -1] > max(ks)) & ((radii < listed.complete[here]) | (radii == 0)).all(axis=0)
    return radii, sure


def _counted(
    x: Features, y: Features, real: Sequence[_Balls], fake: Sequence[_Balls], k_density: int
) -> list[Neighbours]:
    """Return the four of each pair of sets, of rows of x and of rows of y."""
    found = [
        Neighbours(*(np.zeros(len(one.rows)) for one in (b, a, b, a)))
        for a, b in zip(real, fake, strict=True)
    ]
    if not found:
        return []
    every = slice(0, len(y))
    farthest_x = _farthest(len(x), [(a.rows, np.maximum(a.precision, a.density)) for a in real])
    farthest_y = _farthest(len(y), [(b.rows, b.precision) for b in fake])
    for part, squared, error in blocks(x, y):
        least = squared - error[:, None]
        i, j = np.nonzero((least <= farthest_x[part, None]) | (least <= farthest_y))
        apart, off = squared[i, j], error[i]
        for one, a, b in zip(found, real, fake, strict=True):
            of_y = b.spread(b.precision, every)[j]
            of_x, of_x_density = (a.spread(radii, part)[i] for radii in (a.precision, a.density))
            for radii in (of_x, of_x_density, of_y):
                open_ = np.flatnonzero(np.abs(apart - radii) < off)
                apart[open_], off[open_] = exact(x, y, i[open_] + part.start, j[open_]), 0.0
            in_a, in_b = of_x > -np.inf, of_y > -np.inf
            in_x, in_x_density, in_y = (
                (apart <= of_x) & in_b,
                (apart <= of_x_density) & in_b,
                (apart <= of_y) & in_a,
            )
            mine, here = a.within(part)
            np.maximum(one.precision, _times(j[in_x], len(y))[b.rows] > 0, out=one.precision)
            one.recall[mine] = _times(i[in_y], len(squared))[here] > 0
            np.add(one.density, _times(j[in_x_density], len(y))[b.rows], out=one.density)
            one.coverage[mine] = _times(i[in_x_density], len(squared))[here] > 0
    return [replace(one, density=one.density / k_density) for one in found]


def _farthest(n: int, balls: Sequence[tuple[Ints, Floats]]) -> Floats:
    """Return how far any ball of each of n rows reaches; -inf of rows without one."""
    found = np.full(n, -np.inf)
    for rows, radii in balls:
        found[rows] = np.maximum(found[rows], radii)
    return found


def _times(rows: Ints, n: int) -> Ints:
    """Return how often each of n rows is named."""
    return np.bincount(rows, minlength=n)
