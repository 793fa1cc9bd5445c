"""All scores of one pass, where images are few, alike or the same: finite, or left out and said so."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from cxr.evaluation.scores import score_records
from cxr.extractor import Answer
from cxr.metric import frechet, kernel_sums, near_pairs, resample

SETTINGS = {
    "n_resamples": 40,
    "n_halves": 3,
    "seed": 0,
    "n_subsets": 4,
    "splits": 1,
    "k_precision": 3,
    "k_density": 5,
}


def answer(n: int, d: int, seed: int, shift: float = 0.0, *, logits: bool = False) -> Answer:
    x = np.random.default_rng(seed).gamma(2, 0.2, (n, d)).astype(np.float32) + np.float32(shift)
    return Answer(x, x[:, :4] if logits else None)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for one in value.values() for n in numbers(one)]
    return [value] if isinstance(value, float) else []


def scored(real: Answer, made: Answer) -> dict[str, Any]:
    found, _ = score_records(real, made, [None] * len(real.features), "", SETTINGS)
    assert np.isfinite(numbers(found)).all()
    return found


@pytest.mark.parametrize("d", [3, 512])
def test_two_images_of_each_have_finite_scores(d: int) -> None:
    two = score_records(answer(2, d, 0), answer(2, d, 1), ["a", "b"], "", SETTINGS)
    assert set(two[0]) == {"kid", "fid"} and np.isfinite([two[0][k]["value"] for k in two[0]]).all()
    assert two[0]["kid"]["subsets"] is None and two[0]["fid"]["null"] is None
    assert "need more than 5 images of each set; there are 2" in two[1][0]


def test_the_same_images_twice() -> None:
    one = answer(30, 8, 0, logits=True)
    found = scored(one, one)
    assert found["fid"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["kid"]["value"] <= 0  # k(x, x) stands across and not within
    assert (found["precision"]["value"], found["recall"]["value"], found["coverage"]["value"]) == (1, 1, 1)
    assert found["is"]["real"]["value"] == found["is"]["synthetic"]["value"]


def test_constant_images() -> None:
    flat = Answer(np.full((12, 300), 0.5, np.float32), None)
    found = scored(flat, flat)
    assert found["fid"]["value"] == found["fid"]["null"]["value"] == 0
    assert found["kid"]["value"] == pytest.approx(0, abs=1e-12)
    moved = scored(answer(12, 300, 0), flat)
    assert moved["fid"]["value"] > 0 and moved["recall"]["value"] == 0


def test_fid_of_many_features_has_its_null_and_no_interval() -> None:
    many = scored(answer(40, 300, 0), answer(30, 300, 1))["fid"]
    assert (
        many["low"] is None
        and many["interval"] is None
        and "300 features of 30 images" in many["no_interval"]
    )
    assert many["null"]["cuts"] == 3 and many["null"]["n_first"] == 20
    assert many["same_n"]["value"] == pytest.approx(
        many["null"]["value"], rel=0.2
    )  # equal distributions: all bias
    few = scored(answer(40, 8, 0), answer(40, 8, 1))["fid"]
    assert few["low"] <= few["high"] and few["no_interval"] is None


def test_a_collapsed_generator_loses_recall_and_not_precision() -> None:
    real = answer(60, 8, 0)
    one = Answer(real.features[:1].repeat(60, axis=0), None)
    found = scored(real, one)
    assert found["precision"]["value"] == 1.0 and found["recall"]["value"] <= 0.05
    assert found["recall"]["high"] < found["recall"]["null"]["value"]
    assert found["kid"]["low"] > found["kid"]["null"]["high"]


def test_memory_grows_with_what_is_kept_of_an_image_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_sums, "_TILE", 256)  # blocks that are full at the fewer images
    for module, name in ((near_pairs, "_ENTRIES"), (resample, "_WEIGHTS"), (frechet, "_PRODUCTS")):
        monkeypatch.setattr(module, name, 2**16)
    real = answer(100, 8, 0)
    peaks = []
    for n in (1000, 2000):
        made = answer(n, 8, 1)
        tracemalloc.start()
        score_records(real, made, [None] * 100, "", SETTINGS)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 40 resamples are 40 bytes an image; groups, radii and counts are some tens each. A matrix of all with all has 8
    # bytes for each other image: it grew by 25 MB here
    assert peaks[1] - peaks[0] < 300 * 1000, peaks
