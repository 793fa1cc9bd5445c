"""Bounds of scores from their resamples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError

__all__ = ["basic", "percentiles", "seed_of"]

_TAILS = (2.5, 97.5)

Floats = npt.NDArray[np.float64]


def basic(value: float, drawn: Floats, within: tuple[float, float]) -> tuple[float | None, float | None]:
    """Return 2 value - percentiles of the resamples (R,), cut to what the score can be; None where none is defined."""
    low, high = percentiles(drawn)
    if low is None or high is None:
        return None, None
    return float(np.clip(2 * value - high, *within)), float(np.clip(2 * value - low, *within))


def percentiles(drawn: Floats) -> tuple[float | None, float | None]:
    """Return the 2.5th and 97.5th percentile of those of (R,) that are defined; None where none is."""
    defined = drawn[np.isfinite(drawn)]
    if defined.size == 0:
        return None, None
    low, high = np.percentile(defined, _TAILS)
    return float(low), float(high)


def seed_of(seed: int, stream: int) -> int:
    """Return a seed of its own for each stream, so that real and synthetic draws are independent."""
    if seed < 0:
        raise UserError(f"seed: got {seed}, expected 0 or more; set seed=0")
    return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])
