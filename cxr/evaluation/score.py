"""From features of real and synthetic images to their scores, with intervals and the real-real null.

FID and IS are biased at small n, FID upwards and IS downwards, and a resample of a sample is biased once more, so
a percentile interval lies on the wrong side of the value (of FID at a true distance of 0 it excludes 0). Their intervals
are basic ones, 2 value - percentile (Davison & Hinkley 1997, 5.2.1), which take that bias off, cut at what the score
can be. The printed value, biased as everyone's is, may therefore lie outside its interval. Real images are drawn by
patient, synthetic ones singly. They hold for this GAN and this extractor: a second training of either is not in
them. With some tens of images they are too narrow (IS of 40: about 90 % instead of 95 %).

FID has an interval only where features are few for the images (at most 64, and 4 images of each set for each): with
more, its bias is not small, a resample's is another, and no bootstrap takes it off. What remains is the value with its
n beside the null. KID has no bias, and its percentile interval covers in any dimension (95 to 98 % of 200 simulated
pairs at 50 to 100 images, and more where the distributions are equal: a pair's mean is then all noise). Patients with
several images, which are alike, raise it, in the null too. Precision, recall, density and coverage are means over
images: their intervals resample those images and hold the other set's balls fixed.

The null cuts the patients into two halves, again and again: the score of one half to the other is what real images get
at that n. Beside it stands that of as many synthetic images to the same half. FID or KID above the null, or the others
below it: something differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.evaluation.halves import cuts, null_and_same_n
from cxr.evaluation.interval import basic, percentiles, seed_of
from cxr.metric.frechet import distance, frechet_distance, resampled_moments
from cxr.metric.inception_score import inception_score, resampled_inception_scores
from cxr.metric.kid import kid, mmd2_of_all
from cxr.metric.prdc import Neighbours, neighbours_of_halves
from cxr.metric.resample import Resamples, draw_small

__all__ = [
    "INTERVAL",
    "Answers",
    "frechet_record",
    "inception_records",
    "kid_record",
    "neighbour_records",
    "shares_warning",
]

INTERVAL = "95 % basic bootstrap"
PERCENTILE = "95 % percentile bootstrap"
IMAGES_PER_FEATURE = 4  # fewer in the smaller set, and FID has no interval
MANY_FEATURES = 64  # FID has no interval above it, and its null takes few cuts: they cost (cuts d³)
FEW_CUTS = 10
NEIGHBOURS = ("precision", "recall", "density", "coverage")
NO_CUT: dict[str, Any] = {"null": None, "same_n": None}
LEGACY = "looks at no real image; ImageNet's or few classes say little of radiographs: kept because papers print it"

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """What a classifier says of a set of images.

    Attributes:
        probabilities: (N, C), rows summing to 1.
        logits: (N, K), K = 1 where two classes share one output.
        patients: one per image; None, as for every synthetic image, is one of its own.
    """

    probabilities: Floats
    logits: Floats
    patients: Sequence[str | None]

    def resamples(self, n_resamples: int, seed: int) -> Resamples:
        """Draw its patients."""
        return draw_small(self.patients, n_resamples=n_resamples, seed=seed)


def inception_records(
    real: Answers, synthetic: Answers, *, splits: int, n_resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Return {"real", "synthetic"}: value, low, high, std over splits, n, n_patients of each IS."""
    found = {}
    for stream, (name, one) in enumerate((("real", real), ("synthetic", synthetic))):
        score = inception_score(one.probabilities, splits=splits, seed=seed)
        resamples = one.resamples(n_resamples, seed_of(seed, stream))
        drawn = resampled_inception_scores(one.probabilities, resamples, splits=splits, seed=seed)
        low, high = basic(score.value, drawn, (1.0, float(one.probabilities.shape[1])))
        found[name] = {
            "value": score.value,
            "low": low,
            "high": high,
            "interval": INTERVAL,
            "std_over_splits": score.std,
            "legacy": LEGACY,
            "n": len(one.probabilities),
            "n_patients": resamples.n_patients if name == "real" else None,
        }
    return found


def frechet_record(
    real: Features,
    synthetic: Features,
    patients: Sequence[str | None],
    *,
    n_resamples: int,
    n_halves: int,
    seed: int,
) -> dict[str, Any]:
    """Return FID of features (N, d) and (M, d): value, low, high, counts, `null` and `same_n`.

    `null` is real against real over `n_halves` cuts of the patients into halves, `same_n` as many synthetic
    images against the same halves: the mean, and the 2.5th and 97.5th percentile over cuts, which says how
    much the cut matters and is no interval. Both None with fewer than two patients or too few images to cut.
    """
    d, fewest = real.shape[1], min(len(real), len(synthetic))
    value = frechet_distance(real, synthetic)
    low, high, why = None, None, None
    streams = _streams(patients, len(synthetic), n_resamples, seed)
    if d > MANY_FEATURES or fewest < IMAGES_PER_FEATURE * d:
        why = f"{d} features of {fewest} images: its bias is not small, and resampling cannot tell it"
    else:
        drawn = distance(resampled_moments(real, streams[0]), resampled_moments(synthetic, streams[1]))
        low, high = basic(value, drawn, (0.0, math.inf))
    n_cuts = n_halves if d <= MANY_FEATURES else min(n_halves, FEW_CUTS)
    halves = cuts(streams[0].groups, len(synthetic), n_halves=n_cuts, seed=seed_of(seed, 2))
    null = [[frechet_distance(real[one.first], real[one.other])] for one in halves]
    same_n = [[frechet_distance(real[one.first], synthetic[one.made])] for one in halves]
    beside = null_and_same_n(halves, null, same_n) or [NO_CUT]
    return {
        "value": value,
        "low": low,
        "high": high,
        "interval": None if why else INTERVAL,
        "no_interval": why,
        **_counts(streams, synthetic),
        **beside[0],
    }


def kid_record(
    real: Features,
    synthetic: Features,
    patients: Sequence[str | None],
    *,
    n_resamples: int,
    n_halves: int,
    seed: int,
    n_subsets: int,
) -> dict[str, Any]:
    """Return KID of features (N, d) and (M, d), at least 2 of each: as `frechet_record`, and `subsets`.

    The value is over all images; `subsets` the mean, std, size and number that papers print, None below 4 images.
    """
    streams = _streams(patients, len(synthetic), n_resamples, seed)
    halves = cuts(streams[0].groups, len(synthetic), n_halves=n_halves, seed=seed_of(seed, 2))
    found = mmd2_of_all(real, synthetic, streams, halves)
    low, high = percentiles(found.resampled)
    subsets = None
    if min(len(real), len(synthetic)) >= 4:
        one = kid(real, synthetic, n_subsets=n_subsets, seed=seed)
        subsets = {"value": one.value, "std": one.std, "size": one.subset_size, "n": one.n_subsets}
    beside = null_and_same_n(halves, found.null[:, None], found.same_n[:, None]) or [NO_CUT]
    return {
        "value": found.value,
        "low": low,
        "high": high,
        "interval": PERCENTILE,
        **_counts(streams, synthetic),
        "subsets": subsets,
        **beside[0],
    }


def neighbour_records(
    real: Features,
    synthetic: Features,
    patients: Sequence[str | None],
    *,
    n_resamples: int,
    n_halves: int,
    seed: int,
    k_precision: int,
    k_density: int,
) -> dict[str, dict[str, Any]]:
    """Return {"precision", "recall", "density", "coverage"} of features (N, d) and (M, d), as `frechet_record`."""
    ks = {"k_precision": k_precision, "k_density": k_density}
    streams = _streams(patients, len(synthetic), n_resamples, seed)
    halves = cuts(streams[0].groups, len(synthetic), n_halves=n_halves, seed=seed_of(seed, 2))
    halves = [one for one in halves if min(len(one.first), len(one.other)) > max(k_precision, k_density)]
    found, *beside_it = neighbours_of_halves(real, synthetic, halves, **ks)
    null, same_n = ([_means(one) for one in some] for some in beside_it)
    beside = null_and_same_n(halves, null, same_n) or [NO_CUT] * 4
    records = {}
    for name, value, sides in zip(NEIGHBOURS, _means(found), beside, strict=True):
        values, drawn = getattr(found, name), streams[1 if name in ("precision", "density") else 0]
        sums = np.bincount(drawn.groups, values, minlength=drawn.n_patients).astype(np.float64)
        low, high = percentiles(drawn.totals(sums) / drawn.totals(drawn.images))
        records[name] = {
            "value": value,
            "low": low,
            "high": high,
            "interval": f"{PERCENTILE}, the other set held fixed",
            **_counts(streams, synthetic),
            **sides,
        }
    return records


def _means(found: Neighbours) -> list[float]:
    return [float(getattr(found, name).mean()) for name in NEIGHBOURS]


def _streams(
    patients: Sequence[str | None], n_synthetic: int, n_resamples: int, seed: int
) -> tuple[Resamples, Resamples]:
    """Draw the real images by patient and, independently, the synthetic ones singly."""
    real, made = (
        draw_small(one, n_resamples=n_resamples, seed=seed_of(seed, stream))
        for stream, one in enumerate((patients, [None] * n_synthetic))
    )
    return real, made


def _counts(streams: tuple[Resamples, Resamples], synthetic: Features) -> dict[str, int]:
    return {
        "n_real": len(streams[0].groups),
        "n_patients": streams[0].n_patients,
        "n_synthetic": len(synthetic),
    }


def shares_warning(real: dict[str, int], synthetic: dict[str, int]) -> str | None:
    """Return the warning that the sets mix their classes otherwise, which alone makes a distance; or None."""
    shares = [
        {name: n / max(sum(counts.values()), 1) for name, n in counts.items()} for counts in (real, synthetic)
    ]
    gaps = {name: abs(shares[0].get(name, 0.0) - shares[1].get(name, 0.0)) for name in {**real, **synthetic}}
    worst = max(gaps, key=lambda name: gaps[name])
    if gaps[worst] <= 0.05:
        return None
    told = " and ".join(f"{100 * share.get(worst, 0.0):.0f} %" for share in shares)
    return f"{worst} is {told} of the real and the synthetic images: part of the distance is that mixture"
