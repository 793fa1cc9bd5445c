"""The chest: anatomy as curves, and findings as polygons.

Coordinates are fractions of the picture, x to the right, y down; the patient's right side is
on the left, as radiologists hang films; `side` is -1 for it and 1 for the other. Shapes are
outlines (n, 2) in the patient's frame, which a pose maps into a picture, so a finding's box and
mask come from its outline, without rendering. No number here was fitted to patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "FINDINGS",
    "Anatomy",
    "Lesion",
    "Points",
    "draw_anatomy",
    "draw_lesion",
    "heart",
    "hilum",
    "lateral",
    "lung",
    "mediastinum",
    "spine",
    "trunk",
]

Points = npt.NDArray[np.float64]

FINDINGS = ("cardiomegaly", "effusion", "pneumothorax", "opacity", "nodule")


@dataclass(frozen=True)
class Anatomy:
    """What all images of one patient share; lengths in fractions of the picture."""

    width: float  # half the inner width of the chest
    apex: float  # y of the lung apices
    base: tuple[float, float]  # y of the domes of the diaphragm, right and left
    heart_width: float  # half of it, as a fraction of `width`: the cardiothoracic ratio
    heart_y: float
    heart_tilt: float
    rib_slope: float
    n_ribs: int
    rib_contrast: float
    fat: float  # brightness of the soft tissue
    vessels: tuple[Points, ...]  # from the hila outwards
    vessel_contrast: float


@dataclass(frozen=True)
class Lesion:
    """A finding: outline in the patient's frame, and how it changes brightness."""

    name: str
    outline: Points
    gain: float  # gray fraction added inside (negative: darker)
    softness: float  # blur of the edge, fraction of the picture


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw one patient."""
    right = rng.normal(0.735, 0.022)
    return Anatomy(
        width=float(rng.normal(0.365, 0.018)),
        apex=float(rng.normal(0.125, 0.015)),
        base=(float(right), float(right + rng.uniform(0.005, 0.03))),
        heart_width=float(np.clip(rng.normal(0.47, 0.03), 0.40, 0.54)),
        heart_y=float(rng.normal(0.625, 0.015)),
        heart_tilt=float(rng.normal(0.5, 0.1)),
        rib_slope=float(rng.normal(0.075, 0.015)),
        n_ribs=int(rng.integers(8, 11)),
        rib_contrast=float(rng.uniform(0.07, 0.13)),
        fat=float(rng.normal(0.0, 0.03)),
        vessels=tuple(_vessel(rng, side) for side in (-1, 1) for _ in range(9)),
        vessel_contrast=float(rng.uniform(0.06, 0.14)),
    )


def draw_lesion(
    name: str, rng: np.random.Generator, body: Anatomy, breath: float, difficulty: float
) -> Lesion:
    """Draw one finding of `FINDINGS` in a patient; smaller and fainter as difficulty goes to 1."""
    ease = 1 - difficulty
    if name == "cardiomegaly":
        grown = body.heart_width + rng.uniform(0.0, 0.06) + 0.13 * ease**1.5
        return Lesion(name, heart(body, grown), 0.0, 0.0)
    side = -1 if rng.random() < 0.5 else 1
    if name == "effusion":
        depth = rng.uniform(0.02, 0.06) + 0.18 * ease
        gain = rng.uniform(0.02, 0.10) + 0.32 * ease
        return Lesion(name, _fluid(body, side, breath, depth), gain, 0.010)
    if name == "pneumothorax":
        depth = rng.uniform(0.05, 0.08) + 0.12 * ease
        reach = rng.uniform(0.35, 0.5) + 0.25 * ease
        return Lesion(name, _gap(body, side, depth, reach), -0.05 - 0.10 * ease, 0.006)
    small = name == "nodule"
    high = rng.uniform(0.3, 0.6) if small else rng.uniform(0.4, 0.8)
    y = body.apex + high * (body.base[side > 0] - body.apex)
    inner, outer = _medial(body, y), lateral(body, y, body.base[side > 0])
    radius = rng.uniform(0.018, 0.024) + 0.022 * ease if small else rng.uniform(0.05, 0.075) + 0.055 * ease
    across = rng.uniform(0.3, 0.75)
    x = 0.5 + side * (inner + across * max(outer - inner, 0.0))
    gain = rng.uniform(0.16, 0.22) + 0.20 * ease if small else rng.uniform(0.07, 0.13) + 0.24 * ease
    return Lesion(name, _blob(rng, x, y, radius, 0.06 if small else 0.22), gain, 0.008 if small else 0.028)


def lateral(body: Anatomy, y: Any, base: float) -> Any:
    """Distance of the chest wall from the midline at height y: a narrow top, then nearly straight."""
    t = np.clip((y - body.apex) / (base + 0.09 - body.apex), 0, 1)
    return body.width * (0.50 + 0.50 * np.sin(np.pi / 2 * np.minimum(1, t / 0.72)) ** 0.8)


def _medial(body: Anatomy, y: Any) -> Any:
    """Distance of the lung's inner edge from the midline: close to the spine, wider at the apex."""
    return 0.075 + 0.05 * np.clip(1 - (y - body.apex) / 0.12, 0, 1) ** 2


def lung(body: Anatomy, side: int, breath: float) -> Points:
    """One lung; `breath` moves the diaphragm down."""
    base = body.base[side > 0] + breath
    corner = base + 0.09  # the costophrenic angle lies below the dome
    down = np.linspace(body.apex, corner, 24)
    wall = lateral(body, down, base) - 0.05 * body.width * np.clip((down - corner + 0.05) / 0.05, 0, 1) ** 2
    across = np.linspace(1, 0, 16)
    inner, outer = 0.075, wall[-1]
    dome_x = inner + across * (outer - inner)
    dome_y = _dome(base, across)
    up = np.linspace(base + 0.045, body.apex, 16)
    distance = np.concatenate([wall, dome_x, _medial(body, up)])
    top = np.linspace(0, np.pi, 8)[1:-1]  # a round apex over the gap between inner and outer edge
    low, high = _medial(body, body.apex), wall[0]
    distance = np.concatenate([distance, (low + high) / 2 - (high - low) / 2 * np.cos(top)])
    y = np.concatenate([down, dome_y, up, body.apex - 0.035 * np.sin(top)])
    return np.stack([0.5 + side * distance, y], axis=1)


def _dome(base: float, across: Points) -> Points:
    """Height of the diaphragm from the midline (0) to the costophrenic angle (1)."""
    return np.asarray(base + 0.045 * (1 - across) ** 2 + 0.09 * np.clip((across - 0.35) / 0.65, 0, 1) ** 2.2)


def _fluid(body: Anatomy, side: int, breath: float, depth: float) -> Points:
    """Fluid over the diaphragm, its surface rising to the chest wall (the meniscus)."""
    base = body.base[side > 0] + breath
    corner = base + 0.09
    across = np.linspace(0, 1, 32)
    surface = corner - depth * (0.55 + 0.75 * across**3)
    wet = surface < _dome(base, across)  # little fluid lies in the angle only
    across, surface = across[wet], surface[wet]
    top_x = 0.085 + across * (lateral(body, surface[-1], base) - 0.085)
    side_y = np.linspace(surface[-1], corner, 8)
    bottom_x = 0.085 + across[::-1] * (lateral(body, corner, base) - 0.085)
    distance = np.concatenate([top_x, lateral(body, side_y, base), bottom_x])
    y = np.concatenate([surface, side_y, _dome(base, across[::-1])])
    return np.stack([0.5 + side * distance, y], axis=1)


def _gap(body: Anatomy, side: int, depth: float, reach: float) -> Points:
    """Air between lung and chest wall: deepest at the apex, thinning down the wall."""
    base = body.base[side > 0]
    t = np.linspace(0, 1, 24)
    y = body.apex - 0.02 + t * reach * (base - body.apex)
    outer = lateral(body, y, base) - 0.004
    inner = np.maximum(outer - depth * (1 - t) ** 0.6, _medial(body, y))
    lower = y + 0.05 * (1 - t) * (depth / 0.1)
    outline_x = np.concatenate([outer, inner[::-1]])
    return np.stack([0.5 + side * outline_x, np.concatenate([y, lower[::-1]])], axis=1)


def heart(body: Anatomy, half_width: float) -> Points:
    """Two thirds to the patient's left, its long axis pointing down and left."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    reach = half_width * body.width
    x, y = np.cos(turn), np.sin(turn)
    wide = np.where(x > 0, 1.28, 0.72) * reach
    tall = (0.12 + 0.25 * reach) * np.where(y < 0, 1.35, 1.0)
    drop = body.heart_tilt * 0.09 * x  # the apex hangs lower
    return np.stack([0.5 + wide * x, body.heart_y + drop + tall * y], axis=1)


def trunk() -> Points:
    """The body's edge: neck, shoulders and flanks."""
    neck = [(0.09, -0.2), (0.10, 0.02), (0.16, 0.07)]
    return _mirror([*neck, (0.32, 0.10), (0.45, 0.16), (0.52, 0.26), (0.50, 0.5), (0.49, 1.2)])


def spine() -> Points:
    """The column, from top to bottom of the picture."""
    return _mirror([(0.036, -0.2), (0.036, 0.2), (0.045, 1.2)])


def mediastinum() -> Points:
    """Vessels and windpipe above the heart, widening down."""
    upper = [(0.052, 0.05), (0.058, 0.22), (0.072, 0.30), (0.070, 0.36)]
    return _mirror([*upper, (0.085, 0.46), (0.10, 0.62), (0.10, 0.75)])


def _mirror(half: list[tuple[float, float]]) -> Points:
    """Close an outline given by (distance from the midline, y)."""
    return np.array([(0.5 + x, y) for x, y in half] + [(0.5 - x, y) for x, y in reversed(half)])


def _vessel(rng: np.random.Generator, side: int) -> Points:
    """One branch from a hilum, fanning out and bending down a little."""
    angle, length = rng.uniform(-1.3, 1.4), rng.uniform(0.10, 0.22)
    along = np.linspace(0, 1, 6)
    bend = angle + rng.normal(0, 0.3) * along
    x = 0.5 + side * (0.095 + along * length * np.cos(bend))
    return np.stack([x, 0.45 + along * length * np.sin(bend)], axis=1)


def hilum(side: int) -> Points:
    """The root of one lung."""
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return np.stack([0.5 + side * 0.105 + 0.05 * np.cos(turn), 0.46 + 0.085 * np.sin(turn)], axis=1)


def _blob(rng: np.random.Generator, x: float, y: float, radius: float, rough: float) -> Points:
    turn = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    waves = sum(rng.normal() / k * np.cos(k * turn + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
    distance = radius * np.clip(1 + rough * waves, 0.5, 1.6)
    return np.stack([x + distance * np.cos(turn), y + distance * np.sin(turn) * 1.1], axis=1)
