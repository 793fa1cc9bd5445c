"""Fréchet distance between two sets of features: features → mean and covariance → distance, pure numpy.

d² = |μ₁ - μ₂|² + Tr Σ₁ + Tr Σ₂ - 2 Tr (Σ₁Σ₂)^½ (Dowson & Landau 1982; as FID on Inception features, Heusel et
al. 2017). Σ divides by n - 1, as everyone's FID does.

Tr (Σ₁Σ₂)^½ needs no square root of a non-symmetric matrix. With S = Σ₁^½ it is the sum of the roots of the
eigenvalues of the symmetric S Σ₂ S, which are not negative: singular covariances are no special case. With fewer
images than features it is the nuclear norm of K = X_c Y_cᵀ / √((n - 1)(m - 1)), (n, m) instead of (d, d).

The estimate is biased upwards by about (Tr Σ)(1/n + 1/m) and more in many dimensions: two halves of one set are
not at distance 0. A distance is read beside that of real images to real images at the same n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError
from cxr.metric.resample import Resamples

__all__ = ["Moments", "distance", "frechet_distance", "moments", "resampled_moments"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Mean (..., d) and covariance (..., d, d) of one set, or of many resamples of it."""

    mean: Floats
    covariance: Floats


def moments(features: npt.ArrayLike) -> Moments:
    """Return the moments of features (n, d), n at least 2; a UserError where there are none."""
    x = _checked(features)
    mean = x.mean(axis=0)
    centred = x - mean
    return Moments(mean, centred.T @ centred / (len(x) - 1))


def resampled_moments(features: npt.ArrayLike, resamples: Resamples) -> Moments:
    """Return the moments of each resample, (R, d) and (R, d, d); NaN where fewer than 2 images were drawn.

    Takes patients' sums, not images, through the resamples: R (P d²) and not R (N d²), for small d.
    """
    x = _checked(features)
    d, origin = x.shape[1], x.mean(axis=0)
    centred = x - origin  # moments about a point within the data: nothing large cancels
    products = (centred[:, :, None] * centred[:, None, :]).reshape(len(x), d * d)
    columns = np.concatenate([np.ones((len(x), 1)), centred, products], axis=1)
    sums = np.zeros((resamples.n_patients, columns.shape[1]))
    np.add.at(sums, resamples.groups, columns)
    drawn = resamples.weights @ sums
    n, first, second = drawn[:, 0], drawn[:, 1 : 1 + d], drawn[:, 1 + d :].reshape(-1, d, d)
    n = np.where(n < 2, np.nan, n)
    mean = first / n[:, None]
    outer = mean[:, :, None] * mean[:, None, :]
    return Moments(origin + mean, (second - n[:, None, None] * outer) / (n - 1)[:, None, None])


def distance(a: Moments, b: Moments) -> Floats:
    """Return the distance (...) of moments whose leading dimensions are equal; NaN where an input is."""
    finite = np.isfinite(a.covariance) & np.isfinite(b.covariance)
    known = np.asarray(finite.all(axis=(-2, -1)))
    covariances = [np.where(known[..., None, None], m.covariance, 0.0) for m in (a, b)]
    values, vectors = np.linalg.eigh(covariances[0])
    roots = np.sqrt(np.clip(values, 0.0, None))
    half = (vectors * roots[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    product = half @ covariances[1] @ half
    eigenvalues = np.linalg.eigvalsh((product + np.swapaxes(product, -1, -2)) / 2)
    cross = np.sqrt(np.clip(eigenvalues, 0.0, None)).sum(axis=-1)
    traces = [np.trace(c, axis1=-2, axis2=-1) for c in covariances]
    found = _assembled(a.mean, b.mean, traces[0] + traces[1], cross)
    return np.asarray(np.where(known, found, np.nan))


def frechet_distance(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return the distance between features (n, d) and (m, d), at least 2 of each, by whichever route is smaller.

    Raises:
        UserError: fewer than two images in a set, or a feature that is not finite.
    """
    x, y = _checked(x), _checked(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of {x.shape[1]} and {y.shape[1]} dimensions")
    if min(len(x), len(y)) >= x.shape[1]:
        return float(distance(moments(x), moments(y)))
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    a, b = (x - mean_x) / np.sqrt(len(x) - 1), (y - mean_y) / np.sqrt(len(y) - 1)  # Σ₁ = aᵀ a
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(_assembled(mean_x, mean_y, (a**2).sum() + (b**2).sum(), cross))


def _assembled(mean_a: Floats, mean_b: Floats, traces: Any, cross: Any) -> Floats:
    """Add up the terms; rounding may leave -1e-16, and a distance is not negative."""
    shift = ((mean_a - mean_b) ** 2).sum(axis=-1)
    return np.asarray(np.maximum(shift + traces - 2.0 * cross, 0.0), dtype=np.float64)


def _checked(features: npt.ArrayLike) -> Floats:
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] < 1:
        raise ValueError(f"expected features (n, d), got {x.shape}")
    if len(x) < 2:
        raise UserError(
            f"FID: got {len(x)} images in a set, expected at least 2: one image has no covariance"
        )
    if not np.isfinite(x).all():
        raise UserError("FID: a feature is not finite; expected numbers: look at the network that made it")
    return x
