"""McNemar's test against scipy's binomial one and by hand; Holm's against his own rule; DeLong's against resampling."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest, mannwhitneyu, norm
from sklearn.metrics import roc_auc_score

from cxr.metric.bootstrap import draw_patients, paired_difference
from cxr.metric.delong import auroc_covariance, delong
from cxr.metric.paired_test import holm, mcnemar


@pytest.mark.parametrize(("b", "c"), [(1, 8), (5, 5), (0, 3), (12, 7), (0, 0)])
def test_one_image_per_patient_is_mcnemars_exact_test(b: int, c: int) -> None:
    a_right = np.r_[np.ones(b), np.zeros(c), np.ones(20)].astype(bool)
    b_right = np.r_[np.zeros(b), np.ones(c), np.ones(20)].astype(bool)
    exact, mid = mcnemar([a_right], [b_right], np.arange(b + c + 20))
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert exact == pytest.approx(expected, abs=1e-12)
    if b + c and b != c:
        point = binomtest(b, b + c, alternative="less").pvalue - (
            binomtest(b - 1, b + c, alternative="less").pvalue if b else 0
        )
        assert mid == pytest.approx(expected - point, abs=1e-12)  # Fagerland et al. 2013


def test_patients_and_seeds_equal_every_flip() -> None:
    """Five patients of 1 to 3 images, two seeds against one: all 32 flips of whole patients."""
    rng = np.random.default_rng(2)
    patients = np.repeat(np.arange(5), [1, 3, 2, 3, 1])
    a, b = [rng.random(10) < 0.8 for _ in range(2)], [rng.random(10) < 0.4]
    d = np.bincount(patients, weights=np.mean(a, axis=0) - np.mean(b, axis=0))
    flips = np.array([abs(np.dot(signs, d)) for signs in itertools.product((-1, 1), repeat=5)])
    exact, mid = mcnemar(a, b, patients)
    seen = abs(d.sum())
    assert exact == pytest.approx((flips > seen - 1e-9).mean())
    assert mid == pytest.approx((flips > seen + 1e-9).mean() + (abs(flips - seen) < 1e-9).mean() / 2)


def test_holm_by_hand() -> None:
    """.01 .04 .03 .005: × 3, × 1, × 2, × 4 in order of size are .03 .04 .06 .02; never below a smaller one's."""
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == [] and holm([None]) == [None]


def test_holm_is_the_closure_of_bonferroni() -> None:
    """What defines it (Marcus et al. 1976): p of i is the largest Bonferroni p of any set of tests with i in it."""
    p = np.random.default_rng(0).random(6) ** 3
    sets = [s for size in range(1, 7) for s in itertools.combinations(range(6), size)]
    expected = [max(min(1.0, len(s) * min(p[list(s)])) for s in sets if i in s) for i in range(6)]
    assert holm(p.tolist()) == pytest.approx(expected)


def test_delong_variance_by_hand() -> None:
    """Positives 3 1, negatives 2 0: shares 1, 1/2 and 1/2, 1; AUROC 3/4; variance (1/8)/2 + (1/8)/2 = 1/8."""
    areas, covariance = auroc_covariance([1, 1, 0, 0], [3.0, 1.0, 2.0, 0.0])
    assert areas.tolist() == [0.75] and covariance.tolist() == [[0.125]]


def _scores(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y, shared = np.arange(n) % 3 == 0, rng.standard_normal(n)
    a, b = (np.round(mu * y + shared + 0.7 * rng.standard_normal(n), 1) for mu in (1.4, 1.0))
    return y, a, b


def test_delong_agrees_with_scikit_learn_pairs_and_the_bootstrap() -> None:
    y, a, b = _scores(400, 0)
    difference, se, p = delong([(y.astype(float), [a], [b])])
    assert difference == pytest.approx(roc_auc_score(y, a) - roc_auc_score(y, b), abs=1e-12)
    # components by all pairs (DeLong et al. 1988, eq. 4 to 6), ties counted half
    pairs = [np.sign(s[y][:, None] - s[~y][None]) / 2 + 0.5 for s in (a, b)]
    v = pairs[0] - pairs[1]
    naive = v.mean(1).var(ddof=1) / y.sum() + v.mean(0).var(ddof=1) / (~y).sum()
    assert se == pytest.approx(np.sqrt(naive), abs=1e-12)
    assert auroc_covariance(y, a)[0][0] == pytest.approx(
        mannwhitneyu(a[y], a[~y]).statistic / (y.sum() * (~y).sum()), abs=1e-12
    )
    target, (pa, pb) = np.eye(2)[y.astype(int)], (1 / (1 + np.exp(-s)) for s in (a, b))
    drawn = draw_patients([f"{i}" for i in range(400)], n_resamples=2000, seed=0)
    options = {"multi_label": False, "threshold": 0.5, "names": ["auroc/P"]}
    tables = [[np.stack([1 - q, q], 1)] for q in (pa, pb)]
    boot = paired_difference(target, *tables, ["N", "P"], drawn, **options)["auroc/P"]
    assert boot.p is not None and norm.isf(boot.p / 2) == pytest.approx(norm.isf(p / 2), rel=0.08)
    assert boot.high is not None and boot.high - difference == pytest.approx(1.96 * se, rel=0.08)


def test_delong_of_seeds_folds_and_equal_arms() -> None:
    y, a, b = _scores(120, 1)
    assert delong([(y, [a], [a])]) == (0.0, 0.0, 1.0)
    once, twice = delong([(y, [a], [b])]), delong([(y, [a, a], [b])])  # the same training twice says no more
    assert twice == pytest.approx(once)
    folds = delong([(y, [a], [b]), (y, [a], [b])])
    assert folds[0] == pytest.approx(once[0]) and folds[1] == pytest.approx(once[1] / np.sqrt(2))
    with pytest.raises(ValueError, match="two of each"):
        delong([(np.r_[1, np.zeros(9)], [np.arange(10)], [np.arange(10)])])
