"""Kernel Inception Distance on features of one's choice: features → kernel → score, pure numpy.

KID (Bińkowski et al. 2018): the unbiased squared MMD under k(x, y) = (x·y/d + 1)³. Unlike FID it has no bias at small
samples: identical distributions give 0 ± noise at any n, and the value may be negative.

Two estimates: over all images (`unbiased_mmd2`, the headline, with an interval by resampling) and, as papers print it,
the mean over random subsets of min(1000, n // 2) images (`kid`), n the smaller of the two samples. Both expect the
same; the subsets' standard deviation is theirs, and no interval, as the subsets overlap. They share one kernel matrix
(`cxr.metric.subset_mmd`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError
from cxr.metric.polynomial import kernel
from cxr.metric.resample import Resamples
from cxr.metric.subset_mmd import subset_mmd2, unbiased_mmd2

__all__ = ["Kid", "kernel", "kid", "mmd2_within", "resampled_mmd2", "subset_size", "unbiased_mmd2"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Kid:
    """A KID over subsets with what it was measured on; `std` is over subsets (no interval: they overlap)."""

    value: float
    std: float
    n_real: int
    n_fake: int
    subset_size: int
    n_subsets: int


def subset_size(n_real: int, n_fake: int) -> int:
    """Return KID's subset size for these sample counts: min(1000, n // 2)."""
    return min(1000, min(n_real, n_fake) // 2)


def mmd2_within(joint: Floats, first: Ints, second: Ints) -> float:
    """Return `unbiased_mmd2` of two sets of rows of a kernel (N, N) that is there already."""
    within = 0.0
    for rows in (first, second):
        block = joint[np.ix_(rows, rows)]
        within += (block.sum() - np.trace(block)) / (len(rows) * (len(rows) - 1))
    return float(within - 2.0 * joint[np.ix_(first, second)].mean())


def kid(real: npt.ArrayLike, fake: npt.ArrayLike, *, n_subsets: int, seed: int) -> Kid:
    """Return KID over subsets between features (n_real, d) and (n_fake, d); needs at least 4 of each.

    Subsets are drawn without replacement from one seeded generator, so equal inputs give equal bits.
    """
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    size = subset_size(len(real), len(fake))
    if size < 2:
        raise UserError(
            f"KID: got {len(real)} real and {len(fake)} generated images, expected at least 4 of each; "
            "give the validation part more images (split.val) or generate more"
        )
    rng = np.random.default_rng(seed)
    drawn = [
        (rng.choice(len(real), size, replace=False), rng.choice(len(fake), size, replace=False))
        for _ in range(n_subsets)
    ]
    values = subset_mmd2(real, fake, [rows for rows, _ in drawn], [rows for _, rows in drawn])
    return Kid(float(np.mean(values)), float(np.std(values)), len(real), len(fake), size, n_subsets)


def resampled_mmd2(joint: Floats, real: Resamples, fake: Resamples) -> Floats:
    """Return the unbiased squared MMD of each resample, (R,), from the kernel (N + M, N + M) of real, then fake.

    Two draws of one image are no pair: k(x, x) would bring back the bias that leaving out the diagonal takes away.
    Pairs within a patient count once for each time that the patient was drawn. NaN where no pair was drawn.
    """
    n = len(real.groups)
    blocks = (joint[:n, :n], joint[n:, n:])
    within = [_resampled_within(k, drawn) for k, drawn in zip(blocks, (real, fake), strict=True)]
    across = _by_patient(_by_patient(joint[:n, n:], real).T, fake).T
    counts = [one.weights @ np.bincount(one.groups, minlength=one.n_patients) for one in (real, fake)]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = ((real.weights @ across) * fake.weights).sum(axis=1) / (counts[0] * counts[1])
    return np.asarray(within[0] + within[1] - 2.0 * mean)


def _resampled_within(k: Floats, drawn: Resamples) -> Floats:
    """Return the mean kernel over the pairs of each resample, (R,)."""
    w, sizes = drawn.weights, np.bincount(drawn.groups, minlength=drawn.n_patients).astype(np.float64)
    sums = _by_patient(_by_patient(k, drawn).T, drawn)  # symmetric
    own = np.diagonal(sums)
    pairs_own = own - np.bincount(drawn.groups, np.diagonal(k), minlength=drawn.n_patients)
    total = ((w @ sums) * w).sum(axis=1) - w**2 @ own + w @ pairs_own
    count = (w @ sizes) ** 2 - w**2 @ sizes**2 + w @ (sizes * (sizes - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / np.where(count > 0, count, np.nan))


def _by_patient(k: Floats, drawn: Resamples) -> Floats:
    """Sum the rows of each patient: (n, m) to (P, m)."""
    if np.array_equal(drawn.groups, np.arange(drawn.n_patients)):
        return k
    sums = np.zeros((drawn.n_patients, k.shape[1]))
    np.add.at(sums, drawn.groups, k)
    return sums
