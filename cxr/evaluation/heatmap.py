"""Where a classifier looks: Grad-CAM (Selvaraju et al. 2017) of chosen test images, as figures and numbers.

The map of a class is ReLU(sum over channels of a_k A_k): A is the output of the network's `last_conv`, a_k the
mean over positions of the gradient of the class's logit with respect to A_k. The logit is explained, not the
probability: a sigmoid or softmax near 0 or 1 has next to no gradient, and the map would show rounding.

A map tells where evidence was found, not how much: each overlay is scaled by its own largest value, so the
probability stands above it, and a map that is zero everywhere says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from captum.attr import LayerAttribution, LayerGradCam
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from cxr.errors import UserError
from cxr.files import atomic_path, write_json
from cxr.metric.result import HEATMAPS, PROB, TARGET
from cxr.task.classifier import ClassifierTask

__all__ = ["METHOD", "Explained", "choose", "gradcam", "most_probable", "write_heatmaps"]

METHOD = "Grad-CAM of the logit, ReLU, bilinear, each map scaled by its own maximum"
N_LABELS = 4  # shown for each image, as in figures 7 and 8 of densenet14
SHOWN_PX = 256  # side of a panel
BATCH = 16  # images explained at once

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Explained:
    """One test image and the maps of its most probable labels.

    Attributes:
        image: uint8 (S, S).
        labels, probabilities: K of them, the most probable first.
        maps: (K, S, S), at least 0, in units of logit.
    """

    image_id: str
    image: npt.NDArray[np.uint8]
    true: tuple[str, ...]
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    maps: Floats


def choose(predictions: pd.DataFrame, classes: Sequence[str], n: int, *, multi_label: bool, seed: int) -> Any:
    """Return the positions (at most n,) of the rows of `predictions` to explain, ascending.

    The rows, by image id, are put into an order that only `seed` decides and the first n are taken; with
    independent labels, those that have at least one come before those that have none. Scores play no part.
    """
    order = np.argsort(predictions["image_id"].to_numpy().astype(str), kind="stable")
    order = np.random.default_rng(seed).permutation(order)
    if multi_label:
        positive = (predictions[[TARGET + c for c in classes]].to_numpy() == 1).any(axis=1)
        order = order[np.argsort(~positive[order], kind="stable")]
    return np.sort(order[:n])


def most_probable(predictions: pd.DataFrame, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return which classes (N, K) to show for each row: the four most probable, or all of fewer."""
    prob = predictions[[PROB + c for c in classes]].to_numpy()
    return np.argsort(-prob, axis=1, kind="stable")[:, :N_LABELS].astype(np.int64)


def gradcam(task: ClassifierTask, images: npt.NDArray[np.uint8], classes: npt.NDArray[np.int64]) -> Floats:
    """Return maps (N, K, S, S), at least 0, of the K classes of each of the images (N, S, S).

    The task is put into evaluation mode. A frozen backbone makes no graph; captum asks for the gradient at
    the feature map itself, so that only the head above it is differentiated.

    Raises:
        UserError: the network does not say where its last feature map is, or has none.
    """
    method = LayerGradCam(_class_logits(task), _last_map(task))
    task.eval()
    found = np.zeros((*classes.shape, *images.shape[1:]), dtype=np.float32)
    for first in range(0, len(images), BATCH):
        rows = slice(first, first + BATCH)
        batch = torch.from_numpy(np.ascontiguousarray(images[rows]))[:, None].to(task.device)
        for k, targets in enumerate(classes[rows].T.tolist()):
            small = method.attribute(batch, target=targets, relu_attributions=True)
            if small.ndim != 4:
                raise UserError(f"{_name(task)} has no feature map (B, C, h, w) to explain; set heatmaps=0")
            large = LayerAttribution.interpolate(small, tuple(images.shape[1:]), "bilinear")
            found[rows, k] = large[:, 0].detach().float().cpu().numpy()
    return found


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
        with atomic_path(folder / file) as temporary:
            _draw(one).savefig(temporary, format="png", metadata={"Software": None})
        images.append(
            {
                "file": file,
                "image_id": one.image_id,
                "true": list(one.true),
                "labels": list(one.labels),
                "probabilities": list(one.probabilities),
                "peaks": [float(m.max()) for m in one.maps],
            }
        )
    write_json(listing, {**facts, "images": images})
    return listing


def _name(task: ClassifierTask) -> str:
    return type(task.network).__name__


def _last_map(task: ClassifierTask) -> torch.nn.Module:
    """Return the module whose output is the last feature map."""
    name = getattr(task.network, "last_conv", None)
    if name is None:
        raise UserError(f"{_name(task)} has no last_conv, the layer that heat maps explain; set heatmaps=0")
    module: torch.nn.Module = task.network.get_submodule(str(name))
    return module


def _class_logits(task: ClassifierTask) -> Any:
    """Return a function from uint8 images (B, 1, S, S) to one logit per class (B, n_classes)."""

    def logits(images: Tensor) -> Tensor:
        found: Tensor = task(images)
        if found.shape[1] < len(task.classes):  # one output: it speaks for the second class
            found = torch.cat([-found, found], dim=1)
        return found

    return logits


def _draw(one: Explained) -> Figure:
    """Return the radiograph and, beside it, an overlay for each label with its probability."""
    n = 1 + len(one.labels)
    figure = Figure(figsize=(2.1 * n, 2.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, n, squeeze=False)[0])
    gray = np.repeat(_enlarged(np.float32(1 / 255) * one.image.astype(np.float32))[..., None], 3, axis=2)
    panels[0].imshow(gray)
    panels[0].set_title("radiograph", fontsize=9)
    for axes, label, p, heat in zip(panels[1:], one.labels, one.probabilities, one.maps, strict=True):
        peak = float(heat.max())
        strength = _enlarged(heat / peak if peak > 0 else heat)
        colour = colormaps["inferno"](strength)[..., :3]
        alpha = 0.65 * strength[..., None]
        axes.imshow((1 - alpha) * gray + alpha * colour)
        axes.set_title(
            f"{label}\np = {p:.3f}", fontsize=9, fontweight="bold" if label in one.true else "normal"
        )
        if peak <= 0:
            axes.set_xlabel("no evidence for it", fontsize=8)
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.title.set_parse_math(False)  # a class name may hold a $
    return figure


def _enlarged(image: Floats) -> Floats:
    """Return a picture (S, S) in [0, 1] at the size of a panel."""
    shape = (SHOWN_PX, SHOWN_PX)
    how = cv2.INTER_CUBIC if image.shape[0] < SHOWN_PX else cv2.INTER_AREA
    return np.clip(cv2.resize(image, shape, interpolation=how), 0, 1).astype(np.float32)
