"""Kernel Inception Distance on features of one's choice: features → kernel → score, pure numpy.

KID (Bińkowski et al. 2018): the unbiased squared MMD under k(x, y) = (x·y/d + 1)³. Unlike FID it has no bias at small
samples: identical distributions give 0 ± noise at any n, and the value may be negative.

Two estimates: over all images (`unbiased_mmd2`, the headline, with an interval by resampling) and, as papers print it,
the mean over random subsets of min(1000, n // 2) images (`kid`), n the smaller of the two samples. Both expect the
same; the subsets' standard deviation is theirs, and no interval, as the subsets overlap. Subsets share one kernel matrix
(`cxr.metric.subset_mmd`), and so do the value over all images, its resamples and its halves (`mmd2_of_all`); neither
ever holds that matrix whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError
from cxr.metric.kernel_sums import Weights, sums_across, sums_within
from cxr.metric.polynomial import kernel
from cxr.metric.resample import Resamples
from cxr.metric.subset_mmd import membership, subset_mmd2, unbiased_mmd2

__all__ = ["Kid", "Mmd2s", "kernel", "kid", "mmd2_of_all", "subset_size", "unbiased_mmd2"]

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating]
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


@dataclass(frozen=True)
class Mmd2s:
    """The unbiased squared MMD of two sets and of parts of them.

    Attributes:
        value: of all images.
        resampled: (R,), of each resample.
        null, same_n: (C,), of each half of the real images to other real ones and to fake ones.
    """

    value: float
    resampled: Floats
    null: Floats
    same_n: Floats


def subset_size(n_real: int, n_fake: int) -> int:
    """Return KID's subset size for these sample counts: min(1000, n // 2)."""
    return min(1000, min(n_real, n_fake) // 2)


def kid(real: npt.ArrayLike, fake: npt.ArrayLike, *, n_subsets: int, seed: int) -> Kid:
    """Return KID over subsets between features (n_real, d) and (n_fake, d); needs at least 4 of each.

    Subsets are drawn without replacement from one seeded generator, so equal inputs give equal bits.
    """
    real, fake = _floats(real), _floats(fake)
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


def mmd2_of_all(
    real: npt.ArrayLike,
    fake: npt.ArrayLike,
    drawn: tuple[Resamples, Resamples],
    halves: Sequence[tuple[Ints, Ints, Ints]],
) -> Mmd2s:
    """Return the unbiased squared MMD of features (N, d) and (M, d), of their resamples and of halves, by one kernel.

    Args:
        drawn: the R resamples of either.
        halves: rows of real images, of other real ones, of fake ones; at least 2 of each, `first` and `other` disjoint.

    Of a resample two draws of one image are no pair: k(x, x) would bring back the bias that leaving out the diagonal
    takes away. Pairs within a patient count once for each time that the patient was drawn. NaN where no pair was.
    """
    x, y = _floats(real), _floats(fake)
    firsts, others, mades = ([cut[i] for cut in halves] for i in range(3))
    first, made = membership(firsts, len(x)), membership(mades, len(y))
    # the sum across two disjoint sets is what the sum within their union has beyond their own
    either = [np.concatenate([a, b]) for a, b in zip(firsts, others, strict=True)]
    inside = membership([*firsts, *others, *either], len(x))
    r, c = len(drawn[0].weights), len(halves)
    of_x = sums_within(x, _stacked(_everyone, _by_image(drawn[0]), inside))
    of_y = sums_within(y, _stacked(_everyone, _by_image(drawn[1]), made))
    both = sums_across(
        x,
        y,
        _stacked(_everyone, _by_image(drawn[0]), first),
        _stacked(_everyone, _by_image(drawn[1]), made),
    )
    sizes = [np.array([len(rows) for rows in some], np.float64) for some in (firsts, others, mades)]
    in_first, in_other, in_either = np.split(of_x[1 + r :], 3) if c else (np.empty(0),) * 3
    of_first, of_other, of_made = (
        total / (n * (n - 1)) for total, n in zip((in_first, in_other, of_y[1 + r :]), sizes, strict=True)
    )
    within = [
        _resampled(sums[1 : 1 + r], one, features)
        for sums, one, features in zip((of_x, of_y), drawn, (x, y), strict=True)
    ]
    counts = [one.totals(one.images) for one in drawn]
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = within[0] + within[1] - 2.0 * both[1 : 1 + r] / (counts[0] * counts[1])
    n, m = len(x), len(y)
    return Mmd2s(
        float(of_x[0] / (n * (n - 1)) + of_y[0] / (m * (m - 1)) - 2.0 * both[0] / (n * m)),
        np.asarray(resampled),
        of_first + of_other - (in_either - in_first - in_other) / (sizes[0] * sizes[1]),
        of_first + of_made - 2.0 * both[1 + r :] / (sizes[0] * sizes[2]),
    )


def _resampled(total: Floats, drawn: Resamples, x: Features) -> Floats:
    """Return the mean kernel over the pairs of each resample (R,), from the sums over all pairs of drawn images.

    These count a pair within a patient drawn w times w² times; of those, w are pairs of one draw.
    """
    sizes = drawn.images
    several = np.flatnonzero(sizes > 1)
    order = np.argsort(drawn.groups, kind="stable")
    ends = np.cumsum(sizes).astype(np.int64)
    own = np.array([sums_within(x[order[ends[p] - int(sizes[p]) : ends[p]]], _everyone)[0] for p in several])
    found = np.empty(len(total))
    for part, w in drawn.blocks():
        times = w[:, several]
        count = (w @ sizes) ** 2 - w**2 @ sizes**2 + w @ (sizes * (sizes - 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            found[part] = (total[part] - (times**2 - times) @ own) / np.where(count > 0, count, np.nan)
    return found


def _by_image(drawn: Resamples) -> Weights:
    """Return the weights (R, n): how often each resample drew the image's patient."""
    return lambda part: np.asarray(drawn.weights[:, drawn.groups[part]], np.float64)


def _everyone(part: slice) -> Floats:
    return np.ones((1, part.stop - part.start))


def _stacked(*parts: Weights) -> Weights:
    return lambda part: np.concatenate([one(part) for one in parts])


def _floats(features: npt.ArrayLike) -> Features:
    """Return features as they are, so that float32 is not doubled; whole numbers as float64."""
    x = np.asanyarray(features)
    return x if x.dtype.kind == "f" else x.astype(np.float64)
