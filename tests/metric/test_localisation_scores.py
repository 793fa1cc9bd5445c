"""Scores of heat maps against regions: by hand, against scikit-learn, and honest where resampling is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import distance_transform_edt
from scipy.stats import binomtest
from sklearn.metrics import jaccard_score

from cxr.metric.localisation import BASELINES, SCORES, TOLERANCE, baselines, peak, scores, summarise, within


def region(side: int, top: int, left: int, bottom: int, right: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros((side, side), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_by_hand() -> None:
    """4 x 4: the region is the left half of the upper two rows; the map 4, 2, 1, 1 in the first row, 2 below the 4."""
    heat = np.zeros((4, 4), np.float32)
    heat[0], heat[1, 0] = [4, 2, 1, 1], 2
    found = scores(heat, region(4, 0, 0, 2, 2))
    assert found == {"pointing_tol3": 1.0, "iou_at50": 3 / 4, "energy_inside": 8 / 10}
    assert scores(heat, region(4, 3, 3, 4, 4)) == {
        "pointing_tol3": 0.0,
        "iou_at50": 0.0,
        "energy_inside": 0.0,
    }
    assert scores(7 * heat, region(4, 0, 0, 2, 2)) == found  # the map's scale plays no part
    told = baselines(region(4, 0, 0, 2, 2))
    assert told["uniform"] == dict.fromkeys(SCORES, 4 / 16)
    assert told["centre"]["energy_inside"] == pytest.approx(1 / 4)  # a quadrant of a symmetric bell


def test_against_libraries() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        heat, mask = rng.random((30, 30)) ** 3, rng.random((30, 30)) < 0.1
        found = scores(heat, mask)
        assert found["iou_at50"] == pytest.approx(jaccard_score(mask.ravel(), heat.ravel() >= heat.max() / 2))
        assert found["energy_inside"] == pytest.approx(np.average(mask, weights=heat))
        near = distance_transform_edt(~mask) <= TOLERANCE * 30
        np.testing.assert_array_equal(within(mask), near)
        assert found["pointing_tol3"] == near.ravel()[heat.argmax()]


def test_a_miss_by_less_than_the_tolerance_is_a_hit() -> None:
    mask = region(100, 50, 50, 60, 60)
    for off, hit in ((3, 1.0), (4, 0.0)):
        heat = np.zeros((100, 100))
        heat[59 + off, 55] = 1
        assert scores(heat, mask)["pointing_tol3"] == hit
    heat = np.zeros((100, 100))
    heat[59 + 3, 59 + 3] = 1  # √18 from the corner
    assert scores(heat, mask)["pointing_tol3"] == 0


def test_a_random_point_hits_as_often_as_uniform_says() -> None:
    rng = np.random.default_rng(0)
    mask, hits = region(50, 5, 20, 25, 30), []
    for row, column in rng.integers(50, size=(4000, 2)):
        heat = np.zeros((50, 50))
        heat[row, column] = 1
        hits.append(scores(heat, mask)["pointing_tol3"])
    expected = baselines(mask)["uniform"]["pointing_tol3"]
    assert abs(np.mean(hits) - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)


def test_where_a_map_points() -> None:
    assert peak(np.zeros((8, 8))) is None
    assert peak(np.full((8, 8), 2.0)) is None
    strip = np.zeros((9, 9))
    strip[:3, 2:7] = 1.0  # as enlarging repeats the outermost values
    assert peak(strip) == (1, 4)
    strip[1, 3] = 1.0 + 1e-9  # rounding decides nothing
    assert peak(strip) == (1, 4)
    assert scores(np.zeros((8, 8)), np.ones((8, 8), bool)) == dict.fromkeys(SCORES, 0.0)
    assert scores(np.full((8, 8), 2.0), region(8, 0, 0, 8, 4))["pointing_tol3"] == 0.0


def summary(
    hits: list[float], chance: float, patients: list[str | None], *, other: float = 0.2
) -> dict[str, Any]:
    n = len(hits)
    found = dict.fromkeys(SCORES, hits)
    beside = {b: dict.fromkeys(SCORES, [other if b == "other_image" else chance] * n) for b in BASELINES}
    return summarise(found, beside, patients, n_resamples=2000, seed=0)["pointing_tol3"]


def test_mean_and_interval() -> None:
    hits = [1.0] * 30 + [0.0] * 70
    told = summary(hits, 0.1, [f"p{i}" for i in range(100)])
    assert (told["value"], told["n"], told["n_patients"]) == (0.3, 100, 100)
    exact = binomtest(30, 100).proportion_ci(method="wilson")
    assert abs(told["low"] - exact.low) < 0.03
    assert abs(told["high"] - exact.high) < 0.03
    assert told["above_uniform"]["value"] == pytest.approx(0.2)
    assert abs(told["above_uniform"]["low"] - (told["low"] - 0.1)) < 0.02
    assert told["above_other_image"]["value"] == pytest.approx(0.1)
    # ten images of each patient alike: ten patients, not a hundred images, and a wider interval
    wide = summary(hits, 0.1, [f"p{i // 10}" for i in range(100)])
    assert wide["n_patients"] == 10
    assert wide["high"] - wide["low"] > 2 * (told["high"] - told["low"])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_alike_is_not_certainty(share: float) -> None:
    told = summary([share] * 6, 0.3, list("aabbcd"))
    exact = binomtest(int(4 * share), 4).proportion_ci(method="exact")
    assert (told["low"], told["high"]) == pytest.approx((exact.low, exact.high))
    assert told["above_uniform"]["low"] == pytest.approx(exact.low - 0.3)
    assert told["above_uniform"]["high"] == pytest.approx(exact.high - 0.3)


def test_one_patient_makes_no_interval() -> None:
    told = summary([1.0, 0.0], 0.3, ["a", "a"], other=float("nan"))
    assert (told["value"], told["low"], told["high"]) == (0.5, None, None)
    assert told["other_image"] is None
    assert told["above_other_image"]["value"] is None
