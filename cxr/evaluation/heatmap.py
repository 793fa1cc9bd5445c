"""Where a classifier looks: Grad-CAM (Selvaraju et al. 2017) of chosen test images.

The map of a class is ReLU(sum over channels of a_k A_k): A is the output of one layer, a_k the mean over
positions of the gradient of the class's logit with respect to A_k. The logit is explained, not the probability:
a sigmoid or softmax near 0 or 1 has next to no gradient, and the map would show rounding.

Which layer: the network's `last_conv`, the last maps (B, C, h, w) that still have positions. By rule: our own
networks name their last convolution or last block, a timm backbone what its `forward_features` returns. CliqueNet
reads out all four blocks: its last is explained, what the first three add to a logit is not seen.

captum computes the gradients, and it handles all our networks: tests/evaluation/test_zoo.py compares each with
torch.autograd. What could go wrong, and why it does not: it asks for the gradient at the layer's output, so a
frozen backbone needs no graph below it; it hands a copy of that output on, so an in-place ReLU behind it
(DenseNet's) changes nothing. Only a layer inside a frozen backbone has no gradient to give, and is refused.

What it cannot do: a_k is one number for a whole channel, which is exact where the head averages over positions (ACRnet,
CliqueNet, InceptionV2, backbones under most heads). Where it flattens them (the CNNs of talukdar, covidgan and salehinejad,
the heads `talukdar` and `covidgan_vgg16`), a channel may speak for a class here and against it there, and the map
may point elsewhere than the network looks (Draelos, Carin 2020). That is why maps are scored: on phantoms the
talukdar CNN told opacities with an AUROC of .99 while its maps lay on the spine.

A map tells where evidence was found, not how much: each overlay is scaled by its own largest value, so the
probability and that value stand beside it, and a map that is zero everywhere says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch import Tensor

from cxr.errors import UserError, did_you_mean
from cxr.metric.result import PROB, TARGET
from cxr.task.classifier import ClassifierTask

__all__ = ["METHOD", "choose", "coarse_maps", "enlarged", "gradcam", "layer_name", "most_probable"]

METHOD = "Grad-CAM of the logit, ReLU, bilinear, each map scaled by its own maximum"
N_LABELS = 4  # shown for each image, as in figures 7 and 8 of densenet14
NO_GRADIENT = ("does not require grad", "not have been used in the graph")  # as torch says it
BATCH = 16  # images explained at once

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def choose(
    predictions: pd.DataFrame,
    classes: Sequence[str],
    n: int,
    *,
    multi_label: bool,
    seed: int,
    first: Mask | None = None,
) -> Any:
    """Return the positions (at most n,) of the rows of `predictions` to explain, ascending.

    The rows, by image id, are put into an order that only `seed` decides and the first n are taken; those marked
    in `first` (N,) come before the others and, with independent labels, those that have at least one before those
    that have none. Scores play no part.
    """
    order = np.argsort(predictions["image_id"].to_numpy().astype(str), kind="stable")
    order = np.random.default_rng(seed).permutation(order)
    if multi_label:
        positive = (predictions[[TARGET + c for c in classes]].to_numpy() == 1).any(axis=1)
        order = order[np.argsort(~positive[order], kind="stable")]
    if first is not None:
        order = order[np.argsort(~first[order], kind="stable")]
    return np.sort(order[:n])


def most_probable(
    predictions: pd.DataFrame, classes: Sequence[str], first: Mask | None = None
) -> npt.NDArray[np.int64]:
    """Return which classes (N, K) to show for each row, the most probable first: four, or all of fewer.

    Those marked in `first` (N, C) are among them, whatever their probability.
    """
    prob = predictions[[PROB + c for c in classes]].to_numpy()
    order = np.argsort(-prob, axis=1, kind="stable")
    if first is not None:
        wanted = np.take_along_axis(first, order, axis=1)
        order = np.take_along_axis(order, np.argsort(~wanted, axis=1, kind="stable"), axis=1)
    order = np.sort(order[:, :N_LABELS], axis=1)
    by_prob = np.argsort(-np.take_along_axis(prob, order, axis=1), axis=1, kind="stable")
    return np.take_along_axis(order, by_prob, axis=1).astype(np.int64)


def gradcam(
    task: ClassifierTask,
    images: npt.NDArray[np.uint8],
    classes: npt.NDArray[np.int64],
    layer: str | None = None,
) -> Floats:
    """Return maps (N, K, S, S), at least 0, of the K classes of each of the images (N, S, S); see `coarse_maps`."""
    return enlarged(coarse_maps(task, images, classes, layer), int(images.shape[1]))


def coarse_maps(
    task: ClassifierTask,
    images: npt.NDArray[np.uint8],
    classes: npt.NDArray[np.int64],
    layer: str | None = None,
) -> Floats:
    """Return maps (N, K, h, w), at least 0, in the layer's own resolution, of images (N, S, S) and classes (N, K).

    The task is put into evaluation mode.

    Args:
        layer: name of a module of the network (as `named_modules` has it); None: its `last_conv`.

    Raises:
        UserError: there is no such layer, its output has no positions, or it lies in a frozen part.
    """
    name = layer_name(task, layer)
    method = LayerGradCam(_class_logits(task), task.network.get_submodule(name))
    task.eval()
    found: list[npt.NDArray[Any]] = []
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        batch = torch.from_numpy(np.ascontiguousarray(images[rows]))[:, None].to(task.device)
        columns = []
        for targets in classes[rows].T.tolist():
            try:
                small = method.attribute(batch, target=targets, relu_attributions=True)
            except RuntimeError as error:
                if not any(told in str(error) for told in NO_GRADIENT):
                    raise
                raise UserError(
                    f"heatmap_layer: {_name(task)}.{name} lies in the frozen part, which has no gradients; "
                    f"expected e.g. {task.network.last_conv}: set heatmap_layer=null"
                ) from None
            if small.ndim != 4:
                raise UserError(
                    f"{_name(task)}.{name} has no feature map (B, C, h, w) to explain; "
                    "set heatmap_layer=… to a layer that has, or heatmaps=0 localisation=false"
                )
            columns.append(small[:, 0].detach().float().cpu().numpy())
        found.append(np.stack(columns, axis=1))
    return np.concatenate(found).astype(np.float32) if found else np.zeros((*classes.shape, 1, 1), np.float32)


def enlarged(maps: Floats, size_px: int) -> Floats:
    """Return maps (…, h, w) as (…, size_px, size_px), bilinearly."""
    flat = torch.from_numpy(np.ascontiguousarray(maps)).flatten(0, -3)[:, None]
    if not len(flat):
        return np.zeros((*maps.shape[:-2], size_px, size_px), np.float32)
    large = LayerAttribution.interpolate(flat, (size_px, size_px), "bilinear")
    return np.asarray(large.reshape(*maps.shape[:-2], size_px, size_px).numpy(), dtype=np.float32)


def layer_name(task: ClassifierTask, layer: str | None) -> str:
    """Return the name of the module to explain, `last_conv` if none is asked for."""
    name = layer if layer is not None else getattr(task.network, "last_conv", None)
    if name is None:
        raise UserError(
            f"{_name(task)} has no last_conv, the layer that heat maps explain; "
            "set heatmap_layer=… to one of its modules, or heatmaps=0 localisation=false"
        )
    known = [module for module, _ in task.network.named_modules() if module]
    if name not in known:
        raise UserError(f"heatmap_layer: {_name(task)} has no module '{name}'{did_you_mean(name, known)}")
    return str(name)


def _name(task: ClassifierTask) -> str:
    return type(task.network).__name__


def _class_logits(task: ClassifierTask) -> Any:
    """Return a function from uint8 images (B, 1, S, S) to one logit per class (B, n_classes)."""

    def logits(images: Tensor) -> Tensor:
        found: Tensor = task(images)
        if found.shape[1] < len(task.classes):  # one output: it speaks for the second class
            found = torch.cat([-found, found], dim=1)
        return found

    return logits
