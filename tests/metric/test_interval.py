"""Student's intervals: by hand, at the limits, and their coverage on simulated patients with known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from benchmarks.coverage import Scenario, coverage
from cxr.metric.interval import biased_interval, difference_interval, score_interval


def _with_variance(variance: float, n: int = 1000) -> np.ndarray:
    draws = np.random.default_rng(0).standard_normal(n)
    return (draws - draws.mean()) / draws.std(ddof=1) * np.sqrt(variance)


def test_by_hand() -> None:
    """Variance .0009 of draws, 10 patients: SE = .03 × sqrt(10 / 9) = .0316; logit scale of .8: .1976; t(9) = 2.262."""
    low, high = score_interval(0.8, 0.8 + _with_variance(0.0009), 10)
    assert low == pytest.approx(1 / (1 + np.exp(-np.log(4) + 2.262157 * 0.197642)), abs=1e-6)
    assert high == pytest.approx(1 / (1 + np.exp(-np.log(4) - 2.262157 * 0.197642)), abs=1e-6)


def test_a_difference_is_the_one_sample_t_test_where_the_bootstrap_is_exact() -> None:
    """The mean of independent differences: bootstrap variance s² (n - 1) / n² is known, so p is scipy's."""
    values = np.random.default_rng(4).normal(0.1, 0.3, 25)
    drawn = _with_variance(values.var(ddof=1) * 24 / 25 / 25)
    low, high, p = difference_interval(float(values.mean()), drawn, 25)
    expected = ttest_1samp(values, 0.0)
    assert p == pytest.approx(expected.pvalue)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_seeds_add_their_variance_as_welch_and_satterthwaite_do() -> None:
    low, high, p = difference_interval(
        0.05, _with_variance(0.0004 * 99 / 100), 100, seeds=[(0.0003, 2.0), (0.0, 2.0)]
    )
    df = 0.0007**2 / (0.0004**2 / 99 + 0.0003**2 / 2)
    half = t.ppf(0.975, df) * np.sqrt(0.0007)
    assert (low, high) == pytest.approx((0.05 - half, 0.05 + half))
    assert p == pytest.approx(2 * t.sf(0.05 / np.sqrt(0.0007), df))


def test_at_the_limits_the_exact_bound_for_so_many_patients() -> None:
    """All of 20 patients right: the share may be as low as .025^(1/20) = .832 (Clopper-Pearson)."""
    assert score_interval(1.0, np.ones(50), 20) == (pytest.approx(0.8316, abs=1e-4), 1.0)
    assert score_interval(0.0, np.zeros(50), 20) == (0.0, pytest.approx(0.1684, abs=1e-4))
    assert score_interval(1.0, np.r_[np.zeros(10), np.ones(40)], 20) == (
        0.0,
        1.0,
    )  # draws without a prediction


def test_a_biased_error_by_hand() -> None:
    """Value .10, draws around .12: the bias of .02 comes off, .08 ± t(9) × .0316; cut at 0."""
    low, high = biased_interval(0.1, 0.12 + _with_variance(0.0009), 10)
    assert (low, high) == pytest.approx(
        (0.08 - 2.2621572 * np.sqrt(0.001), 0.08 + 2.2621572 * np.sqrt(0.001))
    )
    assert biased_interval(0.03, 0.045 + _with_variance(0.0009), 10)[0] == 0.0
    assert biased_interval(0.03, 0.045 + _with_variance(0.0009), 1) == (None, None)


def test_too_few_patients_give_no_interval() -> None:
    assert score_interval(0.5, np.array([0.2, 0.8]), 1) == (None, None)
    assert difference_interval(0.5, np.array([0.2, 0.8]), 3, strata=3) == (None, None, None)
    assert difference_interval(0.0, np.zeros(9), 30) == (0.0, 0.0, 1.0)


def test_coverage_of_patients_and_undercoverage_of_images() -> None:
    """150 sets, like a row of docs/results/coverage.md; 95 % less 3 standard errors is 89.7 %."""
    scenario = Scenario(patients=100, images="3", icc=0.7, accuracy=0.85, diseased=0.5)
    found = coverage(scenario, range(150), n_resamples=100, by_image=True)
    for name in ("accuracy", "AUROC", "accuracy difference", "AUROC difference"):
        assert 0.897 <= found[name] <= 0.99, name
    assert found["accuracy by image"] < 0.88 and found["AUROC by image"] < 0.88
