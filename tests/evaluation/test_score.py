"""Scores with intervals and nulls: the intervals cover, the null is what equal distributions score."""

from __future__ import annotations

import numpy as np
import pytest

from cxr.errors import UserError
from cxr.evaluation.score import Answers, frechet_record, inception_records, shares_warning

OPTIONS = {"n_resamples": 200, "n_halves": 20, "seed": 0}


def answers(n: int, weights: list[float], seed: int, per_patient: int = 1) -> Answers:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(weights, n)
    return Answers(p, np.log(p), [f"p{i // per_patient}" for i in range(n)])


def record(x: Answers, y: Answers, **changes: int) -> dict[str, object]:
    return frechet_record(x.probabilities, y.probabilities, x.patients, **(OPTIONS | changes))


def test_a_record_repeats_and_says_what_it_measured() -> None:
    x, y = answers(60, [2, 1, 1], 0, per_patient=3), answers(45, [1, 1, 2], 1)
    one = record(x, y)
    assert one == record(x, y)
    assert one["low"] != record(x, y, seed=1)["low"]
    assert (one["n_real"], one["n_patients"], one["n_synthetic"]) == (60, 20, 45)
    null, same_n = one["null"], one["same_n"]
    assert isinstance(null, dict) and isinstance(same_n, dict)
    assert (null["n_first"], null["n_second"], null["cuts"]) == (30, 30, 20)
    assert null["value"] < same_n["value"]  # these sets do differ


def test_fewer_synthetic_images_than_half_of_the_real_ones() -> None:
    null = record(answers(60, [1, 1, 1], 0), answers(10, [1, 1, 1], 1))["null"]
    assert isinstance(null, dict)
    assert (null["n_first"], null["n_second"]) == (30, 10)


def test_patients_stay_whole_in_the_halves() -> None:
    """Two patients of unlike images: each half is one of them, and the null is as wide as they are apart."""
    p = np.concatenate([np.full((10, 2), [0.9, 0.1]), np.full((10, 2), [0.1, 0.9])])
    one = frechet_record(p, p, ["a"] * 10 + ["b"] * 10, **OPTIONS)
    assert one["null"]["value"] == pytest.approx(2 * 0.8**2)
    alone = frechet_record(p, p, ["a"] * 20, **OPTIONS)
    assert alone["null"] is None and alone["same_n"] is None
    assert alone["value"] == pytest.approx(0.0, abs=1e-12)


def test_equal_distributions_score_as_the_null_and_their_interval_has_zero() -> None:
    inside, gaps = 0, []
    for seed in range(40):
        one = record(answers(80, [2, 1, 1], 2 * seed), answers(80, [2, 1, 1], 2 * seed + 1), n_halves=10)
        assert isinstance(one["null"], dict) and isinstance(one["same_n"], dict)
        inside += one["low"] == 0.0
        gaps.append(one["same_n"]["value"] - one["null"]["value"])
    assert inside >= 38
    assert abs(np.mean(gaps)) < 3 * np.std(gaps) / np.sqrt(len(gaps))


def test_intervals_cover_the_distance_of_the_distributions() -> None:
    """Basic intervals, less the bias: 95 % nominal, at least 90 % of 60 simulated pairs here."""
    far, n = answers(200_000, [4, 1, 1], 1000), 120
    other = answers(200_000, [1, 2, 1], 1001)
    true = frechet_record(far.probabilities[:], other.probabilities[:], far.patients[:],
                          n_resamples=1, n_halves=1, seed=0)["value"]  # fmt: skip
    covered = 0
    for seed in range(60):
        one = record(answers(n, [4, 1, 1], 3 * seed), answers(n, [1, 2, 1], 3 * seed + 1), n_halves=1)
        covered += one["low"] <= true <= one["high"]  # type: ignore[operator]  # numbers
    assert covered >= 54


def test_inception_scores_of_both() -> None:
    x, y = answers(60, [3, 1, 1], 0, per_patient=2), answers(90, [0.2, 0.2, 0.2], 1)
    found = inception_records(x, y, splits=3, n_resamples=100, seed=0)
    for one in found.values():
        assert 1.0 <= one["low"] < one["high"] <= 3.0 and one["low"] < one["value"]
        assert one["std_over_splits"] > 0
    assert (found["real"]["n"], found["real"]["n_patients"]) == (60, 30)
    assert (found["synthetic"]["n"], found["synthetic"]["n_patients"]) == (90, None)
    assert found["synthetic"]["value"] > found["real"]["value"]


def test_unlike_mixtures_of_classes_are_told() -> None:
    assert shares_warning({"a": 50, "b": 50}, {"a": 10, "b": 10}) is None
    told = shares_warning({"a": 30, "b": 10}, {"b": 7})
    assert told is not None and "75 % and 0 %" in told


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="set seed=0"):
        record(answers(9, [1, 1], 0), answers(9, [1, 1], 1), seed=-1)
