"""KID's subsets from one shared kernel equal each subset's own, with blocks, and for samples too large to share."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from cxr.metric import kernel_sums, subset_mmd
from cxr.metric.kernel_sums import sums_across, sums_within
from cxr.metric.polynomial import kernel
from cxr.metric.subset_mmd import membership, subset_mmd2, unbiased_mmd2


def drawn(n: int, size: int, n_subsets: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.choice(n, size, replace=False) for _ in range(n_subsets)]


def test_kernel_by_hand() -> None:
    # (1·3 + 2·4) / 2 + 1 = 6.5
    assert kernel([[1, 2]], [[3, 4]])[0, 0] == 6.5**3


@pytest.mark.parametrize("tile", [1024, 16, 7])
def test_the_shared_kernel_gives_each_subsets_own_value(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_sums, "_TILE", tile)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.normal(0.4, 1, size=(33, 6))
    of_x, of_y = drawn(40, 16, 12, 1), drawn(33, 16, 12, 2)
    expected = [unbiased_mmd2(x[a], y[b]) for a, b in zip(of_x, of_y, strict=True)]
    np.testing.assert_allclose(subset_mmd2(x, y, of_x, of_y), expected, rtol=1e-11, atol=1e-12)


def test_few_subsets_of_many_images_take_their_own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 3)), rng.normal(size=(400, 3))
    of_x, of_y = drawn(500, 10, 2, 1), drawn(400, 10, 2, 2)
    monkeypatch.delattr(subset_mmd, "sums_within")  # the shared way: it would be 450 times the work
    expected = [unbiased_mmd2(x[a], y[b]) for a, b in zip(of_x, of_y, strict=True)]
    np.testing.assert_array_equal(subset_mmd2(x, y, of_x, of_y), expected)


def test_memory_does_not_grow_with_the_images() -> None:
    peaks = []
    for n in (3000, 6000):
        x = np.random.default_rng(0).normal(size=(n, 2))
        weights = membership(drawn(n, n // 2, 3, 1), n)
        tracemalloc.start()
        sums_across(x, x, weights, weights)
        sums_within(x, weights)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]  # twice the images
