"""Tr (AB)^½: by hand, in forty digits, at the size of Inception's features, and where no Cholesky factor exists."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from cxr.metric.root_trace import _by_cholesky, root_trace, root_traces


def covariance(d: int, seed: int, decades: float = 0.0) -> np.ndarray:
    """A covariance whose variances fall by so many powers of ten along random directions."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (turn * np.logspace(0, -decades, d)) @ turn.T


def exact(a: np.ndarray, b: np.ndarray) -> float:
    """The definition in forty digits: the roots of the eigenvalues of AB."""
    with mpmath.workdps(40):
        values = mpmath.eig(mpmath.matrix(a.tolist()) * mpmath.matrix(b.tolist()), left=False, right=False)
        return float(mpmath.fsum(mpmath.sqrt(abs(mpmath.re(v))) for v in values))


def test_by_hand() -> None:
    # of diagonals it is the sum of √(aᵢ bᵢ): √(4·9) + √(1·16)
    assert root_trace(np.diag([4.0, 1.0]), np.diag([9.0, 16.0])) == pytest.approx(10.0, rel=1e-14)
    assert root_traces(np.diag([4.0, 1.0]), np.diag([9.0, 16.0])) == pytest.approx(10.0, rel=1e-14)


@pytest.mark.parametrize("decades", [0.0, 2.0, 6.0])
def test_agrees_with_forty_digits(decades: float) -> None:
    a, b = covariance(8, 0, decades), covariance(8, 1, decades)
    assert _by_cholesky(a, b) is not None
    assert root_trace(a, b) == pytest.approx(exact(a, b), rel=1e-10)
    assert float(root_traces(a, b)) == pytest.approx(exact(a, b), rel=1e-10)


def test_the_inputs_are_left_as_they_were() -> None:
    a, b = covariance(9, 0), covariance(9, 1)
    before = a.copy(), b.copy()
    root_trace(a, b)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])


def test_a_feature_that_never_varies_is_left_out_and_not_a_special_case() -> None:
    a, b = covariance(6, 0), covariance(6, 1)
    wide_a, wide_b = np.zeros((8, 8)), np.eye(8)
    wide_a[1:7, 1:7], wide_b[1:7, 1:7] = a, b  # 0 and 7: constant in the first set alone
    assert root_trace(wide_a, wide_b) == pytest.approx(root_trace(a, b), rel=1e-14)
    assert root_trace(np.zeros((3, 3)), np.eye(3)) == 0.0


def test_without_a_cholesky_factor_the_symmetric_root_serves() -> None:
    rng = np.random.default_rng(0)
    half = rng.normal(size=(4, 12))
    singular, full = half.T @ half, covariance(12, 1)  # rank 4 of 12
    assert _by_cholesky(full, singular - 1e-9 * np.eye(12)) is None
    # the nuclear norm of the factors' product has no root of a rounding error in it
    expected = np.linalg.svd(half @ np.linalg.cholesky(full), compute_uv=False).sum()
    assert root_trace(full, singular) == pytest.approx(expected, rel=1e-6)
    assert root_trace(singular, full) == pytest.approx(expected, rel=1e-6)


def test_many_at_once_are_each_alone() -> None:
    a, b = (np.stack([covariance(5, seed + 10 * side) for seed in range(3)]) for side in (0, 1))
    np.testing.assert_allclose(
        root_traces(a, b), [root_trace(x, y) for x, y in zip(a, b, strict=True)], rtol=1e-12
    )
