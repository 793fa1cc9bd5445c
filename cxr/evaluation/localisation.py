"""Score the heat maps of all test images whose findings have a known place: `cxr.metric.localisation` over a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.data.box import Regions
from cxr.evaluation.heatmap import coarse_maps, enlarged
from cxr.metric.interval import INTERVAL
from cxr.metric.localisation import BASELINES, SCORES, baselines, peak, scores, summarise
from cxr.task.classifier import ClassifierTask

__all__ = ["LOCALISATION", "localise"]

LOCALISATION = "figures/gradcam/localisation.json"
OTHERS = 5  # maps of other patients' images that a map is compared with
PROTOCOL = {
    "pointing_tol3": "pointing game: the map's maximum lies in the region or within 3 % of the image's side of it",
    "iou_at50": "intersection over union of the region and the positions with at least 50 % of the map's maximum",
    "energy_inside": "share of the map's sum inside the region",
    "uniform": "a point at random; the whole image marked; energy everywhere alike",
    "centre": "a bell curve in the middle of the image, standard deviation a quarter of its side",
    "other_image": f"the network's own maps, for the same label, of up to {OTHERS} other patients' images",
    "unit": "one map per image and label that has a region (several boxes: their union); mean over maps",
    "interval": INTERVAL,
}


def localise(
    task: ClassifierTask,
    images: npt.NDArray[np.uint8],
    regions: Regions,
    patients: Sequence[str | None],
    image_ids: Sequence[str],
    *,
    layer: str | None,
    n_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Return the scores of each label and of all together, and those of every map.

    Args:
        images: (K, S, S), the image of each region; `patients` and `image_ids` go with it.
        layer: see `cxr.evaluation.heatmap`.
        seed: of the resamples and of which other images a map is compared with.
    """
    small = coarse_maps(task, images, regions.labels[:, None], layer)[:, 0]
    size_px = int(images.shape[1])
    who = [p or f"image {image_id}" for p, image_id in zip(patients, image_ids, strict=True)]
    partners = _others(regions.labels, who, seed)
    found, beside, cases = [], [], []
    for k, region in enumerate(regions.masks):
        heat, *others = enlarged(small[[k, *partners[k]]], size_px)
        own = scores(heat, region)
        theirs = [scores(other, region) for other in others]
        other = {s: float(np.mean([t[s] for t in theirs])) if theirs else float("nan") for s in SCORES}
        found.append(own)
        beside.append({**baselines(region), "other_image": other})
        cases.append(
            {
                "image_id": image_ids[k],
                "patient_id": patients[k],
                "label": task.classes[int(regions.labels[k])],
                "region_share": float(region.mean()),
                "peak": peak(heat),
                "empty": not heat.max() > 0,
                **own,
            }
        )

    def told(chosen: npt.NDArray[np.int64]) -> dict[str, Any]:
        return {
            "n_maps": len(chosen),
            "n_images": len({image_ids[k] for k in chosen.tolist()}),
            "n_patients": len({who[k] for k in chosen.tolist()}),
            "n_empty": sum(cases[k]["empty"] for k in chosen.tolist()),
            "scores": summarise(
                {s: [found[k][s] for k in chosen.tolist()] for s in SCORES},
                {b: {s: [beside[k][b][s] for k in chosen.tolist()] for s in SCORES} for b in BASELINES},
                [who[k] for k in chosen.tolist()],
                n_resamples=n_resamples,
                seed=seed,
            ),
        }

    labels = {
        task.classes[int(at)]: told(np.flatnonzero(regions.labels == at)) for at in np.unique(regions.labels)
    }
    return {
        "regions": regions.kind,
        "map_positions": list(small.shape[1:]),
        "n_outside": regions.n_outside,
        "n_resamples": n_resamples,
        "protocol": PROTOCOL,
        "all": told(np.arange(len(cases))),
        "labels": labels,
        "cases": cases,
    }


def _others(labels: npt.NDArray[np.int64], who: Sequence[str], seed: int) -> list[list[int]]:
    """Return for each map up to `OTHERS` maps of its label that are of another patient, drawn by `seed`."""
    rng = np.random.default_rng(seed)
    chosen = []
    for k, label in enumerate(labels):
        others = [int(j) for j in np.flatnonzero(labels == label) if who[int(j)] != who[k]]
        drawn = rng.permutation(len(others))[:OTHERS]
        chosen.append(sorted(others[int(d)] for d in drawn))
    return chosen
