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
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError

__all__ = ["Neighbours", "distances", "neighbours"]

Floats = npt.NDArray[np.float64]
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

    a, b = (torch.from_numpy(np.array(v, dtype=np.float64)) for v in (x, y))
    return np.asarray(torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").numpy())


def neighbours(joint: Floats, real: Ints, fake: Ints, *, k_precision: int, k_density: int) -> Neighbours:
    """Return the four from distances (N, N) among all images, `real` and `fake` being rows of it.

    Raises:
        UserError: a set has no k-th neighbour.
    """
    fewest, k = min(len(real), len(fake)), max(k_precision, k_density)
    if min(k_precision, k_density) < 1:
        raise UserError(f"k_precision, k_density: got {k_precision} and {k_density}, expected at least 1; set k_precision=3 "
                        "k_density=5")  # fmt: skip
    if fewest <= k:
        raise UserError(f"precision, recall, density, coverage: a set has {fewest} images, expected more than k = {k}; set "
                        "k_precision=… and k_density=… lower, or generate more")  # fmt: skip
    across = joint[np.ix_(real, fake)]
    ours, theirs = joint[np.ix_(real, real)], joint[np.ix_(fake, fake)]
    in_real = across <= _radii(ours, k_precision)[:, None]
    in_fake = across <= _radii(theirs, k_precision)[None, :]
    near = across <= _radii(ours, k_density)[:, None]
    return Neighbours(
        np.asarray(in_real.any(axis=0), np.float64),
        np.asarray(in_fake.any(axis=1), np.float64),
        near.sum(axis=0) / k_density,
        np.asarray(near.any(axis=1), np.float64),
    )


def _radii(within: Floats, k: int) -> Floats:
    """Return each image's distance (n,) to its k-th nearest neighbour; itself, at 0, is not one."""
    return np.asarray(np.partition(within, k, axis=1)[:, k])
