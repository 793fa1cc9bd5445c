"""The closest pairs as a picture: image, nearest training image, what is left of their difference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cxr.evaluation.memorisation import Pair
from cxr.files import atomic_path
from cxr.metric.alignment import SIZE_PX, best_window, normalised

__all__ = ["draw_pairs", "residual"]

ACROSS = 2  # pairs beside each other
RANGE = 64  # gray levels at which the difference is fully red or blue


def residual(image: npt.NDArray[np.uint8], nearest: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return image - nearest (S, S) in gray levels, once `nearest` is moved and its contrast fitted to the image.

    Moved by the shift of the distance, in steps of a 64th of the side; gain and offset by least squares; NaN where the
    moved image does not reach. Of a copy next to nothing is left, of another patient the ribs are.
    """
    size = len(image)
    a, b = normalised(np.stack([image, nearest]))
    dy, dx = (round(step * size / SIZE_PX) for step in best_window(a, b))
    moved = np.full((size, size), np.nan, np.float32)
    to_y, to_x = (slice(max(d, 0), size + min(d, 0)) for d in (dy, dx))
    from_y, from_x = (slice(max(-d, 0), size + min(-d, 0)) for d in (dy, dx))
    moved[to_y, to_x] = nearest[from_y, from_x]
    known = np.isfinite(moved)
    level = np.stack([moved[known], np.ones(int(known.sum()), np.float32)], axis=1)
    gain, offset = np.linalg.lstsq(level, image[known].astype(np.float32), rcond=None)[0]
    return np.asarray(image - (gain * moved + offset), np.float32)


def draw_pairs(pairs: Sequence[Pair], target: Path, training: str) -> None:
    """Write the PNG: synthetic pairs first, then held-out real ones as yardstick; whole or not at all."""
    made, real = [p for p in pairs if p.synthetic], [p for p in pairs if not p.synthetic]
    lines = -(-len(made) // ACROSS) + -(-len(real) // ACROSS)
    figure = Figure(figsize=(5.1 * ACROSS, 2.15 * lines + 0.3), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, 3 * ACROSS, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    line = 0
    for part in (made, real):
        for number, pair in enumerate(part):
            place = axes[line + number // ACROSS][3 * (number % ACROSS) :][:3]
            _draw(place, pair, training)
        line += -(-len(part) // ACROSS)
    figure.subplots_adjust(
        left=0.01, right=0.99, bottom=0.01, top=1 - 0.55 / (2.15 * lines + 0.3), wspace=0.04, hspace=0.36
    )
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png")


def _draw(axes: npt.NDArray[np.object_], pair: Pair, training: str) -> None:
    side = max(len(pair.image), 128)
    shown = [
        cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in (pair.image, pair.nearest)
    ]
    kind = "synthetic" if pair.synthetic else "held-out real"
    titles = (
        f"{kind}\n{_short(pair.image_id)}",
        f"nearest of {training}\n{_short(pair.nearest_id)}",
        f"distance {pair.distance:.3f}\nrelative {pair.relative:.2f}, p {pair.p_value:.3f}",
    )
    for ax, one in zip(axes[:2], shown, strict=True):
        ax.imshow(one, cmap="gray", vmin=0, vmax=255)
    axes[2].set_facecolor("0.8")
    axes[2].imshow(residual(pair.image, pair.nearest), cmap="RdBu_r", vmin=-RANGE, vmax=RANGE)
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=7, pad=3)


def _short(name: str, longest: int = 26) -> str:
    """Return the end of a name, which tells images apart."""
    return name if len(name) <= longest else f"…{name[1 - longest :]}"
