"""Make the heat maps of an evaluated run: figures/gradcam/<nn>.png and gradcam.json in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from cxr.errors import UserError
from cxr.evaluation.heatmap import (
    METHOD,
    Explained,
    choose,
    gradcam,
    most_probable,
    write_heatmaps,
)
from cxr.files import read_json
from cxr.metric.result import HEATMAPS, read_predictions, tables
from cxr.script.predict import finished_classifier, load_task, prepare_as_trained

__all__ = ["explain_run"]


def explain_run(
    run_dir: Path,
    record: dict[str, Any],
    *,
    n: int,
    seed: int,
    accelerator: Literal["auto", "cpu", "gpu"],
    data_root: Path | None,
) -> Path:
    """Explain `n` test images of a run by Grad-CAM, unless the same was done; return the path of gradcam.json.

    Which images is said in `cxr.evaluation.heatmap.choose`; probabilities are those of predictions.parquet.

    Args:
        record: the run's result, as `evaluate_run` returned it.

    Raises:
        UserError: `n` is negative, or the network has no feature map.
    """
    if n < 0:
        raise UserError(f"heatmaps: got {n}, expected 0 or more; set heatmaps=0 for none")
    config, checkpoint = finished_classifier(run_dir, record["protocol"]["checkpoint"], data_root)
    asked = {
        "run": record["run"],
        "checkpoint": record["checkpoint"],
        "asked": n,
        "seed": seed,
        "method": METHOD,
    }
    listing = run_dir / HEATMAPS
    if listing.is_file() and asked.items() <= read_json(listing).items():
        return listing
    classes = list(record["classes"])
    frame = read_predictions(run_dir, classes)
    chosen = choose(frame, classes, n, multi_label=bool(record["protocol"]["multi_label"]), seed=seed)
    frame = frame.iloc[chosen]
    target, prob, _ = tables(frame, classes)
    shown = most_probable(frame, classes)
    images = prepare_as_trained(run_dir, config)[0].cached.images[frame["row"].to_numpy()]
    task = load_task(config, checkpoint)
    task.to("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    maps = gradcam(task, np.asarray(images), shown)
    explained = [
        Explained(
            image_id=str(frame["image_id"].iloc[i]),
            image=images[i],
            true=tuple(name for name, value in zip(classes, target[i], strict=True) if value == 1),
            labels=tuple(classes[c] for c in shown[i]),
            probabilities=tuple(float(prob[i, c]) for c in shown[i]),
            maps=maps[i],
        )
        for i in range(len(frame))
    ]
    layer = f"{type(task.network).__name__}.{task.network.last_conv}"
    return write_heatmaps(run_dir, explained, {**asked, "layer": layer})
