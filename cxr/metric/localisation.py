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

from cxr.metric.interval import difference_interval, score_interval
from cxr.metric.resample import Resamples, draw_patients

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

    Patients are drawn with replacement, all their maps together (`cxr.metric.resample`); intervals are those of
    every other score (`cxr.metric.interval`): exact where all maps hit or none, none for a single patient.

    Args:
        found: (K,) values by score.
        beside: (K,) values by baseline and score; NaN where there is none (an only patient has no other's map).
        patients: of each map; None = a patient of its own.

    Returns:
        By score: value, low, high, n (maps), n_patients, the mean of each baseline, and for `uniform` and
        `other_image` the mean difference `above_<baseline>` with its interval.
    """
    drawn = draw_patients(patients, n_resamples=n_resamples, seed=seed)
    told: dict[str, dict[str, Any]] = {}
    for score in SCORES:
        values = np.asarray(found[score], dtype=np.float64)
        value, means, counts = _means(values, drawn)
        assert value is not None
        low, high = score_interval(value, means, counts["n_patients"])
        record: dict[str, Any] = {"value": value, "low": low, "high": high, **counts}
        for name in BASELINES:
            other = np.asarray(beside[name][score], dtype=np.float64)
            record[name] = _means(other, drawn)[0]
            if name == "centre":
                continue
            above, means, counts = _means(values - other, drawn)
            less, more = None, None
            if above is not None:
                less, more, _ = difference_interval(above, means, counts["n_patients"])
            if less is not None and low is not None and high is not None and values.min() == values.max():
                # nothing varies but the regions' sizes: as uncertain as the score itself
                less, more = low - record[name], high - record[name]
            record[f"above_{name}"] = {"value": above, "low": less, "high": more, **counts}
        told[score] = record
    return told


def _means(values: Floats, drawn: Resamples) -> tuple[float | None, Floats, dict[str, int]]:
    """Return the mean of values (K,) that are not NaN, that of each resample (R,), and the counts."""
    known = ~np.isnan(values)
    groups, held = drawn.groups[known], values[known]
    sums = np.bincount(groups, held, drawn.n_patients)
    counts = np.bincount(groups, minlength=drawn.n_patients).astype(np.float64)
    n = drawn.weights @ counts
    means = np.divide(drawn.weights @ sums, n, out=np.full(len(n), np.nan), where=n > 0)
    return (
        float(held.mean()) if known.any() else None,
        means,
        {"n": int(known.sum()), "n_patients": int((counts > 0).sum())},
    )
