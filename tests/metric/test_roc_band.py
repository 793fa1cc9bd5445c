"""The band of a ROC curve: its curve is scikit-learn's, its draw is that of the scores, its ends are fixed."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from cxr.metric.bootstrap import Answers
from cxr.metric.resample import Resamples, draw_patients
from cxr.metric.roc_band import roc_band


def two_columns(y: np.ndarray) -> np.ndarray:
    return np.stack([1 - y, y], axis=1).astype(float)


def noisy(n: int, seed: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.4).astype(int)
    p = 1 / (1 + np.exp(-(1.2 * y + rng.normal(size=n))))
    return y, np.round(p, 1) if ties else p


def test_a_hand_computed_curve() -> None:
    # by falling probability: + - + - : sensitivity is 1/2 up to a rate of 1/2, climbs to 1 there, and stays
    target, prob = two_columns(np.array([1, 0, 1, 0])), two_columns(np.array([0.9, 0.7, 0.6, 0.1]))
    once = Resamples(np.arange(4), np.ones((3, 4)), 0)
    band = roc_band([Answers(target, [prob], once)], 1, n_grid=5)
    assert band is not None
    assert band.rate.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert band.mean.tolist() == [0.5, 0.5, 1, 1, 1]
    assert band.low.tolist() == band.high.tolist() == band.mean.tolist()
    assert band.n_resamples == 3


@pytest.mark.parametrize("ties", [False, True])
def test_every_resample_is_the_weighted_curve_of_scikit_learn(ties: bool) -> None:
    y, p = noisy(90, 3, ties)
    drawn = draw_patients([f"p{i // 3}" for i in range(90)], n_resamples=1, seed=5)
    band = roc_band([Answers(two_columns(y), [two_columns(p)], drawn)], 1)
    assert band is not None
    for weights, found in ((np.ones(90), band.mean), (drawn.weights[0][drawn.groups], band.low)):
        rate, sensitivity, _ = roc_curve(y, p, sample_weight=weights, drop_intermediate=False)
        steps = np.unique(rate, return_index=True)[1]
        upper = np.maximum.reduceat(sensitivity, steps)  # where a curve climbs, its upper end
        away = np.min(np.abs(band.rate[:, None] - rate[None]), axis=1) > 1e-9
        expected = np.interp(band.rate, rate, sensitivity)
        assert np.allclose(found[away], expected[away], atol=1e-12)
        at = np.searchsorted(rate[steps], band.rate[~away] - 1e-9)
        assert np.allclose(found[~away], upper[at], atol=1e-12)
    assert np.array_equal(band.low, band.high)  # one resample


def test_seeds_share_a_draw_and_folds_are_averaged() -> None:
    folds = []
    for f, n in enumerate((80, 120)):
        y, p = noisy(n, f)
        q = noisy(n, 10 + f)[1]
        drawn = draw_patients([None] * n, n_resamples=40, seed=0, fold=f)
        folds.append(Answers(two_columns(y), [two_columns(p), two_columns(q)], drawn))
    band = roc_band(folds, 1)
    alone = [roc_band([fold], 1) for fold in folds]
    assert band is not None and band.curves.shape == (4, 201)
    assert alone[0] is not None and alone[1] is not None
    assert np.allclose(band.mean, (alone[0].mean + alone[1].mean) / 2)
    assert (band.low <= band.high).all() and band.mean[-1] == band.low[-1] == 1


def test_what_cannot_be_drawn() -> None:
    y, p = np.array([1, 0, 0, 0, 0]), np.linspace(0.1, 0.9, 5)
    drawn = draw_patients([None] * 5, n_resamples=10, seed=0)
    assert roc_band([Answers(two_columns(y), [two_columns(p)], drawn)], 1) is None
    y = np.array([1, 1, 0, 0, 0])
    band = roc_band([Answers(two_columns(y), [two_columns(p)], drawn)], 1)
    assert (
        band is not None and 0 < band.n_resamples < 10
    )  # resamples that drew fewer than two of a kind are left out
    unknown = two_columns(y)
    unknown[4] = np.nan
    band = roc_band([Answers(unknown, [two_columns(p)], drawn)], 1)
    assert band is not None and not np.isnan(band.mean).any()


def test_a_band_holds_the_true_curve() -> None:
    """Over 60 simulated test sets, at a rate of 0.3, the pointwise band holds the true sensitivity about 95 % of times."""
    from scipy.stats import norm

    truth = norm.sf(norm.isf(0.3) - 1.2)  # of normal scores 1.2 apart
    held = 0
    for s in range(60):
        rng = np.random.default_rng(s)
        y = (np.arange(200) < 80).astype(int)
        p = norm.cdf(rng.normal(size=200) + 1.2 * y)
        drawn = draw_patients([None] * 200, n_resamples=120, seed=s)
        band = roc_band([Answers(two_columns(y), [two_columns(p)], drawn)], 1, n_grid=11)
        assert band is not None
        held += int(band.low[3] <= truth <= band.high[3])
    assert 52 <= held <= 60
