"""Does a heat map lie where the finding is? Scores against a region that a person drew or a phantom knows.

A map (S, S) >= 0 is judged against a region (S, S) bool, its own label's; three scores, each in [0, 1]:

    pointing_tol3   Pointing game (Zhang et al. 2018, Excitation Backprop, section 4.1): the map's maximum lies in
                    the region or within 3 % of the image's side of it: their 15 pixels on photographs of about 500.
    iou_at50        Intersection over union of the region and the positions with at least 50 % of the map's maximum.
    energy_inside   Share of the map's sum that lies in the region (Wang et al. 2020, Score-CAM, the "energy-based
                    pointing game"); needs no threshold.

A map that is the same everywhere points nowhere; with one that is zero everywhere, all three are 0. None of the
numbers means anything alone, for a large region is easy to hit. Beside each stand three baselines:

    uniform      what no map at all would get: a point at random, the whole image marked, energy everywhere alike
    centre       a bell curve in the middle of the image, standard deviation a quarter of its side
    other_image  the same network's map, for the same label, of another patient's image: what it gets without
                 looking at this one

By hand, since no kept library has them: captum scores no boxes, TorchRay (the game's authors') is archived and
takes the classes of two photograph sets only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr.metric.resample import draw_patients

__all__ = [
    "BASELINES",
    "SCORES",
    "TOLERANCE",
    "baselines",
    "peak",
    "scores",
    "summarise",
    "within",
]

TOLERANCE = 0.03  # of the image's side
LEVEL = 0.5  # of a map's maximum
SCORES = ("pointing_tol3", "iou_at50", "energy_inside")
BASELINES = ("uniform", "centre", "other_image")
_TAILS = (2.5, 97.5)

Map = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def peak(heat: Map) -> tuple[int, int] | None:
    """Return the row and column of a map's maximum; None where it is the same everywhere.

    An enlarged map repeats its outermost values, so the maximum may be a strip along the edge: then the position
    of the strip nearest to the strip's middle. The first of equals would always be its upper left corner.
    """
    highest = float(heat.max())
    if not highest > float(heat.min()):
        return None
    tied = np.argwhere(heat >= highest - 1e-6 * abs(highest))
    middle = tied.mean(axis=0)
    row, column = tied[((tied - middle) ** 2).sum(axis=1).argmin()]
    return int(row), int(column)


def within(region: Mask) -> Mask:
    """Return the region (S, S) and all positions whose distance to it is at most the tolerance."""
    far = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(far <= TOLERANCE * region.shape[0])


def scores(heat: Map, region: Mask) -> dict[str, float]:
    """Return the three scores of one map (S, S) >= 0; the region (S, S) has at least one position."""
    heat = np.asarray(heat, dtype=np.float64)
    highest, point = float(heat.max()), peak(heat)
    if highest <= 0:
        return dict.fromkeys(SCORES, 0.0)
    marked = heat >= LEVEL * highest
    return {
        "pointing_tol3": float(point is not None and within(region)[point]),
        "iou_at50": float((marked & region).sum() / (marked | region).sum()),
        "energy_inside": float(heat[region].sum() / heat.sum()),
    }


def baselines(region: Mask) -> dict[str, dict[str, float]]:
    """Return what needs no network: `uniform` as an expectation, `centre` as a map is scored."""
    area = float(region.mean())
    side = region.shape[0]
    away = (np.arange(side) + 0.5) / side - 0.5
    bell = np.exp(-(away[:, None] ** 2 + away[None, :] ** 2) / (2 * 0.25**2))
    return {
        "uniform": {
            "pointing_tol3": float(within(region).mean()),
            "iou_at50": area,
            "energy_inside": area,
        },
        "centre": scores(bell, region),
    }


def summarise(
    found: Mapping[str, npt.ArrayLike],
    beside: Mapping[str, Mapping[str, npt.ArrayLike]],
    patients: Sequence[str | None],
    *,
    n_resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Return each score's mean over K maps with its 95 % interval over patients, and how far above baselines.

    Patients are drawn with replacement, all their maps together (`cxr.metric.resample`), and percentiles taken.
    If all maps hit, or none, every resample is alike and would claim certainty: then the interval is the exact
    binomial one (Clopper, Pearson 1934) with the patients as trials. One patient makes no interval: None.

    Args:
        found: (K,) values by score.
        beside: (K,) values by baseline and score; NaN where there is none (an only patient has no other's map).
        patients: of each map; None = a patient of its own.

    Returns:
        By score: value, low, high, n (maps), n_patients, the mean of each baseline, and for `uniform` and
        `other_image` the mean difference `above_<baseline>` with its interval.
    """
    drawn = draw_patients(patients, n_resamples=n_resamples, seed=seed)

    def mean(values: Floats) -> dict[str, Any]:
        known = ~np.isnan(values)
        if not known.any():
            return {"value": None, "low": None, "high": None, "n": 0, "n_patients": 0}
        groups, held = drawn.groups[known], values[known]
        sums = np.bincount(groups, held, drawn.n_patients)
        counts = np.bincount(groups, minlength=drawn.n_patients).astype(np.float64)
        n_patients = int((counts > 0).sum())
        low = high = None
        if n_patients > 1:
            drawn_counts = drawn.weights @ counts
            means = (drawn.weights @ sums)[drawn_counts > 0] / drawn_counts[drawn_counts > 0]
            low, high = (float(bound) for bound in np.percentile(means, _TAILS))
        return {
            "value": float(held.mean()),
            "low": low,
            "high": high,
            "n": len(held),
            "n_patients": n_patients,
        }

    told: dict[str, dict[str, Any]] = {}
    for score in SCORES:
        values = np.asarray(found[score], dtype=np.float64)
        record = mean(values)
        if score == "pointing_tol3" and record["low"] is not None and values.min() == values.max():
            record["low"], record["high"] = _exact(float(values[0]), record["n_patients"])
        for name in BASELINES:
            other = np.asarray(beside[name][score], dtype=np.float64)
            record[name] = mean(other)["value"]
            if name == "centre":
                continue
            above = mean(values - other)
            if score == "pointing_tol3" and above["low"] is not None and values.min() == values.max():
                above["low"], above["high"] = record["low"] - record[name], record["high"] - record[name]
            record[f"above_{name}"] = above
        told[score] = record
    return told


def _exact(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % Clopper-Pearson interval of none (share 0) or all (share 1) of n."""
    bound = 0.025 ** (1 / n)
    return (0.0, 1 - bound) if share == 0 else (bound, 1.0)
