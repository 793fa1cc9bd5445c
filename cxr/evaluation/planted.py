"""Copies of training images as a generator might leave them, to see whether memorisation is noticed."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["KINDS", "gaussian_samples", "plant"]

KINDS = ("exact", "blurred", "shifted", "contrast", "all three")
BLUR_PX, SHIFT_PX = 1.0, 2  # at 64 px; larger images get as much more
GAMMAS, GAINS, OFFSETS = (0.6, 1.7), (0.6, 1.3), (-25.0, 25.0)  # of the changed contrast, drawn evenly

Pixels = npt.NDArray[np.uint8]
Gray = npt.NDArray[np.float32]


def plant(images: Pixels, kind: str, rng: np.random.Generator) -> Pixels:
    """Return copies of (N, S, S) uint8: exact; blurred (Gaussian, 1 px); shifted by 2 px in one of 8 directions, the edge
    repeated; or another contrast (gamma 0.6 to 1.7, gain 0.6 to 1.3, offset up to 25 gray levels); or all three.
    Pixels are of 64."""  # fmt: skip
    scale = images.shape[1] / 64
    shift = round(SHIFT_PX * scale)

    def blurred(gray: Gray) -> Gray:
        return np.asarray(cv2.GaussianBlur(gray, (0, 0), BLUR_PX * scale), np.float32)

    def shifted(gray: Gray) -> Gray:
        y, x = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))[rng.integers(8)]
        wide = np.pad(gray, shift, mode="edge")
        size = len(gray)
        top, left = shift * (1 - y), shift * (1 - x)
        return wide[top : top + size, left : left + size]

    def contrast(gray: Gray) -> Gray:
        bent = 255.0 * (gray / 255.0) ** rng.uniform(*GAMMAS)
        return np.asarray(rng.uniform(*GAINS) * (bent - 128) + 128 + rng.uniform(*OFFSETS), np.float32)

    changes: dict[str, tuple[Callable[[Gray], Gray], ...]] = {
        "exact": (), "blurred": (blurred,), "shifted": (shifted,), "contrast": (contrast,),
        "all three": (blurred, shifted, contrast),
    }  # fmt: skip
    copied = np.empty_like(images)
    for row, image in enumerate(images):
        gray = image.astype(np.float32)
        for change in changes[kind]:
            gray = change(gray)
        copied[row] = np.clip(np.rint(gray), 0, 255).astype(np.uint8)
    return copied


def gaussian_samples(training: Pixels, n: int, components: int, rng: np.random.Generator) -> Pixels:
    """Return n images (n, S, S) drawn from a Gaussian with the mean and the first principal components of (N, S, S).

    A generator that copies nobody and is as smooth as GANs that have not converged: fewer components, smoother.
    """
    flat = training.reshape(len(training), -1).astype(np.float32)
    flat = flat[rng.permutation(len(flat))[:1000]]  # enough for some tens of components
    mean = flat.mean(axis=0)
    _, scale, axes = np.linalg.svd(flat - mean, full_matrices=False)
    k = min(components, len(scale))
    z = rng.standard_normal((n, k)) * scale[:k] / np.sqrt(len(flat) - 1)
    drawn = np.clip(np.rint(mean + z @ axes[:k]), 0, 255)
    pixels: Pixels = drawn.astype(np.uint8).reshape(n, *training.shape[1:])
    return pixels
