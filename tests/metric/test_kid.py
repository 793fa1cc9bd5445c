"""KID: by hand, against torchmetrics, its null, and the resamples behind its interval."""

from __future__ import annotations

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from cxr.errors import UserError
from cxr.metric import kernel_sums
from cxr.metric.frechet import resampled_moments
from cxr.metric.inception_score import resampled_inception_scores
from cxr.metric.kid import Mmd2s, kernel, kid, mmd2_of_all, subset_size, unbiased_mmd2
from cxr.metric.resample import Resamples, draw_patients, draw_small


def test_mmd_by_hand() -> None:
    # d = 1: k(0, 0) = 1, k(1, 1) = 8, k(0, 1) = 1; x = {0, 1}, y = {1, 1}
    x, y = np.array([[0.0], [1.0]]), np.array([[1.0], [1.0]])
    # within x: k(0, 1) = 1; within y: k(1, 1) = 8; across: (1 + 1 + 8 + 8) / 4 = 4.5
    assert unbiased_mmd2(x, y) == pytest.approx(1 + 8 - 2 * 4.5)
    # three against two: within {0, 1, 1}: (1 + 1 + 8) / 3 pairs; across {1, 1}: (2 + 16 + 16) / 6
    z = np.array([[0.0], [1.0], [1.0]])
    assert unbiased_mmd2(z, y) == pytest.approx(10 / 3 + 8 - 2 * 34 / 6)


def test_mmd_agrees_with_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 12)), rng.normal(0.3, 1.1, size=(40, 12))
    theirs = poly_mmd(torch.from_numpy(x), torch.from_numpy(y), degree=3, gamma=None, coef=1.0)
    assert unbiased_mmd2(x, y) == pytest.approx(theirs.item(), rel=1e-10)
    once = [Resamples(np.arange(40), np.ones((1, 40)), 0)] * 2
    found = mmd2_of_all(x, y, (once[0], once[1]), [])
    assert found.value == pytest.approx(theirs.item(), rel=1e-10)
    assert found.null.shape == found.same_n.shape == (0,)


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


def test_kid_is_the_mean_of_torchmetrics_over_the_same_subsets() -> None:
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


def resampled_one_by_one(x: np.ndarray, y: np.ndarray, real: Resamples, fake: Resamples) -> list[float]:
    """The definition: draw patients, list their images, average the kernel over pairs that are two images."""
    found = []
    for w, v in zip(real.weights, fake.weights, strict=True):
        lists = []
        for one, weights in ((real, w), (fake, v)):
            copies = [(p, c) for p, times in enumerate(weights) for c in range(int(times))]
            lists.append([(p, c, i) for p, c in copies for i in np.flatnonzero(one.groups == p)])
        total = 0.0
        for drawn, images in zip(lists, (x, y), strict=True):
            k = kernel(images, images)
            pairs = [
                k[i, j]
                for a, (p, c, i) in enumerate(drawn)
                for b, (q, e, j) in enumerate(drawn)
                # two patients; or, within one draw of a patient, two images
                if a != b and (p != q or c == e)
            ]
            total += float(np.mean(pairs))
        k = kernel(x, y)
        found.append(total - 2 * float(np.mean([k[i, j] for _, _, i in lists[0] for _, _, j in lists[1]])))
    return found


@pytest.mark.parametrize("patients", [[None] * 9, ["a", "b", "a", "c", None, "b", "a", "d", None]])
def test_resamples_are_those_of_the_definition(patients: list[str | None]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 3)), rng.normal(0.4, 1, size=(7, 3))
    real = draw_patients(patients, n_resamples=6, seed=0)
    fake = draw_patients([None] * 7, n_resamples=6, seed=1)

    def resampled(real: Resamples, fake: Resamples) -> np.ndarray:
        return mmd2_of_all(x, y, (real, fake), []).resampled

    found = resampled(real, fake)
    np.testing.assert_allclose(found, resampled_one_by_one(x, y, real, fake), rtol=1e-10)
    once = (
        Resamples(real.groups, np.ones((1, real.n_patients)), 0),
        Resamples(fake.groups, np.ones((1, 7)), 0),
    )
    assert resampled(*once)[0] == pytest.approx(unbiased_mmd2(x, y))  # everybody once: the value
    nobody = Resamples(real.groups, np.eye(real.n_patients)[-1:], 0)  # one patient with one image: no pair
    assert np.isnan(resampled(nobody, once[1])).all()


@pytest.mark.parametrize("tile", [1024, 7])
def test_halves_are_those_of_the_definition_whatever_the_tile(
    tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 3)).astype(np.float32), rng.normal(0.4, 1, size=(31, 3)).astype(np.float32)
    patients = [f"p{i}" for i in rng.integers(0, 8, 23)]
    drawn = [draw_patients(one, n_resamples=5, seed=s) for s, one in enumerate((patients, [None] * 31))]
    halves = []
    for _ in range(4):
        order = rng.permutation(23)
        halves.append((order[:11], order[11:20], rng.choice(31, 9, replace=False)))

    def found() -> Mmd2s:
        return mmd2_of_all(x, y, (drawn[0], drawn[1]), halves)

    whole = found()
    monkeypatch.setattr(kernel_sums, "_TILE", tile)
    tiled = found()
    assert tiled.value == pytest.approx(unbiased_mmd2(x, y), rel=1e-10)
    np.testing.assert_allclose(tiled.null, [unbiased_mmd2(x[a], x[b]) for a, b, _ in halves], rtol=1e-10)
    np.testing.assert_allclose(tiled.same_n, [unbiased_mmd2(x[a], y[c]) for a, _, c in halves], rtol=1e-10)
    np.testing.assert_allclose(tiled.resampled, whole.resampled, rtol=1e-10)


def test_resamples_of_bytes_are_the_same() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 3)), rng.normal(0.4, 1, size=(40, 3))
    patients = ["a"] * 200 + [None] * 100  # sums beyond a byte
    whole, small = (
        tuple(draw(one, n_resamples=30, seed=s) for s, one in enumerate((patients, [None] * 40)))
        for draw in (draw_patients, draw_small)
    )
    assert small[0].weights.dtype == np.uint8
    np.testing.assert_array_equal(small[0].weights, whole[0].weights)
    np.testing.assert_array_equal(
        mmd2_of_all(x, y, small, []).resampled, mmd2_of_all(x, y, whole, []).resampled
    )
    moments = [resampled_moments(x, one[0]) for one in (whole, small)]
    np.testing.assert_array_equal(moments[0].covariance, moments[1].covariance)
    p = rng.dirichlet([1, 1, 1], 300)
    scores = [resampled_inception_scores(p, one[0], splits=1, seed=0) for one in (whole, small)]
    np.testing.assert_array_equal(*scores)
