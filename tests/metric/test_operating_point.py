"""Thresholds come from validation alone; chosen by hand and as scikit-learn's ROC says."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import recall_score, roc_curve

from cxr.metric.operating_point import choose_point, point_estimates, rule_names
from cxr.metric.resample import draw_patients

YOUDEN, FIXED = rule_names(0.75)


def test_by_hand() -> None:
    """Positives .9 .8 .4, negatives .7 .3 .2 .1. J: above .75 2/3 + 1 - 1 = .67; above .35 1 + .75 - 1 = .75."""
    y, s = [1, 1, 0, 1, 0, 0, 0, np.nan], [0.9, 0.8, 0.7, 0.4, 0.3, 0.2, 0.1, 0.5]
    found = choose_point(y, s, YOUDEN, 0.75)
    assert found is not None
    assert found.threshold == pytest.approx(0.35)
    assert (found.sensitivity, found.specificity, found.n, found.n_positive) == (1.0, 0.75, 7, 3)
    same = choose_point(y, s, FIXED, 0.75)
    assert same is not None and (same.rule, same.threshold) == ("specificity>=0.75", pytest.approx(0.35))
    strict = choose_point(y, s, rule_names(0.9)[1], 0.9)
    assert strict is not None
    assert (strict.threshold, strict.specificity) == (pytest.approx(0.75), 1.0)
    assert strict.sensitivity == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.random(80) < 0.4
    s = np.round(rng.normal(y * 0.8, 1) / 8 + 0.5, 2).clip(0, 1)  # with ties
    fpr, tpr, _ = roc_curve(y, s, drop_intermediate=False)
    for rule, best in ((YOUDEN, (tpr - fpr).max() + 1), (FIXED, tpr[fpr <= 0.25 + 1e-12].max())):
        found = choose_point(y, s, rule, 0.75)
        assert found is not None
        reached = found.sensitivity + found.specificity if rule == YOUDEN else found.sensitivity
        assert reached == pytest.approx(best, abs=1e-9)
        given = s > found.threshold  # the threshold does what it says
        assert found.sensitivity == pytest.approx(recall_score(y, given), abs=1e-9)
        assert found.specificity == pytest.approx(recall_score(~y, ~given), abs=1e-9)


@pytest.mark.parametrize(
    ("y", "s"),
    [
        ([1, 0, 0, 0], [0.9, 0.1, 0.2, 0.3]),  # one positive
        ([1, 1, 1, 1], [0.9, 0.1, 0.2, 0.3]),  # no negative
        ([1, 1, 0, 0], [0.5, 0.5, 0.5, 0.5]),  # nothing tells them apart
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]),  # worse than chance
    ],
)
def test_none_where_validation_cannot_say(y: list[int], s: list[float]) -> None:
    assert choose_point(y, s, YOUDEN, 0.9) is None


def test_judged_on_test_images_with_the_threshold_of_each_seed() -> None:
    """By hand: 6 test images; seed 0 above .5 finds 2 of 3 and spares 3 of 3; seed 1 above .2: 3 of 3 and 1 of 3."""
    y = np.array([1, 1, 1, 0, 0, 0])
    probs = [np.array([0.9, 0.6, 0.4, 0.3, 0.2, 0.1])] * 2
    drawn = draw_patients(list("abcdef"), n_resamples=100, seed=0)
    found = point_estimates([(y, probs, [0.5, 0.15], drawn)])
    assert found["sensitivity"].per_seed == pytest.approx((2 / 3, 1.0))
    assert found["specificity"].per_seed == pytest.approx((1.0, 1 / 3))
    assert found["precision"].per_seed == pytest.approx((1.0, 3 / 5))
    low, high = found["sensitivity"].low, found["sensitivity"].high
    assert low is not None and high is not None and low < 5 / 6 < high
    # all three of the class found, three patients have it: not fewer than .025^(1/3) = 29 % of such patients
    sure = point_estimates([(y, probs[:1], [0.35], drawn)])["sensitivity"]
    assert (sure.value, sure.low, sure.high) == (1.0, pytest.approx(0.025 ** (1 / 3)), 1.0)
