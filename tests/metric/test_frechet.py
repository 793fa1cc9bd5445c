"""The Fréchet distance: by hand, against torch-fidelity's formula and scipy's square root, and where those break."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm

from cxr.errors import UserError
from cxr.metric import frechet
from cxr.metric.frechet import distance, frechet_distance, moments, resampled_moments
from cxr.metric.resample import draw_patients


def by_square_root(x: np.ndarray, y: np.ndarray) -> float:
    """The formula as written, for covariances that are well conditioned."""
    a, b = (np.cov(s, rowvar=False) for s in (x, y))
    shift = x.mean(axis=0) - y.mean(axis=0)
    return float(shift @ shift + np.trace(a) + np.trace(b) - 2 * np.trace(sqrtm(a @ b)).real)


def torch_fidelity(x: np.ndarray, y: np.ndarray) -> float:
    """torch-fidelity 0.4.0, metric_fid.py: eigenvalues of the product that is not symmetric."""
    a, b = (np.cov(s, rowvar=False) for s in (x, y))
    cross = np.sqrt(np.linalg.eigvals(a.dot(b)).astype("complex128")).real.sum()
    shift = x.mean(axis=0) - y.mean(axis=0)
    return float(shift.dot(shift) + np.trace(a) + np.trace(b) - 2 * cross)


def mixed(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(shift, 1, (n, d)) @ rng.normal(size=(d, d)))


def test_by_hand() -> None:
    # x = {0, 2}: mean 1, variance 2; y = {3, 7}: mean 5, variance 8; d² = 16 + 2 + 8 - 2 √16 = 18
    assert frechet_distance([[0.0], [2.0]], [[3.0], [7.0]]) == pytest.approx(18.0)
    # the same along one axis of three: fewer images than features takes the other route
    x, y = [[0.0, 5, 5], [2.0, 5, 5]], [[3.0, 5, 5], [7.0, 5, 5]]
    assert frechet_distance(x, y) == pytest.approx(18.0)


@pytest.mark.parametrize(("n", "m", "d"), [(60, 80, 3), (200, 90, 12), (500, 500, 40)])
def test_agrees_with_scipy_and_torch_fidelity_where_well_conditioned(n: int, m: int, d: int) -> None:
    x, y = mixed(n, d, 0), mixed(m, d, 1, 0.3)
    assert frechet_distance(x, y) == pytest.approx(by_square_root(x, y), rel=1e-6)
    assert frechet_distance(x, y) == pytest.approx(torch_fidelity(x, y), rel=1e-6)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)


@pytest.mark.parametrize(
    ("n", "m", "d"), [(20, 30, 64), (20, 100, 64), (100, 20, 64), (2, 2, 5), (64, 65, 64)]
)
def test_both_routes_agree_with_singular_covariances(n: int, m: int, d: int) -> None:
    x, y = mixed(n, d, 2), mixed(m, d, 3, 0.5)
    symmetric = float(distance(moments(x), moments(y)))
    assert frechet_distance(x, y) == pytest.approx(symmetric, rel=1e-6)
    assert frechet_distance(x, y) == pytest.approx(torch_fidelity(x, y), rel=1e-4)  # its own noise


@pytest.mark.parametrize(("n", "d"), [(2, 1), (2, 2), (2, 50), (40, 7), (40, 200)])
def test_identical_sets_are_at_zero(n: int, d: int) -> None:
    x = mixed(n, d, 4)
    scale = float((x**2).sum())
    assert 0.0 <= frechet_distance(x, x) < 1e-6 * scale
    assert 0.0 <= frechet_distance(x, x[::-1]) < 1e-6 * scale


def test_constant_images_are_as_far_as_their_means_and_the_others_spread() -> None:
    black, white = np.zeros((5, 4)), np.ones((6, 4))
    assert frechet_distance(black, black) == 0.0
    assert frechet_distance(black, white) == pytest.approx(4.0)
    x = mixed(50, 4, 5)
    expected = (x.mean(axis=0) ** 2).sum() + np.trace(np.cov(x, rowvar=False))
    assert frechet_distance(x, black) == pytest.approx(expected)


def test_probabilities_lie_on_a_plane_and_stay_below_two() -> None:
    """Rows sum to 1, so every covariance is singular; nothing on the simplex is further apart than two corners."""
    corners = np.eye(3)
    one, other = np.repeat(corners[:1], 9, axis=0), np.repeat(corners[1:2], 7, axis=0)
    assert frechet_distance(one, other) == pytest.approx(2.0)
    rng = np.random.default_rng(0)
    x, y = rng.dirichlet([5, 1, 1], 300), rng.dirichlet([1, 5, 1], 200)
    assert 0.2 < frechet_distance(x, y) < 2.0
    assert frechet_distance(x, y) == pytest.approx(torch_fidelity(x, y), rel=1e-5)


def test_moments_of_resamples_are_those_of_the_images_drawn() -> None:
    x = 1000.0 + mixed(12, 3, 6)  # far from the origin, where sums of squares would cancel
    patients = ["a", "a", "b", "c", "c", "c", None, "d", "e", "e", "f", "g"]
    resamples = draw_patients(patients, n_resamples=20, seed=1)
    many = resampled_moments(x, resamples)
    y = mixed(9, 3, 7)
    other = moments(y)
    for r, weights in enumerate(resamples.weights):
        drawn = np.repeat(x, weights[resamples.groups].astype(int), axis=0)
        np.testing.assert_allclose(many.mean[r], drawn.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(many.covariance[r], np.cov(drawn, rowvar=False), rtol=1e-9, atol=1e-9)
    batch = type(other)(*(np.repeat(v[None], 20, axis=0) for v in (other.mean, other.covariance)))
    found = distance(many, batch)
    drawn = np.repeat(x, resamples.weights[0][resamples.groups].astype(int), axis=0)
    assert found.shape == (20,)
    assert found[0] == pytest.approx(frechet_distance(drawn, y), rel=1e-9)


def test_a_resample_of_one_image_has_no_distance() -> None:
    resamples = draw_patients(["a", "b", "b"], n_resamples=50, seed=0)
    x = mixed(3, 2, 8)
    many = resampled_moments(x, resamples)
    twice = type(many)(many.mean, many.covariance)
    lone = resamples.weights[:, 0] == 2  # image a twice: n = 2, variance 0
    assert lone.any()
    assert np.isfinite(distance(many, twice)).all()
    single = resampled_moments(x[:2], draw_patients(["a", "b"], n_resamples=5, seed=0))
    assert np.isfinite(distance(single, single)).all()


def test_moments_over_blocks_are_numpys() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.normal(size=(2500, 4)), rng.normal(50, 3, (2100, 4))]
    )  # sorted: the blocks differ
    found = moments(x)
    np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), rtol=1e-12)
    single = moments(x.astype(np.float32))  # summed in float64
    np.testing.assert_allclose(
        single.covariance, np.cov(x.astype(np.float32).astype(np.float64), rowvar=False), rtol=1e-12
    )


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    peaks = []
    for n in (10_000, 100_000):
        file = tmp_path / f"{n}.npy"
        held = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(n, 16))
        held[:] = np.random.default_rng(0).normal(size=(n, 16))
        features = np.load(file, mmap_mode="r")
        frechet_distance(features[:100], features[:100])  # what is imported on the way is no memory of it
        tracemalloc.start()
        frechet_distance(features, features[::-1])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]  # ten times the images


def test_few_images_against_so_many_that_a_triangle_stands_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = mixed(30, 40, 0), 3.0 + mixed(900, 40, 1)
    direct = frechet_distance(x, y)
    monkeypatch.setattr(frechet, "_BLOCK", 50)
    assert frechet._root(y)[1].shape == (40, 40)
    assert frechet_distance(x, y) == pytest.approx(direct, rel=1e-12)
    assert frechet_distance(y, x) == pytest.approx(direct, rel=1e-12)


def test_blocks_of_products_change_no_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    x = mixed(50, 3, 2)
    resamples = draw_patients([f"p{i % 17}" for i in range(50)], n_resamples=8, seed=0)
    whole = resampled_moments(x, resamples)
    monkeypatch.setattr(frechet, "_PRODUCTS", 9 * 7)  # 7 images at a time: patients lie in two blocks
    parts = resampled_moments(x, resamples)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=1e-10)


@pytest.mark.parametrize("what", ["probabilities", "copied feature", "duplicated images", "constant feature"])
def test_a_singular_covariance_of_many_images_falls_back_and_agrees_with_the_other_route(what: str) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.dirichlet(np.full(6, 2.0 + s), 60) for s in (0, 1))  # rows sum to 1: rank 5 of 6
    if what == "copied feature":
        x, y = (np.concatenate([v[:, :5], v[:, :1]], axis=1) for v in (x, y))
    elif what == "duplicated images":
        x = np.repeat(x[:4], 15, axis=0)  # rank 3
    elif what == "constant feature":
        x[:, 2], y[:, 4] = 0.5, 0.25
    assert min(len(x), len(y)) >= x.shape[1]  # the route of covariances
    a, b = (v - v.mean(axis=0) for v in (x, y))
    # the nuclear norm of the images' own factors: no covariance, no root of a rounding error
    cross = (
        np.linalg.svd(np.linalg.qr(a, mode="r") @ np.linalg.qr(b, mode="r").T, compute_uv=False).sum() / 59
    )
    shift = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum()
    exact = shift + (a**2).sum() / 59 + (b**2).sum() / 59 - 2 * cross
    assert frechet_distance(x, y) == pytest.approx(exact, rel=1e-6, abs=1e-8)
    assert frechet_distance(y, x) == pytest.approx(exact, rel=1e-6, abs=1e-8)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-7)


def test_what_has_no_distance_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(UserError, match="not finite"):
        frechet_distance([[0.0], [np.nan]], [[0.0], [1.0]])
    with pytest.raises(UserError, match="not finite"):
        frechet_distance([[0.0, 1], [np.inf, 1]], [[0.0, 1], [1.0, 1]])
    with pytest.raises(UserError, match="not finite"):
        frechet_distance(
            [[0.0, 1, 2], [np.inf, 1, 2]], [[0.0, 1, 2], [1.0, 1, 2]]
        )  # fewer images than features
    with pytest.raises(ValueError, match="3 and 2 dimensions"):
        frechet_distance(np.zeros((4, 3)), np.zeros((4, 2)))
