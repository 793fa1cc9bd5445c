"""Student's intervals: by hand, at the limits, and their coverage on simulated patients with known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import t, ttest_1samp

from benchmarks.coverage import Scenario, coverage
from benchmarks.coverage_methods import ece_coverage
from cxr.metric.interval import difference_interval, error_interval, score_interval
from cxr.metric.paired_interval import paired_interval


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


def _two(sd_a: float, sd_b: float, r: float, n: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Draws of exactly these standard deviations and this correlation."""
    draws = np.random.default_rng(3).standard_normal((n, 2))
    draws = (draws - draws.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(draws.T))).T
    return sd_a * draws[:, 0], sd_b * (r * draws[:, 0] + np.sqrt(1 - r**2) * draws[:, 1])


@pytest.mark.parametrize("a, b, r", [(0.97, 0.99, 0.6), (0.5, 0.8, -0.3), (0.03, 0.02, 0.9)])
def test_a_paired_difference_is_the_extreme_on_the_ellipse_that_an_optimiser_finds(
    a: float, b: float, r: float
) -> None:
    sd = 0.4 * a * (1 - a), 0.6 * b * (1 - b)
    drawn = tuple(v + d for v, d in zip((a, b), _two(*sd, r), strict=True))
    low, high, p = paired_interval((a, b), drawn, 50)
    scale = np.sqrt(50 / 49) * np.array([0.4, 0.6])  # on the logit scale
    inverse = np.linalg.inv(np.diag(scale) @ np.array([[1, r], [r, 1]]) @ np.diag(scale))
    centre = np.array([logit(a), logit(b)])

    def inside(x: np.ndarray) -> float:
        return float(t.ppf(0.975, 49) ** 2 - (x - centre) @ inverse @ (x - centre))

    ends = [
        min(
            minimize(
                lambda x, way=way: way * 100 * (expit(x[0]) - expit(x[1])), centre + start,
                constraints={"type": "ineq", "fun": inside}, method="SLSQP", options={"ftol": 1e-14, "maxiter": 500},
            ).fun
            for start in np.array([[0.1, -0.1], [-0.1, 0.1], [0.2, 0.2], [-0.5, -0.5]])
        )
        for way in (1, -1)
    ]  # fmt: skip
    assert (low, high) == pytest.approx((ends[0] / 100, -ends[1] / 100), abs=2e-6)
    of_logits = np.sqrt(np.array([1, -1]) @ np.linalg.inv(inverse) @ np.array([1, -1]))
    assert p == pytest.approx(2 * t.sf(abs(centre[0] - centre[1]) / of_logits, 49))


def test_a_paired_difference_by_hand() -> None:
    """Two scores near .5 with small SE: the logit is straight there, .02 ± t(9) × sqrt(.01² + .01²) × sqrt(10 / 9)."""
    low, high, _ = paired_interval((0.51, 0.49), _two(0.001, 0.001, 0.0), 10)
    half = 2.2621572 * 0.001 * np.sqrt(2) * np.sqrt(10 / 9)
    assert (low, high) == pytest.approx((0.02 - half, 0.02 + half), rel=1e-3)
    assert paired_interval((0.5, 0.5), (np.full(9, 0.5),) * 2, 30) == (0.0, 0.0, 1.0)
    same = _two(0.01, 0.01, 1.0)[0] + 0.9
    assert paired_interval((0.9, 0.9), (same, same), 30) == (0.0, 0.0, 1.0)


def test_p_below_a_twentieth_and_an_interval_without_zero_are_one_statement() -> None:
    rng = np.random.default_rng(8)
    seen = set()
    for _ in range(300):
        a, b = expit(rng.normal(2.5, 1.0, 2))
        drawn = _two(
            rng.uniform(0.1, 0.7) * a * (1 - a), rng.uniform(0.1, 0.7) * b * (1 - b), rng.uniform(-0.5, 0.95)
        )
        low, high, p = paired_interval((a, b), drawn, 40)
        assert low is not None and high is not None and p is not None and low <= a - b <= high
        assert (p < 0.05) == (low > 0 or high < 0)
        seen.add(p < 0.05)
    assert seen == {True, False}


def test_arms_without_a_mistake_differ_by_what_so_few_patients_cannot_show() -> None:
    """Two of 20 of 20: each stands at 20.5 / 21, its interval reaches to .832 (Clopper-Pearson)."""
    low, high, p = paired_interval((1.0, 1.0), (np.ones(50), np.ones(50)), 20)
    assert p == 1.0 and low == pytest.approx(-high)
    se = (logit(20.5 / 21) - logit(0.025 ** (1 / 20))) / t.ppf(0.975, 19)
    half = t.ppf(0.975, 38) * np.sqrt(2) * se / 2  # two parts of 19 degrees of freedom; at the same level:
    assert expit(logit(20.5 / 21) + half) - expit(logit(20.5 / 21) - half) < high < 1 - 0.8316
    low, high, p = paired_interval((1.0, 0.9), (np.ones(50), 0.9 + _with_variance(0.001)[:50]), 20)
    assert low < 0 < 0.1 < high and p > 0.05
    assert paired_interval((1.0, 0.0), (np.ones(50), np.zeros(50)), 20)[1] == 1.0


def test_seeds_add_their_variance_as_welch_and_satterthwaite_do() -> None:
    """On the logit scale: A has 2 degrees of freedom of its seeds; B's three seeds agree."""
    drawn = _two(0.02 * np.sqrt(99 / 100), 0.02 * np.sqrt(99 / 100), 0.0)
    low, high, p = paired_interval((0.53, 0.5), drawn, 100, seeds=([(0.0003, 2.0)], [(0.0, 2.0)]))
    of_a, of_b = 1 / (0.53 * 0.47) ** 2, 1 / 0.25**2
    patients, trainings = 0.0004 * (of_a + of_b), 0.0003 * of_a
    df = (patients + trainings) ** 2 / (patients**2 / 99 + trainings**2 / 2)
    se = np.sqrt(patients + trainings)
    assert p == pytest.approx(2 * t.sf((logit(0.53) - logit(0.5)) / se, df), rel=1e-6)
    assert (low, high) == pytest.approx(0.03 + np.array([-1, 1]) * t.ppf(0.975, df) * se / 4, abs=1e-3)


def test_two_seeds_leave_the_difference_in_doubt_and_not_how_hard_the_images_are() -> None:
    """Arms alike but for their trainings: the level they share keeps its 99 degrees of freedom, not the seeds' one."""
    shared = _with_variance(0.03**2)
    seeds = ([(1e-5, 1.0)], [(1e-5, 1.0)])
    low, high, _ = paired_interval((0.95, 0.951), (0.95 + shared, 0.951 + shared), 100, seeds=seeds)
    half = t.ppf(0.975, 2) * np.sqrt(2e-5)  # two parts of 1 degree of freedom
    assert high - low == pytest.approx(
        2 * half, rel=0.6
    )  # 0.04; the level times t(2) would make it more than 0.5


def test_at_the_limits_the_exact_bound_for_so_many_patients() -> None:
    """All of 20 patients right: the share may be as low as .025^(1/20) = .832 (Clopper-Pearson)."""
    assert score_interval(1.0, np.ones(50), 20) == (pytest.approx(0.8316, abs=1e-4), 1.0)
    assert score_interval(0.0, np.zeros(50), 20) == (0.0, pytest.approx(0.1684, abs=1e-4))
    assert score_interval(1.0, np.r_[np.zeros(10), np.ones(40)], 20) == (
        0.0,
        1.0,
    )  # draws without a prediction


def test_an_error_by_hand() -> None:
    """Value .10; 95 % of noise below .06, × sqrt(10 / 9): from .0368; above it t(9) × .0316."""
    noise = np.r_[np.full(96, 0.06), np.full(4, 0.5)]
    drawn = 0.12 + _with_variance(0.0009)
    low, high = error_interval(0.1, drawn, noise, 10)
    assert (low, high) == pytest.approx((0.1 - 0.06 * np.sqrt(10 / 9), 0.1 + 2.2621572 * np.sqrt(0.001)))
    assert error_interval(0.06, drawn, noise, 10)[0] == 0.0  # within what a calibrated model shows
    assert error_interval(0.1, drawn, noise, 1) == (None, None)
    low, high = error_interval(0.1, drawn, noise, 10, seeds=[(0.0001, 2.0)])
    assert low == pytest.approx(0.1 - np.sqrt(0.004 + 4.3026527**2 * 0.0001))
    assert high is not None and high > 0.1 + 2.2621572 * np.sqrt(0.001)


def test_too_few_patients_give_no_interval() -> None:
    assert score_interval(0.5, np.array([0.2, 0.8]), 1) == (None, None)
    assert paired_interval((0.5, 0.4), (np.array([0.2, 0.8]),) * 2, 3, strata=3) == (None, None, None)
    assert difference_interval(0.5, np.array([0.2, 0.8]), 1) == (None, None, None)
    assert difference_interval(0.0, np.zeros(9), 30) == (0.0, 0.0, 1.0)


def test_coverage_of_patients_and_undercoverage_of_images() -> None:
    """150 sets, like a row of docs/results/coverage.md; 95 % less 3 standard errors is 89.7 %."""
    scenario = Scenario(patients=100, images="3", icc=0.7, accuracy=0.85, diseased=0.5)
    found = coverage(scenario, range(150), n_resamples=100, by_image=True)
    for name in ("accuracy", "AUROC", "accuracy difference", "AUROC difference"):
        assert 0.897 <= found[name] <= 0.99, name
    assert found["accuracy by image"] < 0.88 and found["AUROC by image"] < 0.88


def test_coverage_of_a_difference_of_aurocs_near_one() -> None:
    """A difference on its own scale holds in 87 %; 200 sets, 95 % less 3 standard errors is 90.4 %."""
    scenario = Scenario(patients=100, images="1", icc=0.0, accuracy=0.95, diseased=0.5)
    found = coverage(scenario, range(200), n_resamples=100, by_image=False)
    assert 0.904 <= found["AUROC difference"] <= 0.99


def test_coverage_of_ece_where_the_model_is_calibrated() -> None:
    """200 sets; an interval around the ECE less its bias holds in two of three."""
    _, mean, held = ece_coverage(100, 3, 1.0, range(1, 201))
    assert mean > 0.03 and 0.904 <= held <= 0.99
