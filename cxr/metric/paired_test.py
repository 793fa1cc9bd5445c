"""Tests of two models on the same images: McNemar's for accuracy, Holm's correction for several.

Both by hand. McNemar's: scipy's binomial test is it for one image per patient and one seed (the oracle of the test);
ours takes patients whole and the mean over seeds. Holm's: statsmodels has it, six packages for four lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["PairedTest", "holm", "mcnemar"]

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of "no difference between two arms", for these trained models.

    Attributes:
        name: "McNemar, mid-p" or "DeLong".
        p: None where the test is not offered.
        told: what it was made of, or why it is not offered.
    """

    name: str
    p: float | None
    told: str


def mcnemar(right_a: Sequence[Bools], right_b: Sequence[Bools], patients: Ints) -> tuple[float, float]:
    """Return the exact p and the mid-p of "both arms are right equally often", patients taken whole.

    With one image per patient and one seed this is McNemar's exact test (1947) and its mid-p (Fagerland, Lydersen &
    Laake 2013, eq. 4): which arm is the better one on a discordant image is the toss of a coin. With several images
    or seeds the coin is tossed once per patient: d = right answers of A less those of B over the patient's images
    and all seeds, and under "no difference" d is as likely as -d. The sum of d has an exact distribution, found by
    convolution. The mid-p counts half of what is as extreme as the observed sum; the exact p all of it, so that it
    is too large on average.

    Args:
        right_a, right_b: per seed (N,), whether each image was answered rightly; seed counts may differ.
        patients: (N,) number of each image's patient.
    """
    k_a, k_b = len(right_a), len(right_b)
    scale = math.gcd(k_a, k_b)
    per_image = k_b // scale * np.sum(right_a, axis=0) - k_a // scale * np.sum(right_b, axis=0)
    d = np.bincount(patients, weights=per_image).round().astype(np.int64)
    steps = np.abs(d[d != 0])
    if steps.size == 0:
        return 1.0, 1.0
    steps = np.sort(steps // np.gcd.reduce(steps))
    observed = abs(int(d.sum())) // int(np.gcd.reduce(np.abs(d[d != 0])))
    # chance[i]: that the patients of sign +1 have i in all; the sum of d is then 2 i - reach
    reach = int(steps.sum())
    chance = np.zeros(reach + 1)
    chance[0], filled = 1.0, 0
    for step in steps:
        filled += int(step)
        moved = np.zeros(filled + 1)
        moved[: filled + 1 - step] = chance[: filled + 1 - step]
        moved[step:] += chance[: filled + 1 - step]
        chance[: filled + 1] = moved / 2
    sums = np.abs(2 * np.arange(reach + 1) - reach)
    beyond, equal = float(chance[sums > observed].sum()), float(chance[sums == observed].sum())
    return min(beyond + equal, 1.0), min(beyond + equal / 2, 1.0)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for their number (Holm 1979); None, a test not made, stays so and is not counted."""
    made = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(made):
        largest = max(largest, min(1.0, (len(made) - rank) * p))
        adjusted[i] = largest
    return adjusted
