"""Taking the phantom's picture: pose, exposure, noise and marker turn outlines into a radiograph.

Brightness follows what lies in the beam, roughly additively: soft tissue, less where there is
lung, more where there are bone, heart and fluid.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from cxr.data.thorax import Anatomy, Lesion, Points, heart, hilum, lateral, lung, mediastinum, spine, trunk

__all__ = ["Exposure", "draw_exposure", "rasterise", "render"]

Plane = npt.NDArray[np.float32]

FINE = 2  # shapes are drawn at twice the size and averaged down
_SHIFT = 4  # fractional bits of cv2's coordinates


@dataclass(frozen=True)
class Exposure:
    """What differs between two images of one patient."""

    pose: npt.NDArray[np.float64]  # (2, 3) affine map of picture coordinates
    breath: float  # how far the diaphragm is down
    gamma: float
    low: float
    high: float
    noise: float  # standard deviation of the quantum noise, gray levels
    marker: tuple[str, float, float] | None  # letter, x, y
    texture: int  # seed of the noise planes


def draw_exposure(rng: np.random.Generator, difficulty: float) -> Exposure:
    """Draw how one image of a patient is taken; noise grows with difficulty in [0, 1]."""
    angle, scale = rng.normal(0, 0.03), rng.normal(1.0, 0.03)
    shear = rng.normal(0, 0.012)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle) + shear], [np.sin(angle), np.cos(angle)]])
    middle = np.array([0.5, 0.5])
    shift = middle - turn @ middle + rng.normal(0, 0.015, 2)
    left = rng.random() < 0.75
    place = (rng.uniform(0.86, 0.93), rng.uniform(0.05, 0.16))
    hidden = rng.random() < 0.15
    marker = ("L", place[0], place[1]) if left else ("R", 1 - place[0], place[1])
    return Exposure(
        pose=np.concatenate([turn, shift[:, None]], axis=1),
        breath=float(rng.normal(0, 0.015)),
        gamma=float(np.exp(rng.normal(0, 0.12))),
        low=float(rng.uniform(0.0, 0.06)),
        high=float(rng.uniform(0.88, 1.0)),
        noise=float(rng.uniform(3, 6) * (0.4 + 1.8 * difficulty)),
        marker=None if hidden else marker,
        texture=int(rng.integers(2**31)),
    )


def rasterise(outline: Points, pose: npt.NDArray[np.float64], size_px: int) -> npt.NDArray[np.uint8]:
    """Fill a polygon of the patient's frame in a picture (size, size): 255 inside, soft at the edge."""
    canvas = np.zeros((size_px, size_px), np.uint8)
    cv2.fillPoly(canvas, [_pixels(outline, pose, size_px)], 255.0, cv2.LINE_AA, _SHIFT)
    return canvas


def render(body: Anatomy, shot: Exposure, lesions: list[Lesion], size_px: int) -> npt.NDArray[np.uint8]:
    """Render one radiograph (size, size) uint8: lungs dark, bone, heart and fluid bright."""
    fine = size_px * FINE

    def fill(outline: Points) -> Plane:
        return rasterise(outline, shot.pose, fine).astype(np.float32) * np.float32(1 / 255)

    def soft(plane: Plane, sigma: float) -> Plane:
        width = sigma * fine
        return plane if width < 0.3 else np.asarray(cv2.GaussianBlur(plane, (0, 0), width), dtype=np.float32)

    torso = soft(fill(trunk()), 0.018)
    lungs = soft(np.maximum(fill(lung(body, -1, shot.breath)), fill(lung(body, 1, shot.breath))), 0.007)
    grown = [finding.outline for finding in lesions if finding.name == "cardiomegaly"]
    heart_outline = grown[0] if grown else heart(body, body.heart_width)
    cardiac = soft(np.maximum(fill(heart_outline), fill(mediastinum())), 0.010)
    column = soft(fill(spine()), 0.020)
    middle = soft(fill(hilum(-1)) + fill(hilum(1)), 0.03)
    strokes = np.zeros((fine, fine), np.uint8)
    for line in body.vessels:
        _stroke(strokes, line, shot, fine, max(1, round(0.010 * fine)))
    vessels = soft(strokes.astype(np.float32) * np.float32(1 / 255), 0.006) * body.vessel_contrast
    grain, cloud = _texture(shot.texture, fine)
    lung_marks = vessels + middle * 0.13 + grain * 0.016

    height = np.linspace(0, 1, fine, dtype=np.float32)[:, None]
    picture: Plane = torso * (
        0.50 + np.float32(body.fat) + 0.16 * np.clip((height - 0.45) / 0.4, 0, 1) + cloud * 0.03
    )
    picture -= lungs * 0.40 * (1 - 0.25 * height)
    picture += lungs * lung_marks * (1 - cardiac) + cardiac * (0.10 + 0.32 * lungs) + column * 0.12
    picture += _bones(body, shot, fine) * (0.35 + 0.65 * lungs) * (1 - 0.65 * cardiac)
    for finding in lesions:
        inside = soft(fill(finding.outline), finding.softness) * lungs
        if finding.gain < 0:  # air: darker, and without vessels
            inside *= 1 - cardiac
            picture += inside * (finding.gain - lung_marks)
        elif finding.gain > 0:
            picture += inside * finding.gain * (1 - 0.7 * cardiac)

    small = cv2.resize(picture, (size_px, size_px), interpolation=cv2.INTER_AREA)
    levels = np.clip(small, 0, 1) ** np.float32(shot.gamma) * ((shot.high - shot.low) * 255) + shot.low * 255
    noise = np.random.default_rng([shot.texture, 1]).standard_normal((size_px, size_px), dtype=np.float32)
    levels += noise * shot.noise
    if shot.marker is not None:
        _mark(levels, *shot.marker)
    return np.asarray(np.clip(np.rint(levels), 0, 255), dtype=np.uint8)


def _pixels(outline: Points, pose: npt.NDArray[np.float64], size_px: int) -> npt.NDArray[np.int32]:
    placed = outline @ pose[:, :2].T + pose[:, 2]
    return np.rint((placed * size_px - 0.5) * (1 << _SHIFT)).astype(np.int32)


def _bones(body: Anatomy, shot: Exposure, fine: int) -> Plane:
    """Ribs behind and before, and the clavicles, as strokes."""
    canvas = np.zeros((fine, fine), np.uint8)
    front = np.zeros((fine, fine), np.uint8)
    out = np.linspace(0, 1, 14)
    gap = (max(body.base) + 0.10 - body.apex) / body.n_ribs
    stroke = max(1, round(0.021 * fine))
    for side in (-1, 1):
        for i in range(body.n_ribs):
            start = body.apex - 0.005 + i * gap
            edge = lateral(body, start + 0.04, body.base[side > 0]) + 0.012
            x = 0.5 + side * (0.05 + out * (edge - 0.05))
            y = start - 0.035 * np.sin(np.pi * np.minimum(out * 1.2, 1)) + body.rib_slope * out**2.5
            _stroke(canvas, np.stack([x, y], axis=1), shot, fine, stroke)
            if 1 <= i < body.n_ribs - 2:
                inward = np.linspace(1, 0.45, 10)
                x = 0.5 + side * (0.05 + inward * (edge - 0.05))
                y = start + body.rib_slope + 0.16 * (1 - inward)
                _stroke(front, np.stack([x, y], axis=1), shot, fine, stroke)
        y = 0.165 - 0.05 * out + 0.02 * np.sin(6 * out)
        collar = np.stack([0.5 + side * (0.035 + out * 0.33), y], axis=1)
        _stroke(canvas, collar, shot, fine, max(1, round(0.027 * fine)))
    plane = (canvas.astype(np.float32) + 0.55 * front) * (body.rib_contrast / 255)
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), max(0.4, 0.0045 * fine)), dtype=np.float32)


def _stroke(canvas: npt.NDArray[np.uint8], line: Points, shot: Exposure, fine: int, width: int) -> None:
    cv2.polylines(canvas, [_pixels(line, shot.pose, fine)], False, 255.0, width, cv2.LINE_AA, _SHIFT)


def _texture(seed: int, fine: int) -> tuple[Plane, Plane]:
    """Two smooth noise planes (fine, fine), about N(0, 1): grain and cloud."""
    rng = np.random.default_rng([seed, 0])
    planes = []
    for cells in (56, 7):
        coarse = rng.standard_normal((cells, cells), dtype=np.float32)
        plane = cv2.resize(coarse, (fine, fine), interpolation=cv2.INTER_CUBIC)
        planes.append(np.asarray(plane, dtype=np.float32))
    return planes[0], planes[1]


def _mark(levels: Plane, letter: str, x: float, y: float) -> None:
    """Draw a lead letter, 1/14 of the picture high, upright whatever the pose."""
    size = levels.shape[0]
    stamp = np.zeros((28, 24), np.uint8)
    cv2.putText(stamp, letter, (2, 25), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 255.0, 3, cv2.LINE_AA)
    height = max(5, round(size / 14))
    width = max(4, round(height * 24 / 28))
    small = cv2.resize(stamp, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    top, left = round(y * size), min(round(x * size), size - width)
    window = levels[top : top + height, left : left + width]
    np.maximum(window, small[: window.shape[0], : window.shape[1]], out=window)
