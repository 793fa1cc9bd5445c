"""Do generated images show what the discriminator's augmentation did: shifts, cut-outs, mirror images? Pure functions.

A generator that learns from augmented images may learn the augmentation (Karras et al. 2020, section 2.2). For each
augmentation there is a sign, a number for each image: small for images as real ones are. With n real images, a
generated one is flagged when its sign is larger than all but a share `level` of theirs; of new real images as many
would be (`cxr.metric.memorisation.copies`, which is exact, given that they are of the same kind). An augmentation has
leaked when too many are flagged to be chance, and at least twice as many as real ones.

    edge        a strip of two lines or more at a side repeats one line: what moves in when an image is shifted
    cutout      a flat mid-gray rectangle with a hard edge
    brightness  mean gray value, its distance from the set's median
    contrast    logarithm of the gray values' deviation, its distance from the set's median
    shift, zoom, rotation   against the mean real image, by a regression on its derivatives; distance from the median
    mirror      more like the mirrored mean real image than like the mean real image, each where it fits best

Distances are from the set's own median: a generator whose images are all darker has not leaked brightness, one whose
images vary more than radiographs do may have. So it is the spread that is judged, and a generator that is merely bad
can show one too: read beside the same for the generator's training without augmentation. Signs are not exclusive: a
strong zoom leaves repeated edges, a strong rotation or cut-out can look mirrored.

What is found depends on how much radiographs vary by themselves. Of 1,000 pneumonia radiographs at 64 px, 500 as they are
and the other 500 all augmented: flips of a fifth, shifts of ± 6 %, turns of ± 7°, gray values ± 64, contrast by 1 ± 0.5 and
cut-outs are found; gray values ± 32 and zooms by 1 ± 0.1 (but for their edges) are not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter, minimum_filter

from cxr.metric.memorisation import VERDICT_P, copies

__all__ = ["LEVEL", "SIGNS", "augment_leaks"]

LEVEL = 0.05  # share of real images that are flagged
TIMES = 2.0  # a leak is at least so many times as frequent, by the interval's lower end
SIGNS = ("edge", "cutout", "brightness", "contrast", "shift", "zoom", "rotation", "mirror")
_STRIP_PX = 2
_MID_GRAY = (120, 135)  # 0 of [-1, 1] is 127.5
_FLAT = 6  # gray levels within a cut-out, at most
_BLOCK = 256  # images at a time

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


def augment_leaks(real: Pixels, generated: Pixels) -> dict[str, Any]:
    """Return {"signs": {name: record}, "leaks": [names]} for uint8 images (N, H, W) and (M, H, W).

    A record holds value, low, high (share flagged, 95 % Wilson), n, p_value, level, and "leaks", the verdict.

    real: of the classes and counts that were generated, one for each patient, best not those of the GAN's training.

    Raises:
        ValueError: images of two sizes, of less than 16 pixels a side, or fewer than 20 of a kind.
    """
    if real.shape[1:] != generated.shape[1:] or min(real.shape[1:]) < 16:
        raise ValueError(
            f"images {real.shape[1:]} and {generated.shape[1:]}, expected one size from 16 pixels on"
        )
    if min(len(real), len(generated)) < 20:
        raise ValueError(
            f"{len(real)} real and {len(generated)} generated images, expected at least 20 of each"
        )
    total = real.sum(axis=0, dtype=np.float64)
    of_real, of_made = (
        _signs(real, total, len(real), own=True),
        _signs(generated, total, len(real), own=False),
    )
    found = {}
    for name in SIGNS:
        record, _ = copies(-of_real[name], -of_made[name], level=LEVEL)
        sure = record["p_value"] < VERDICT_P / len(SIGNS)
        found[name] = {**record, "leaks": bool(sure and record["low"] > TIMES * record["level"])}
    return {"signs": found, "leaks": [name for name in SIGNS if found[name]["leaks"]]}


def _signs(images: Pixels, total: Floats, n_real: int, *, own: bool) -> dict[str, Floats]:
    """Return each sign (N,) of images (N, H, W), large = augmented.

    total: sum of the real images; own: these are they, and none is to be compared with a mean that it is part of.
    """
    template = total / n_real
    solve = _pose_solver(template)
    parts: dict[str, list[Floats]] = {}
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK]
        x = block.astype(np.float64)
        answers = x.reshape(len(x), -1) @ solve.T
        pose = answers[:, 2:] / np.maximum(
            answers[:, 1:2], 0.2
        )  # a derivative scales with the image's contrast
        for name, values in (
            ("edge", _edge(x)),
            ("cutout", _cutout(block)),
            ("brightness", x.mean(axis=(1, 2))),
            ("contrast", np.log(x.std(axis=(1, 2)) + 1.0)),
            ("shift", pose[:, :2]),
            ("zoom", pose[:, 2]),
            ("rotation", pose[:, 3]),
            ("mirror", _mirrored(x, total - x if own else total[None])),
        ):
            parts.setdefault(name, []).append(values)
    raw = {name: np.concatenate(values) for name, values in parts.items()}
    for name in ("brightness", "contrast", "zoom", "rotation"):
        raw[name] = np.abs(raw[name] - np.median(raw[name]))
    raw["shift"] = np.linalg.norm(raw["shift"] - np.median(raw["shift"], axis=0), axis=1)
    return raw


def _edge(x: Floats) -> Floats:
    """Return (N,) in [0, 1]: 1 where the outer lines of a side repeat, less the more they differ, 0 above a third.

    Differences from line to line are measured by those of the lines further in, so that a blurred image is not one
    with a repeated edge; a strip without structure (the black beside a film) repeats nothing.
    """
    found = np.zeros(len(x))
    for side in (x, x[:, ::-1], x.swapaxes(1, 2), x.swapaxes(1, 2)[:, ::-1]):
        steps = np.abs(np.diff(side[:, : 4 * _STRIP_PX + 1], axis=1)).mean(axis=2)
        outer, inner = steps[:, :_STRIP_PX].max(axis=1), steps[:, _STRIP_PX:].mean(axis=1)
        along = np.abs(np.diff(side[:, 0], axis=1)).mean(axis=1)
        structured = (along > 0.5) & (inner > 0.5)
        ratio = outer / np.maximum(inner, 0.5)
        found = np.maximum(found, np.where(structured & (ratio < 1 / 3), 1 - ratio, 0.0))
    return found


def _cutout(images: Pixels) -> Floats:
    """Return (N,) in [0, 1]: the share of the image in flat mid-gray squares, times that of their border that is hard."""
    side = max(4, min(images.shape[1:]) // 8)
    size, found = (1, side, side), np.zeros(len(images))
    low, high = minimum_filter(images, size), maximum_filter(images, size)
    flat = (high - low <= _FLAT) & (low >= _MID_GRAY[0]) & (high <= _MID_GRAY[1])
    chosen = np.flatnonzero(flat.any(axis=(1, 2)))  # few: the rest costs nothing
    # an even window's centre is right of its middle; going back from windows to what they cover, left of it
    covered = maximum_filter(flat[chosen], size, origin=(0, side % 2 - 1, side % 2 - 1))
    borders, hard = np.zeros(len(chosen)), np.zeros(len(chosen))
    for axis in (1, 2):
        border = np.diff(covered, axis=axis)
        borders += border.sum(axis=(1, 2))
        steps = np.abs(np.diff(images[chosen].astype(np.int16), axis=axis))
        hard += (border & (steps > 2 * _FLAT)).sum(axis=(1, 2))
    found[chosen] = covered.mean(axis=(1, 2)) * hard / np.maximum(borders, 1)
    return found


def _pose_solver(template: Floats) -> Floats:
    """Return (6, H W): images times this are offset, contrast, shift to the right, down, zoom and rotation (radians).

    Linear regression on the template and its derivatives (Lucas and Kanade 1981), right to first order, which is enough
    to compare spreads.
    """
    down, right = np.gradient(template)
    height, width = template.shape
    y = (np.arange(height) - (height - 1) / 2)[:, None]
    x = (np.arange(width) - (width - 1) / 2)[None]
    columns = (np.ones_like(template), template, -right, -down, -(x * right + y * down), y * right - x * down)
    return np.linalg.pinv(np.stack([column.ravel() for column in columns], axis=1))


def _mirrored(x: Floats, template: Floats) -> Floats:
    """Return (N,): by how much the mirrored template correlates better than the template, over shifts of a sixth; or 0.

    template: one, or one for each image: (1 or N, H, W).
    """
    height, width = x.shape[1:]
    shifts = [np.r_[0 : side // 6 + 1, -(side // 6) : 0] for side in (height, width)]

    def spectrum(images: Floats) -> npt.NDArray[np.complex128]:
        centred = images - images.mean(axis=(1, 2), keepdims=True)
        size = np.linalg.norm(centred, axis=(1, 2), keepdims=True)
        return np.asarray(np.fft.rfft2(centred / np.maximum(size, 1e-9)), np.complex128)

    of_x = spectrum(x)
    both = []
    for one in (template[:, :, ::-1], template):
        correlation = np.fft.irfft2(of_x * spectrum(one).conj(), s=(height, width))
        both.append(correlation[:, shifts[0][:, None], shifts[1][None]].max(axis=(1, 2)))
    return np.asarray(np.maximum(both[0] - both[1], 0.0), np.float64)
