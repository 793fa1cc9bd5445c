"""Heat maps as pictures: the radiograph, an overlay for each label, and the outline of what is known to be there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cxr.files import atomic_path, write_json
from cxr.metric.localisation import peak, scores
from cxr.metric.result import HEATMAPS

__all__ = ["Explained", "write_heatmaps"]

SHOWN_PX = 256  # side of a panel
OUTLINE = "#35e0ff"  # in no colour map that is used here

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Explained:
    """One test image and the maps of some of its labels.

    Attributes:
        image: uint8 (S, S).
        labels, probabilities: K of them, the most probable first.
        maps: (K, S, S), at least 0, in units of logit.
        regions: where a label is known to be, (S, S) each; a label may have none.
    """

    image_id: str
    image: npt.NDArray[np.uint8]
    true: tuple[str, ...]
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    maps: Floats
    regions: Mapping[str, Mask] = field(default_factory=dict)


def write_heatmaps(run: Path, explained: Sequence[Explained], facts: Mapping[str, Any]) -> Path:
    """Write figures/gradcam/<nn>.png and, last, gradcam.json with `facts` beside the images; return the latter's path.

    Pictures of an earlier call that this one does not write are removed.
    """
    listing = run / HEATMAPS
    folder = listing.parent
    listing.unlink(missing_ok=True)  # a folder without it is not finished
    for old in folder.glob("*.png"):
        old.unlink()
    images = []
    for number, one in enumerate(explained, start=1):
        file = f"{number:02d}.png"
        found = {
            label: scores(heat, one.regions[label])
            for label, heat in zip(one.labels, one.maps, strict=True)
            if label in one.regions
        }
        with atomic_path(folder / file) as temporary:
            _draw(one, found).savefig(temporary, format="png", metadata={"Software": None})
        images.append(
            {
                "file": file,
                "image_id": one.image_id,
                "true": list(one.true),
                "labels": list(one.labels),
                "probabilities": list(one.probabilities),
                "peaks": [float(m.max()) for m in one.maps],
                "localisation": found,
            }
        )
    write_json(listing, {**facts, "images": images})
    return listing


def _draw(one: Explained, found: Mapping[str, Mapping[str, float]]) -> Figure:
    """Return the radiograph and, beside it, an overlay for each label with its probability."""
    n = 1 + len(one.labels)
    figure = Figure(figsize=(2.1 * n, 2.75), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, n, squeeze=False)[0])
    gray = np.repeat(_enlarged(np.float32(1 / 255) * one.image.astype(np.float32))[..., None], 3, axis=2)
    panels[0].imshow(gray)
    panels[0].set_title("radiograph\n", fontsize=9)
    for region in one.regions.values():
        _outline(panels[0], region)
    for axes, label, p, heat in zip(panels[1:], one.labels, one.probabilities, one.maps, strict=True):
        highest = float(heat.max())
        strength = _enlarged(heat / highest if highest > 0 else heat)
        colour = colormaps["inferno"](strength)[..., :3]
        alpha = 0.65 * strength[..., None]
        axes.imshow((1 - alpha) * gray + alpha * colour)
        axes.set_title(
            f"{label}\np = {p:.3f}", fontsize=9, fontweight="bold" if label in one.true else "normal"
        )
        told = "no evidence for it" if highest <= 0 else f"largest {highest:.2g}"
        if label in one.regions:
            _outline(axes, one.regions[label])
            if (at := peak(heat)) is not None:
                row, column = ((c + 0.5) * SHOWN_PX / heat.shape[0] - 0.5 for c in at)
                axes.plot(column, row, "+", color=OUTLINE, markersize=8, markeredgewidth=1.4)
            hit = found[label]["pointing_tol3"] > 0
            told += f": {'hit' if hit else 'miss'}, {found[label]['energy_inside']:.0%} inside"
        axes.set_xlabel(told, fontsize=8)
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.title.set_parse_math(False)  # a class name may hold a $
    return figure


def _outline(axes: Axes, region: Mask) -> None:
    large = cv2.resize(region.astype(np.uint8), (SHOWN_PX, SHOWN_PX), interpolation=cv2.INTER_NEAREST)
    axes.contour(large, levels=[0.5], colors=[OUTLINE], linewidths=1.2)


def _enlarged(image: Floats) -> Floats:
    """Return a picture (S, S) in [0, 1] at the size of a panel."""
    shape = (SHOWN_PX, SHOWN_PX)
    how = cv2.INTER_CUBIC if image.shape[0] < SHOWN_PX else cv2.INTER_AREA
    return np.clip(cv2.resize(image, shape, interpolation=how), 0, 1).astype(np.float32)
