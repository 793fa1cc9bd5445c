"""IS: by hand, against torch-fidelity's formula, at its bounds, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cxr.errors import UserError
from cxr.metric import inception_score as module
from cxr.metric.inception_score import inception_score, resampled_inception_scores
from cxr.metric.resample import draw_patients


def torch_fidelity(p: np.ndarray, splits: int) -> tuple[float, float]:
    """torch-fidelity 0.4.0, metric_isc.py, from probabilities on."""
    n, scores = len(p), []
    for i in range(splits):
        part = p[(i * n // splits) : ((i + 1) * n // splits)]
        divergence = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        scores.append(np.exp(divergence.sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def test_by_hand() -> None:
    # (1, 0) and (0, 1): each is ln 2 from their mean
    assert inception_score([[1.0, 0.0], [0.0, 1.0]], splits=1, seed=None).value == pytest.approx(2.0)
    # (.9, .1) and (.5, .5), mean (.7, .3)
    kl = [0.9 * math.log(9 / 7) + 0.1 * math.log(1 / 3), 0.5 * math.log(5 / 7) + 0.5 * math.log(5 / 3)]
    score = inception_score([[0.9, 0.1], [0.5, 0.5]], splits=1, seed=None)
    assert score.value == pytest.approx(math.exp(sum(kl) / 2))
    assert score.std is None
    assert score.per_split == (score.value,)


def test_one_and_the_number_of_classes_are_its_bounds() -> None:
    same = np.full((7, 3), [0.2, 0.5, 0.3])
    assert inception_score(same, splits=1, seed=0).value == pytest.approx(1.0)
    assert inception_score(np.repeat(np.eye(4), 5, axis=0), splits=1, seed=0).value == pytest.approx(4.0)
    assert inception_score(np.repeat(np.eye(4)[:2], 5, axis=0), splits=1, seed=0).value == pytest.approx(2.0)


@pytest.mark.parametrize("splits", [1, 3, 10])
def test_agrees_with_torch_fidelity(splits: int) -> None:
    p = np.random.default_rng(0).dirichlet([0.5, 1, 2, 0.3], 101)
    score = inception_score(p, splits=splits, seed=None)
    mean, std = torch_fidelity(p, splits)
    assert score.value == pytest.approx(mean, rel=1e-12)
    assert (score.std or 0.0) == pytest.approx(std, abs=1e-12)
    shuffled = inception_score(p, splits=splits, seed=3)
    order = np.random.default_rng(3).permutation(101) if splits > 1 else np.arange(101)
    assert shuffled.value == pytest.approx(torch_fidelity(p[order], splits)[0], rel=1e-12)


@pytest.mark.parametrize("held", [2**21, 25])
def test_resamples_score_the_images_drawn(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WEIGHTS", held)  # 25: three resamples at a time
    p = np.random.default_rng(1).dirichlet([1, 1, 1], 8)
    resamples = draw_patients(["a", "a", "b", None, "c", "c", "c", "d"], n_resamples=10, seed=2)
    found = resampled_inception_scores(p, resamples, splits=1, seed=None)
    for r, weights in enumerate(resamples.weights):
        drawn = np.repeat(p, weights[resamples.groups].astype(int), axis=0)
        assert found[r] == pytest.approx(inception_score(drawn, splits=1, seed=None).value, rel=1e-12)


def test_a_split_that_was_not_drawn_has_no_score() -> None:
    p = np.eye(2)
    resamples = draw_patients(["a", "b"], n_resamples=40, seed=0)
    found = resampled_inception_scores(p, resamples, splits=2, seed=None)
    missing = (resamples.weights == 0).any(axis=1)
    assert missing.any() and not missing.all()
    np.testing.assert_array_equal(np.isnan(found), missing)


def test_user_mistakes() -> None:
    good = np.full((4, 2), 0.5)
    with pytest.raises(UserError, match="at least 2 classes"):
        inception_score(np.ones((4, 1)), splits=1, seed=0)
    with pytest.raises(UserError, match="set splits=1"):
        inception_score(good, splits=5, seed=0)
    for bad in (good * 2, np.array([[1.5, -0.5]]), np.array([[np.nan, 1.0]])):
        with pytest.raises(UserError, match="exclusive classes"):
            inception_score(bad, splits=1, seed=0)
