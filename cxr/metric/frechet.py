"""Fréchet distance between two sets of features: features → mean and covariance → distance, pure numpy.

d² = |μ₁ - μ₂|² + Tr Σ₁ + Tr Σ₂ - 2 Tr (Σ₁Σ₂)^½ (Dowson & Landau 1982; as FID on Inception features, Heusel et
al. 2017). Σ divides by n - 1, as everyone's FID does.

Tr (Σ₁Σ₂)^½ needs no square root of a non-symmetric matrix: see `cxr.metric.root_trace`. With fewer images than
features it is the nuclear norm of K = X_c Y_cᵀ / √((n - 1)(m - 1)), (n, m) instead of (d, d). Of a set of many images Y_c
is then replaced by the triangle R (d, d) of Y_c = Q R, which leaves the norm as it is.

Moments and triangles are made of blocks of images: beside features that lie on the disk (`numpy.load(…, mmap_mode="r")`),
memory is that of a block and of some (d, d), whatever n.

The estimate is biased upwards by about (Tr Σ)(1/n + 1/m) and more in many dimensions: two halves of one set are
not at distance 0. A distance is read beside that of real images to real images at the same n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError
from cxr.metric.resample import Resamples
from cxr.metric.root_trace import root_trace, root_traces

__all__ = ["Moments", "distance", "frechet_distance", "moments", "resampled_moments"]

_BLOCK = 2048  # images whose float64 copy is held at once: 32 MB of 2,048 features
_PRODUCTS = 2**21  # of two features of an image, or weights of it, held at once: 16 MB
_MANY = 4  # images for each feature, from where a triangle costs less memory than it costs time

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Mean (..., d) and covariance (..., d, d) of one set, or of many resamples of it."""

    mean: Floats
    covariance: Floats


def moments(features: npt.ArrayLike) -> Moments:
    """Return the moments of features (n, d), n at least 2; a UserError where there are none.

    Sums are taken about the first block's mean, a point within the data: nothing large cancels.
    """
    x = _checked(features)
    origin = x[:_BLOCK].mean(axis=0, dtype=np.float64)
    _refuse_infinite(origin)
    first, second = np.zeros_like(origin), np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), _BLOCK):
        centred = np.subtract(x[start : start + _BLOCK], origin, dtype=np.float64)
        first += centred.sum(axis=0)
        _refuse_infinite(first)
        second += centred.T @ centred
    shift = first / len(x)
    second -= len(x) * np.outer(shift, shift)
    return Moments(origin + shift, second / (len(x) - 1))


def resampled_moments(features: npt.ArrayLike, resamples: Resamples) -> Moments:
    """Return the moments of each resample, (R, d) and (R, d, d); NaN where fewer than 2 images were drawn.

    Takes patients' sums, not images, through the resamples: R (P d²) and not R (N d²), for small d.
    """
    x = _checked(features)
    d, origin = x.shape[1], np.asarray(x.mean(axis=0, dtype=np.float64))
    _refuse_infinite(origin)
    drawn = np.zeros((len(resamples.weights), 1 + d + d * d))
    order = np.argsort(resamples.groups, kind="stable")  # so that a block holds few patients' parts
    step = max(1, _PRODUCTS // max(d * d, len(drawn)))
    for start in range(0, len(x), step):
        rows = order[start : start + step]
        groups = resamples.groups[rows]
        centred = np.subtract(
            x[rows], origin, dtype=np.float64
        )  # about a point within the data: nothing large cancels
        products = (centred[:, :, None] * centred[:, None, :]).reshape(len(rows), d * d)
        columns = np.concatenate([np.ones((len(rows), 1)), centred, products], axis=1)
        starts = np.flatnonzero(np.diff(groups, prepend=-1))
        drawn += resamples.weights[:, groups[starts]].astype(np.float64) @ np.add.reduceat(
            columns, starts, axis=0
        )
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
    cross: Any = root_trace(*covariances) if known.ndim == 0 else root_traces(*covariances)
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
    import torch

    (mean_x, a), (mean_y, b) = _root(x), _root(y)
    scale = math.sqrt((len(x) - 1) * (len(y) - 1))
    cross = (
        float(torch.linalg.svdvals(torch.from_numpy(a @ b.T)).sum()) / scale
    )  # see root_trace: the faster LAPACK
    traces = np.vdot(a, a) / (len(x) - 1) + np.vdot(b, b) / (len(y) - 1)
    return float(_assembled(mean_x, mean_y, traces, cross))


def _root(x: npt.NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Return the mean (d,) and a matrix A (…, d) whose AᵀA is (n - 1) Σ: the differences from it, or their triangle."""
    import torch

    mean, d = np.asarray(x.mean(axis=0, dtype=np.float64)), x.shape[1]
    _refuse_infinite(mean)
    if len(x) <= max(_MANY * d, _BLOCK):
        return mean, np.subtract(x, mean, dtype=np.float64)
    triangle = np.empty((0, d))
    step = max(_BLOCK, d)
    for start in range(0, len(x), step):
        centred = np.subtract(x[start : start + step], mean, dtype=np.float64)
        both = torch.from_numpy(np.concatenate([triangle, centred]))
        triangle = torch.linalg.qr(both, mode="r").R.numpy()
    return mean, triangle


def _assembled(mean_a: Floats, mean_b: Floats, traces: Any, cross: Any) -> Floats:
    """Add up the terms; rounding may leave -1e-16, and a distance is not negative."""
    shift = ((mean_a - mean_b) ** 2).sum(axis=-1)
    return np.asarray(np.maximum(shift + traces - 2.0 * cross, 0.0), dtype=np.float64)


def _checked(features: npt.ArrayLike) -> npt.NDArray[np.floating]:
    """Return features as they are, (n, d) floats, so that a memory-map is not read whole; whole numbers as float64."""
    x = np.asanyarray(features)
    if x.dtype.kind != "f":
        x = x.astype(np.float64)
    if x.ndim != 2 or x.shape[1] < 1:
        raise ValueError(f"expected features (n, d), got {x.shape}")
    if len(x) < 2:
        raise UserError(
            f"FID: got {len(x)} images in a set, expected at least 2: one image has no covariance"
        )
    return x


def _refuse_infinite(mean: Floats) -> None:
    """Refuse features that are not finite, as their mean shows."""
    if not np.isfinite(mean).all():
        raise UserError("FID: a feature is not finite; expected numbers: look at the network that made it")
