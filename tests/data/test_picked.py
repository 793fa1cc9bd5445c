"""Picked images are those that indexing the joined stacks would copy, and nothing is read before it is asked for."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cxr.data.picked import Picked
from cxr.extractor import cached_answer, extract
from cxr.extractor.pixel import PixelExtractor

RNG = np.random.default_rng(0)
STACKS = [RNG.integers(0, 256, (n, 4, 4), dtype=np.uint8) for n in (5, 1, 7)]
ALL = np.concatenate(STACKS)


@pytest.mark.parametrize("rows", [None, [12, 0, 5, 5, 3], []])
def test_as_the_joined_stacks(rows: list[int] | None) -> None:
    expected = ALL if rows is None else ALL[np.array(rows, int)]
    picked = Picked(STACKS, None if rows is None else np.array(rows, int))
    assert (picked.shape, picked.ndim, picked.dtype, len(picked)) == (
        expected.shape,
        3,
        np.uint8,
        len(expected),
    )
    np.testing.assert_array_equal(picked[:], expected)
    np.testing.assert_array_equal(picked[1:4], expected[1:4])
    if len(expected):
        np.testing.assert_array_equal(picked[-1], expected[-1])
        np.testing.assert_array_equal(picked[np.array([3, 1])], expected[[3, 1]])
        np.testing.assert_array_equal(np.stack(list(picked)), expected)
        np.testing.assert_array_equal(Picked([picked], np.array([2, 0]))[:], expected[[2, 0]])


def test_an_array_of_its_own() -> None:
    read = Picked(STACKS)[0:2]
    read[:] = 0
    assert STACKS[0][:2].any()


def test_what_is_no_stack_is_refused() -> None:
    with pytest.raises(ValueError, match="of one size"):
        Picked([STACKS[0], np.zeros((2, 5, 5), np.uint8)])
    with pytest.raises(ValueError, match="expected uint8"):
        Picked([np.zeros((2, 4, 4))])
    for rows in ([13], [-1]):
        with pytest.raises(IndexError, match="of 13 images"):
            Picked(STACKS, np.array(rows))


def test_features_and_their_key_are_those_of_the_copied_images(tmp_path: Path) -> None:
    rows = np.array([11, 2, 7, 0])
    by = PixelExtractor(size_px=2)
    how = {"folder": tmp_path, "batch": 3, "device": "cpu"}
    picked = cached_answer(by, Picked(STACKS, rows), **how)
    copied = cached_answer(by, ALL[rows], **how)
    np.testing.assert_array_equal(picked.features, copied.features)
    assert len(list(tmp_path.iterdir())) == 1


def test_an_extractor_holds_a_batch_and_the_features(tmp_path: Path) -> None:
    images = np.lib.format.open_memmap(
        tmp_path / "images.npy", mode="w+", dtype=np.uint8, shape=(4000, 64, 64)
    )
    images[:] = RNG.integers(0, 256, (64, 64), dtype=np.uint8)
    by, picked = PixelExtractor(size_px=2), Picked([images, images], np.arange(0, 8000, 2))
    extract(by, Picked([images], np.arange(5)), batch=50, device="cpu")
    tracemalloc.start()
    extract(by, picked, batch=50, device="cpu")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21  # the images are 16 MB
