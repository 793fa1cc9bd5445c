"""Intervals resample patients; a weighted resample equals the same images taken again; coverage is sane."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from cxr.metric.bootstrap import (
    Answers,
    draw_patients,
    estimate,
    estimate_folds,
    paired_difference,
    paired_difference_folds,
)
from cxr.metric.calibration import weighted_ece, weighted_noise
from cxr.metric.classification import scores, weighted_scores
from cxr.metric.interval import error_interval
from cxr.metric.paired_interval import paired_interval
from cxr.metric.resample import effective_patients, patients_bearing

CLASSES = ["N", "P"]


def _data(
    n_patients: int, per: int, seed: int, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Patients whose images share a chance of being read correctly."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(2, size=n_patients), per)
    skill = np.repeat(1 / (1 + np.exp(-rng.normal(1.0, spread, n_patients))), per)
    right = rng.random(n_patients * per) < skill
    p = np.where(right == (truth == 1), 0.8, 0.2) + rng.uniform(-0.1, 0.1, n_patients * per)
    return np.eye(2)[truth], np.stack([1 - p, p], 1), [f"p{i}" for i in range(n_patients) for _ in range(per)]


def test_weights_equal_taking_the_images_again() -> None:
    target, prob, patients = _data(12, 3, 0)
    drawn = draw_patients(patients, n_resamples=6, seed=4)
    assert (drawn.weights.sum(1) == 12).all()
    found = weighted_scores(
        target, prob, CLASSES, multi_label=False, threshold=0.5, groups=drawn.groups, weights=drawn.weights
    )
    for r in range(6):
        rows = np.repeat(np.arange(36), drawn.weights[r, drawn.groups].astype(int))
        again = scores(target[rows], prob[rows], CLASSES, multi_label=False, threshold=0.5)
        for name in found:
            assert found[name][r] == pytest.approx(again[name], abs=1e-9)


def test_by_hand_two_patients() -> None:
    """Patient a always right, b always wrong: resamples score 0, 1/2, 1 with chance 1/4, 1/2, 1/4.

    Their variance is 1/8, times 2 / (2 - 1) for the two patients: SE 1/2, on the logit scale 2; t(1) is 12.7.
    """
    target = np.eye(2)[[0, 1, 0, 1]]
    prob = np.array([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1]])
    drawn = draw_patients(["a", "a", "b", "b"], n_resamples=4000, seed=0)
    found = estimate(target, [prob], CLASSES, drawn, multi_label=False, threshold=0.5)["accuracy"]
    assert (found.value, found.n, found.n_patients) == (0.5, 4, 2)
    assert found.low is not None and np.log(found.low) == pytest.approx(-2 * 12.706, rel=0.03)
    assert found.high == pytest.approx(1 - found.low)
    assert np.mean(drawn.weights[:, 0] == 2) == pytest.approx(0.25, abs=0.03)


def test_the_draw_does_not_depend_on_the_row_order() -> None:
    target, prob, patients = _data(15, 2, 1)
    order = np.random.default_rng(0).permutation(30)
    kwargs = {"multi_label": False, "threshold": 0.5}
    a = estimate(target, [prob], CLASSES, draw_patients(patients, n_resamples=50, seed=0), **kwargs)
    shuffled = draw_patients([patients[i] for i in order], n_resamples=50, seed=0)
    b = estimate(target[order], [prob[order]], CLASSES, shuffled, **kwargs)
    assert a["accuracy"] == b["accuracy"]
    assert a["auroc/P"].low == pytest.approx(b["auroc/P"].low, abs=1e-12)


def test_images_without_a_patient_stand_alone() -> None:
    drawn = draw_patients(["a", None, "a", None, ""], n_resamples=3, seed=0)
    assert drawn.n_patients == 4
    assert drawn.groups[0] == drawn.groups[2]


def test_pairing_narrows_the_difference_and_equal_arms_differ_by_zero() -> None:
    target, prob, patients = _data(80, 3, 5)
    better = prob.copy()
    wrong = np.flatnonzero((prob[:, 1] > 0.5) != (target[:, 1] > 0.5))
    wrong = wrong[np.unique(wrong // 3, return_index=True)[1]][:6]  # six patients
    better[wrong] = prob[wrong][:, ::-1]
    drawn = draw_patients(patients, n_resamples=500, seed=0)
    options = {"multi_label": False, "threshold": 0.5, "names": ["accuracy"]}
    same = paired_difference(target, [prob], [prob], CLASSES, drawn, **options)["accuracy"]
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    found = paired_difference(target, [better], [prob], CLASSES, drawn, **options)["accuracy"]
    single = estimate(target, [prob], CLASSES, drawn, **options)["accuracy"]
    assert found.value == pytest.approx(6 / 240)
    assert (
        found.low is not None
        and found.high is not None
        and single.low is not None
        and single.high is not None
    )
    assert 0 < found.low < found.value < found.high
    assert found.high - found.low < (single.high - single.low) / 2


def test_seeds_are_averaged_and_their_spread_widens_the_second_interval() -> None:
    target, _, patients = _data(50, 2, 6)
    probs = [_noisy(target, share, seed) for seed, share in enumerate((0.1, 0.2, 0.3))]
    drawn = draw_patients(patients, n_resamples=800, seed=0)
    found = estimate(target, probs, CLASSES, drawn, multi_label=False, threshold=0.5)["accuracy"]
    assert found.per_seed == pytest.approx((0.9, 0.8, 0.7))
    assert found.value == pytest.approx(0.8)
    assert found.seed_std == pytest.approx(0.1)
    assert None not in (found.low, found.high, found.low_seeds, found.high_seeds)
    assert found.low_seeds < found.low < found.value < found.high < found.high_seeds
    # the variance of the mean of 3 seeds is 0.1² / 3, with 2 degrees of freedom (Satterthwaite); 50 patients have 49.
    # Of both, what seeds differ by from resample to resample of the patients is counted once.
    right = np.stack([(prob.argmax(1) == target.argmax(1)).astype(float) for prob in probs])  # (3, 300)
    weight = drawn.weights[:, drawn.groups]
    share = right @ weight.T / weight.sum(axis=1)  # (3, R)
    twice = (share - share.mean(axis=0)).var(axis=1).sum() / 2 / 3
    half = (_logit(found.high) - _logit(found.low)) / 2
    own = (half / t.ppf(0.975, 49) * 0.8 * 0.2) ** 2
    total = own + 0.1**2 / 3 - twice
    df = total**2 / (own**2 / 49 + (0.1**2 / 3) ** 2 / 2)
    wide = t.ppf(0.975, df) * np.sqrt(total) / (0.8 * 0.2)
    assert _logit(found.high_seeds) - _logit(0.8) == pytest.approx(wide)
    assert _logit(found.low_seeds) - _logit(0.8) == pytest.approx(-wide)


def test_resamples_without_a_class_are_left_out_and_counted() -> None:
    target = np.eye(2)[[1, 1, 0, 0, 0]]
    prob = np.array([[0.2, 0.8], [0.3, 0.7], [0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])
    drawn = draw_patients(["a", "a", "b", "c", "d"], n_resamples=400, seed=0)
    found = estimate(target, [prob], CLASSES, drawn, multi_label=False, threshold=0.5)["auroc/P"]
    assert (found.value, found.low, found.high) == (
        1.0,
        None,
        None,
    )  # one patient has positives: nothing is known
    assert found.n_undefined == pytest.approx(400 * (0.75**4 + 0.25**4), abs=40)


OPTIONS = {"multi_label": False, "threshold": 0.5}


def test_folds_by_hand() -> None:
    """Fold 0: patient a right, b wrong (3 images each); fold 1: patient c right, and no other.

    The mean over folds is (1/2 + 1) / 2, not the 7 of 10 images; resamples are 1/2, 3/4, 1 with chance 1/4, 1/2, 1/4.
    """
    right, wrong = [0.9, 0.1], [0.1, 0.9]
    first = Answers(
        np.eye(2)[[0] * 6], [np.array([right] * 3 + [wrong] * 3)],
        draw_patients(["a"] * 3 + ["b"] * 3, n_resamples=4000, seed=0, fold=0),
    )  # fmt: skip
    second = Answers(
        np.eye(2)[[0] * 4],
        [np.array([right] * 4)],
        draw_patients(["c"] * 4, n_resamples=4000, seed=0, fold=1),
    )
    found = estimate_folds([first, second], CLASSES, **OPTIONS, names=["accuracy", "recall/P"])
    score = found["accuracy"]
    # variance 1/32 of the mean, times 3 patients / (3 - 2 folds); t(1)
    half = 12.706 * np.sqrt(3 / 32) / (0.75 * 0.25)
    assert score.value == 0.75 and score.low is not None
    assert _logit(score.low) == pytest.approx(_logit(0.75) - half, rel=0.03)
    assert (score.n, score.n_patients, score.n_seeds, score.n_folds) == (10, 3, 1, 2)
    assert (found["recall/P"].value, found["recall/P"].n_folds) == (None, 0)


def _folds(n_seeds: int, worse: float, sizes: tuple[int, ...] = (14, 9, 11)) -> list[Answers]:
    folds = []
    for number, n in enumerate(sizes):
        target, prob, patients = _data(n, 3, 40 + number)
        noise = np.random.default_rng([number, n_seeds, int(100 * worse)])
        probs = [np.abs((noise.random(3 * n) < worse)[:, None] - prob) for _ in range(n_seeds)]
        named = [f"{number}{p}" for p in patients]
        folds.append(Answers(target, probs, draw_patients(named, n_resamples=60, seed=5, fold=number)))
    return folds


def test_folds_equal_a_loop_that_takes_the_images_again() -> None:
    folds, other = _folds(2, 0.1), _folds(2, 0.3)
    names = ["accuracy", "auroc/P", "f1_macro"]

    def loop(tested: list[Answers], name: str, r: int | None) -> float:
        """Mean over seeds of the mean over folds, scored by repeating the images of drawn patients."""
        seeds = []
        for s in range(2):
            of_fold = []
            for fold in tested:
                groups = fold.resamples.groups
                taken = np.ones(groups.size) if r is None else fold.resamples.weights[r, groups]
                rows = np.repeat(np.arange(groups.size), taken.astype(int))
                of_fold.append(
                    scores(
                        np.asarray(fold.target)[rows], np.asarray(fold.probs[s])[rows], CLASSES, **OPTIONS
                    )[name]
                )
            seeds.append(np.mean(of_fold))
        return float(np.mean(seeds))

    found = estimate_folds(folds, CLASSES, **OPTIONS, names=names)
    pair = paired_difference_folds(folds, other, CLASSES, **OPTIONS, names=names)
    for name in names:
        # all three scores of the 34 patients and 3 folds; the rarer class bears on two of them
        truth = np.concatenate([np.asarray(fold.target)[::3, 1] for fold in folds])
        units = {"accuracy": 34, "auroc/P": 0, "f1_macro": 0}[name] or sum(
            int(min(side.sum(), side.size - side.sum())) for side in np.split(truth, (14, 23))
        )
        draws = np.array([loop(folds, name, r) for r in range(60)])
        value = loop(folds, name, None)
        se = np.sqrt(draws.var(ddof=1) * units / (units - 3))
        half = t.ppf(0.975, units - 3) * se / (value * (1 - value))
        low, high = 1 / (1 + np.exp(half - _logit(value))), 1 / (1 + np.exp(-half - _logit(value)))
        score = found[name]
        assert (score.value, score.low, score.high) == pytest.approx((loop(folds, name, None), low, high))
        of_other = np.array([loop(other, name, r) for r in range(60)])
        values = value, loop(other, name, None)
        expected = paired_interval(values, (draws, of_other), units, 3)
        assert (pair[name].low, pair[name].high, pair[name].p) == pytest.approx(expected)
        assert pair[name].value == pytest.approx(values[0] - values[1])
        assert pair[name].n == 3 * 34 and pair[name].n_patients == 34


def test_folds_are_drawn_apart_and_one_fold_is_the_whole() -> None:
    a, b = (draw_patients([f"{i}" for i in range(30)], n_resamples=200, seed=0, fold=f) for f in (0, 1))
    assert abs(np.corrcoef(a.weights.ravel(), b.weights.ravel())[0, 1]) < 0.05
    (fold,) = _folds(2, 0.2, (20,))
    whole = estimate(fold.target, fold.probs, CLASSES, fold.resamples, **OPTIONS)
    assert estimate_folds([fold], CLASSES, **OPTIONS) == whole
    with pytest.raises(ValueError, match="same folds"):
        paired_difference_folds([fold], _folds(2, 0.2), CLASSES, **OPTIONS)


def test_a_fold_without_a_class_is_left_out_of_its_score() -> None:
    folds = _folds(1, 0.1)
    lone = Answers(
        np.eye(2)[[0] * 4],
        [np.full((4, 2), 0.5)],
        draw_patients(list("wxyz"), n_resamples=60, seed=5, fold=3),
    )
    both = estimate_folds([*folds, lone], CLASSES, **OPTIONS)
    assert both["auroc/P"].n_folds == 3 and both["accuracy"].n_folds == 4
    assert both["auroc/P"].value == estimate_folds(folds, CLASSES, **OPTIONS)["auroc/P"].value
    assert both["auroc/P"].n == 3 * 34 + 4


def test_effective_patients_by_hand() -> None:
    """Patients of 1, 1 and 4 images: 6² / (1 + 1 + 16) = 2; of as many each: their count."""
    groups = np.array([0, 1, 2, 2, 2, 2])
    assert effective_patients(groups) == 2.0
    assert effective_patients(np.repeat(np.arange(7), 3)) == 7.0
    assert effective_patients(groups[:0]) == 0.0
    drawn = draw_patients(list("abcccc"), n_resamples=2, seed=0)
    target = np.eye(2)[[0, 1, 1, 0, 0, 0]]
    assert patients_bearing(target, drawn, CLASSES, "accuracy") == 2.0
    assert patients_bearing(target, drawn, CLASSES, "recall/P") == 2.0  # one image each of b and c
    assert patients_bearing(target, drawn, CLASSES, "specificity/P") == pytest.approx(16 / 10)
    assert patients_bearing(target, drawn, CLASSES, "auroc/P") == pytest.approx(16 / 10)


def test_ece_has_an_interval_over_its_noise_and_its_difference_has_none() -> None:
    """Multi-label: the noise is the mean over labels, seeds and folds, as ECE is."""
    rng = np.random.default_rng(0)
    prob = [rng.random((60, 2)) for _ in range(2)]
    target = (rng.random((60, 2)) < prob[0]).astype(float)
    drawn = draw_patients([f"{i // 3}" for i in range(60)], n_resamples=80, seed=0)
    arm = [Answers(target, prob, drawn)]
    options = {"multi_label": True, "threshold": 0.5}
    found = estimate_folds(arm, CLASSES, **options, names=["ece15", "ece15/P"])
    eces, noises = (
        np.array([[of(target, p, c, drawn.groups, drawn.weights) for c in (0, 1)] for p in prob])
        for of in (weighted_ece, weighted_noise)
    )
    for name, columns in (("ece15", [0, 1]), ("ece15/P", [1])):
        draws, noise = (drawn_of[:, columns].mean((0, 1)) for drawn_of in (eces, noises))
        expected = error_interval(found[name].value, draws, noise, 20)
        assert (found[name].low, found[name].high) == pytest.approx(expected)
        assert found[name].low_seeds <= found[name].low
    other = [Answers(target, prob[::-1], drawn)]
    pair = paired_difference_folds(arm, other, CLASSES, **options, names=["ece15"])["ece15"]
    assert pair.value == pytest.approx(0.0) and (pair.low, pair.high, pair.p) == (None, None, None)


def _logit(x: float) -> float:
    return float(np.log(x / (1 - x)))


def _noisy(target: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Perfect answers of which `share` are turned round."""
    turned = np.random.default_rng(seed).permutation(len(target))[: round(share * len(target))]
    prob = np.where(target > 0.5, 0.9, 0.1)
    prob[turned] = prob[turned][:, ::-1]
    return prob


def test_seeds_that_differ_by_no_more_than_patients_do_add_nothing() -> None:
    """Three trainings equally good that err on other images: a sample of patients explains how they differ."""
    target, _, patients = _data(50, 2, 6)
    probs = [_noisy(target, 0.2, seed) for seed in range(3)]
    drawn = draw_patients(patients, n_resamples=300, seed=0)
    found = estimate(target, probs, CLASSES, drawn, multi_label=False, threshold=0.5)["accuracy"]
    assert found.seed_std == pytest.approx(0.0)
    assert (found.low_seeds, found.high_seeds) == (found.low, found.high)
