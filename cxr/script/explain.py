"""Make the heat maps of an evaluated run, and score them: figures/gradcam/ in its folder.

<nn>.png             a radiograph and its maps
localisation.json    where asked for: whether maps lie where findings are, over all test images that have a region
gradcam.json         what the pictures show, and the scores in short; written last
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from cxr.config import build
from cxr.data.box import Regions, find_regions
from cxr.data.index import DatasetNotFound
from cxr.errors import UserError
from cxr.evaluation.heatmap import METHOD, choose, gradcam, layer_name, most_probable
from cxr.evaluation.localisation import LOCALISATION, localise
from cxr.evaluation.overlay import Explained, write_heatmaps
from cxr.files import read_json, write_json
from cxr.metric.result import HEATMAPS, read_predictions, tables
from cxr.script.predict import finished_classifier, load_task, prepare_as_trained
from cxr.script.prepare import Prepared

__all__ = ["describe", "explain_run"]


def explain_run(
    run_dir: Path,
    record: dict[str, Any],
    *,
    n: int,
    localisation: bool,
    layer: str | None,
    n_resamples: int,
    seed: int,
    accelerator: Literal["auto", "cpu", "gpu"],
    data_root: Path | None,
) -> Path:
    """Explain `n` test images of a run by Grad-CAM, unless the same was done; return the path of gradcam.json.

    Which images is said in `cxr.evaluation.heatmap.choose`; probabilities are those of predictions.parquet.

    Args:
        record: the run's result, as `evaluate_run` returned it.
        localisation: score the maps of all test images that have a box or mask of a label the run knows; these
            images are then the first to be shown. Where none has, a warning says so.
        layer: the module of the network to explain; None: its last feature map.
        n_resamples: of patients, behind each interval.

    Raises:
        UserError: `n` is negative, or the network has no such feature map.
    """
    if n < 0:
        raise UserError(f"heatmaps: got {n}, expected 0 or more; set heatmaps=0 for none")
    config, checkpoint = finished_classifier(run_dir, record["protocol"]["checkpoint"], data_root)
    asked = {
        "run": record["run"],
        "checkpoint": record["checkpoint"],
        "asked": n,
        "asked_layer": layer,
        "scored": localisation,
        "n_resamples": n_resamples if localisation else None,
        "seed": seed,
        "method": METHOD,
    }
    listing, scored = run_dir / HEATMAPS, run_dir / LOCALISATION
    if listing.is_file() and scored.is_file() == localisation:
        done = read_json(listing)
        if asked.items() <= done.items() and not done["warnings"]:  # boxes may be there by now
            return listing
    classes = list(record["classes"])
    frame = read_predictions(run_dir, classes)
    prepared = prepare_as_trained(run_dir, config)[0]
    task = load_task(config, checkpoint)
    task.to("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    facts: dict[str, Any] = {**asked, "layer": f"{type(task.network).__name__}.{layer_name(task, layer)}"}
    regions, facts["warnings"] = (
        _regions(config, prepared, frame["row"].to_numpy()) if localisation else (None, [])
    )
    known = np.zeros((len(frame), len(classes)), np.bool_)
    facts["localisation"] = None
    if regions is not None:
        at = np.searchsorted(frame["row"].to_numpy(), regions.rows)
        known[at, regions.labels] = True
        patients = tables(frame.iloc[at], classes)[2]
        found = localise(
            task,
            np.asarray(prepared.cached.images[regions.rows]),
            regions,
            patients,
            [str(one) for one in frame["image_id"].iloc[at]],
            layer=layer,
            n_resamples=n_resamples,
            seed=seed,
        )
        facts["localisation"] = {key: value for key, value in found.items() if key != "cases"}
        write_json(scored, {**facts, "localisation": found})
    elif localisation:
        write_json(scored, facts)
    else:
        scored.unlink(missing_ok=True)
    multi_label = bool(record["protocol"]["multi_label"])
    chosen = choose(
        frame, classes, n, multi_label=multi_label, seed=seed, first=np.asarray(known.any(axis=1))
    )
    frame, known = frame.iloc[chosen], known[chosen]
    target, prob, _ = tables(frame, classes)
    shown = most_probable(frame, classes, known)
    images = np.asarray(prepared.cached.images[frame["row"].to_numpy()])
    maps = gradcam(task, images, shown, layer)
    explained = [
        Explained(
            image_id=str(frame["image_id"].iloc[i]),
            image=images[i],
            true=tuple(name for name, value in zip(classes, target[i], strict=True) if value == 1),
            labels=tuple(classes[c] for c in shown[i]),
            probabilities=tuple(float(prob[i, c]) for c in shown[i]),
            maps=maps[i],
            regions=_known_to_be(regions, int(frame["row"].iloc[i]), classes),
        )
        for i in range(len(frame))
    ]
    return write_heatmaps(run_dir, explained, facts)


def describe(listing: Path) -> list[str]:
    """Return what to print of gradcam.json: where it is, what is lacking, and the pointing game's result."""
    facts = read_json(listing)
    lines = [f"heat maps: {listing}", *(f"warning: {text}" for text in facts["warnings"])]
    if facts["localisation"] is not None:
        whole = facts["localisation"]["all"]
        score = whole["scores"]["pointing_tol3"]
        spread = "no interval" if score["low"] is None else f"[{score['low']:.3f}, {score['high']:.3f}]"
        other = "n/a" if score["other_image"] is None else f"{score['other_image']:.3f}"
        lines.append(
            f"pointing game: {score['value']:.3f} {spread}, by a random point {score['uniform']:.3f}, the image's "
            f"centre {score['centre']:.3f}, another patient's map {other}  (n = {whole['n_maps']} maps of "
            f"{whole['n_images']} images, {whole['n_patients']} patients; {listing.with_name('localisation.json')})"
        )
    return lines


def _regions(config: dict[str, Any], prepared: Prepared, rows: Any) -> tuple[Regions | None, list[str]]:
    """Return the regions of the test images `rows`, or None and the reason."""
    source, cache = build(config["data"]), config["cache"]
    try:
        found = find_regions(
            source, prepared.cached.index, rows, prepared.classes, int(cache["size_px"]), cache["fit"]
        )
    except DatasetNotFound as error:
        return None, [f"heat maps are not scored: {error}"]
    if found is None:
        return None, [f"heat maps are not scored: data set {source.name} has no boxes and no masks"]
    if not len(found.rows):
        labels = ", ".join(prepared.classes)
        return None, [f"heat maps are not scored: none of the {len(rows)} test images has a box of {labels}"]
    return found, []


def _known_to_be(regions: Regions | None, row: int, classes: list[str]) -> dict[str, Any]:
    """Return the masks of one image by label."""
    if regions is None:
        return {}
    return {classes[regions.labels[k]]: regions.masks[k] for k in np.flatnonzero(regions.rows == row)}
