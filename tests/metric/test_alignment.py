"""The aligned distance: equal to OpenCV's correlation, small for changed copies, blind to nothing else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cxr.data.phantom import Phantom
from cxr.metric.alignment import aligned_neighbours, best_window, correlations, normalised

Pixels = np.ndarray


@pytest.fixture(scope="module")
def chests() -> Pixels:
    source = Phantom(80, 1, ["normal"], 0.5, 64, 0, False)
    return np.stack([source.read(f"phantom/{n:06d}") for n in range(80)])


def test_equals_opencv(chests: Pixels) -> None:
    found = normalised(chests[:9])
    ours = correlations(found[0], found[1:])
    template = np.ascontiguousarray(found[0][3:-3, 3:-3])
    theirs = np.stack([cv2.matchTemplate(one, template, cv2.TM_CCOEFF_NORMED) for one in found[1:]])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_coarse_search_loses_no_nearest_image(chests: Pixels) -> None:
    found = normalised(chests)
    near = aligned_neighbours(found[:20], found[20:], 1)
    full = np.array([1 - correlations(one, found[20:]).max(axis=(1, 2)) for one in found[:20]])
    np.testing.assert_allclose(near.nearest, full.min(axis=1), atol=1e-6)
    assert (near.rows[:, 0] == full.argmin(axis=1)).all()


@pytest.mark.parametrize(
    ("change", "largest"),
    [
        (lambda x: x, 1e-5),
        (
            lambda x: np.clip(0.6 * x + 30.0, 0, 255).astype(np.uint8),
            0.02,
        ),  # linear: rounding is all that is left
        (lambda x: cv2.GaussianBlur(x, (0, 0), 1.0), 0.1),
        (lambda x: np.roll(x, (2, -1), (0, 1)), 0.1),
        (lambda x: cv2.resize(x, (128, 128), interpolation=cv2.INTER_LINEAR), 0.1),
    ],
)
def test_a_changed_copy_stays_near(chests: Pixels, change: object, largest: float) -> None:
    copied = normalised(np.stack([change(one) for one in chests[:10]]))  # type: ignore[operator]
    near = aligned_neighbours(copied, normalised(chests), 2)
    assert near.rows[:, 0].tolist() == list(range(10))
    assert near.nearest.max() < largest
    assert (near.nearest < near.distance[:, 1] / 2).all()  # the runner-up is another patient


def test_the_shift_is_told(chests: Pixels) -> None:
    image = chests[0]
    moved = np.roll(image, (2, -1), (0, 1))
    a, b = normalised(np.stack([moved, image]))
    assert best_window(a, b) == (2, -1)


def test_an_image_is_no_neighbour_of_its_own(chests: Pixels) -> None:
    found = normalised(chests[:40])
    near = aligned_neighbours(found, found, 3, itself=np.arange(40))
    assert not (near.rows == np.arange(40)[:, None]).any()
    assert near.nearest.min() > 0.01


def test_constant_images_are_far_from_everything_and_finite() -> None:
    flat = normalised(np.full((2, 64, 64), 7, np.uint8))
    assert aligned_neighbours(flat, flat, 2).distance.tolist() == [[1.0, 1.0]] * 2
