"""RMS differences: the plain formula, exactly 0 for equal images, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest

from cxr.metric import pixel_distance as module
from cxr.metric.pixel_distance import pixel_distances, rms


def test_equals_the_formula_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (n, 12, 12), dtype=np.uint8) for n in (3, 7))
    b[4] = a[1]
    by_hand = np.sqrt(((a[:, None].astype(float) - b[None]) ** 2).mean(axis=(2, 3)))
    found = pixel_distances(a, b)
    np.testing.assert_allclose(found, by_hand, rtol=1e-14)
    assert found[1, 4] == 0 and (np.delete(found.ravel(), 11) > 0).all()
    monkeypatch.setattr(module, "BLOCK_BYTES", 2 * 8 * 144)
    np.testing.assert_array_equal(pixel_distances(a, b), found)
    np.testing.assert_allclose(rms(a, b[:3]), np.diagonal(by_hand))


def test_black_and_white_are_255_apart() -> None:
    black, white = np.zeros((1, 64, 64), np.uint8), np.full((1, 64, 64), 255, np.uint8)
    assert pixel_distances(black, white)[0, 0] == rms(black, white)[0] == 255
