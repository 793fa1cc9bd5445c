"""KID: by hand, against torchmetrics, its null, and its protocol."""

from __future__ import annotations

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from cxr.errors import UserError
from cxr.metric.generative import kid, pixel_features, subset_size, unbiased_mmd2


def test_mmd_by_hand() -> None:
    # d = 1: k(0, 0) = 1, k(1, 1) = 8, k(0, 1) = 1; x = {0, 1}, y = {1, 1}
    x, y = np.array([[0.0], [1.0]]), np.array([[1.0], [1.0]])
    # within x: k(0, 1) = 1; within y: k(1, 1) = 8; across: (1 + 1 + 8 + 8) / 4 = 4.5
    assert unbiased_mmd2(x, y) == pytest.approx(1 + 8 - 2 * 4.5)


def test_mmd_agrees_with_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 12)), rng.normal(0.3, 1.1, size=(40, 12))
    theirs = poly_mmd(torch.from_numpy(x), torch.from_numpy(y), degree=3, gamma=None, coef=1.0)
    assert unbiased_mmd2(x, y) == pytest.approx(theirs.item(), rel=1e-10)


def test_kid_is_zero_on_average_for_equal_distributions_and_grows_with_distance() -> None:
    rng = np.random.default_rng(0)
    nulls = [
        kid(rng.normal(size=(60, 8)), rng.normal(size=(60, 8)), n_subsets=5, seed=0).value for _ in range(60)
    ]
    assert min(nulls) < 0 < max(nulls)  # unbiased: not clipped at 0
    assert abs(np.mean(nulls)) < 3 * np.std(nulls) / np.sqrt(len(nulls))
    real = rng.normal(size=(200, 8))
    near, far = (kid(real, rng.normal(s, 1, size=(200, 8)), n_subsets=20, seed=0).value for s in (0.2, 1.0))
    assert 0 < near < far


def test_kid_repeats_and_says_what_it_measured() -> None:
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=(50, 4)), rng.normal(size=(31, 4))
    score = kid(real, fake, n_subsets=7, seed=3)
    assert score == kid(real, fake, n_subsets=7, seed=3)
    assert score.value != kid(real, fake, n_subsets=7, seed=4).value
    assert (score.n_real, score.n_fake, score.subset_size, score.n_subsets) == (50, 31, 15, 7)


def test_kid_is_the_mean_of_torchmetrics_over_whole_sets_when_subsets_cannot_differ() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(20, 6)), rng.normal(0.5, 1, size=(20, 6))
    values = [
        poly_mmd(
            torch.from_numpy(x[r.choice(20, 10, replace=False)]),
            torch.from_numpy(y[r.choice(20, 10, replace=False)]),
            degree=3,
            gamma=None,
            coef=1.0,
        ).item()
        for r in [np.random.default_rng(5)]
        for _ in range(9)
    ]
    assert kid(x, y, n_subsets=9, seed=5).value == pytest.approx(np.mean(values), rel=1e-10)


def test_subset_size() -> None:
    assert subset_size(5000, 3000) == 1000
    assert subset_size(500, 3000) == 250


def test_too_few_images() -> None:
    with pytest.raises(UserError, match="at least 4"):
        kid(np.zeros((3, 2)), np.zeros((9, 2)), n_subsets=1, seed=0)


def test_pixel_features_are_block_means() -> None:
    images = np.zeros((2, 4, 4), np.uint8)
    images[0, :2, 2:] = [[10, 20], [30, 40]]
    images[1] = 255
    features = pixel_features(images, 2)
    assert features.shape == (2, 4)
    np.testing.assert_allclose(features[0], [-1, 25 / 127.5 - 1, -1, -1])
    np.testing.assert_allclose(features[1], 1)
    with pytest.raises(UserError, match="feature_px"):
        pixel_features(images, 3)
