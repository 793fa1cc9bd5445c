"""An evaluated run as a W&B run: scores with intervals, curves, confusion, its worst errors; what it judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.data.picture import tile, write_png
from cxr.metric.result import read_predictions, tables
from cxr.run import read_config
from cxr.share import Ids
from cxr.tracking import artifact
from cxr.tracking.connect import begin, tracked
from cxr.tracking.curve import confusion_table, curves, write_csv
from cxr.tracking.identity import group_of, job_type, remembered, tags
from cxr.tracking.settings import Wandb
from cxr.tracking.worst import worst_errors

if TYPE_CHECKING:
    from wandb import Run

__all__ = ["FOLDER", "log_evaluation"]

FOLDER = "figures/wandb"  # of the run: every curve, table and picture that was logged
THUMBNAIL_PX = 128
COLUMNS = 8  # of the contact sheet
FACTS = (
    *("protocol", "checkpoint", "split_fingerprint", "split_name", "counts"),
    *("training", "departures", "leakage"),
)  # of result.json

Pixels = npt.NDArray[np.uint8]


def log_evaluation(
    settings: Wandb, run_dir: Path, record: Mapping[str, Any], images: Callable[[], Pixels] | None
) -> None:
    """Log the result of a run; leaves what it logs in `run_dir`/figures/wandb, too.

    Args:
        record: `result.json`.
        images: returns all cached images (N, S, S) uint8, of which the worst errors are shown by row; None: no
            thumbnails. Called only where there is an error to show.
    """
    config, out = read_config(run_dir), run_dir / FOLDER
    shown = Ids(run_dir.parent, settings.share_ids)
    roc, pr, confusion, worst = _tables(run_dir, record, settings.worst_errors)
    worst["image_id"] = [shown(one) for one in worst["image_id"]]
    for kind, table in {"roc": roc, "pr": pr, "confusion": confusion, "worst_errors": worst}.items():
        write_csv(out / f"{kind}.csv", table)
    thumbnails = _thumbnails(images(), worst) if images is not None and len(worst) else None
    if thumbnails is not None:
        write_png(out / "worst_errors.png", tile(np.stack(thumbnails), COLUMNS))
    run = begin(
        settings,
        folder=run_dir,
        kind="evaluate",
        key=record["config_hash"],
        group=group_of(settings.group, config, remembered(run_dir, job_type(config))),
        tags=tags(config),
        config={
            **config,
            "evaluation": {key: record[key] for key in FACTS},
        },
    )
    with tracked(run):
        if not run.disabled and not run.offline and thumbnails is not None:
            print(
                f"W&B: {len(thumbnails)} thumbnails of test images are uploaded; logger.worst_errors=0 sends none"
            )
        facts = {"config_hash": record["config_hash"], "classes": record["classes"]}
        used = artifact.checkpoint_artifact(run_dir, job_type(config), settings.artifacts, facts)
        artifact.use(run, used)
        _log_charts(run, record, roc, pr, confusion)
        if len(worst):
            run.log({"worst_errors": _worst_table(worst, thumbnails)})
        for name, score in record["metrics"].items():
            run.summary[f"test/{name}"] = dict(score)  # value, low, high, n, n_patients
        run.summary["interval"] = record["protocol"]["interval"]
        run.summary["warnings"] = list(record["warnings"])


def _tables(
    run_dir: Path, record: Mapping[str, Any], k: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    classes, protocol = record["classes"], record["protocol"]
    predictions = read_predictions(run_dir, classes)
    target, prob, _ = tables(predictions, classes)
    multi_label = bool(protocol["multi_label"])
    roc, pr = curves(target, prob, classes, multi_label=multi_label)
    threshold = float(protocol["threshold"])
    worst = worst_errors(predictions, classes, k, multi_label=multi_label, threshold=threshold)
    return roc, pr, confusion_table(record["confusion"], classes), worst


def _log_charts(
    run: Run, record: Mapping[str, Any], roc: pd.DataFrame, pr: pd.DataFrame, confusion: pd.DataFrame
) -> None:
    """Log the charts that W&B draws itself, by the presets behind `wandb.plot`, from our own numbers.

    `wandb.plot.roc_curve` and its like compute the curve again, rounded to three digits, from arrays of one class each.
    """
    import wandb

    charts = {
        "roc": (
            roc,
            "wandb/area-under-curve/v0",
            ("fpr", "tpr"),
            ("1 − specificity", "sensitivity"),
            "auroc",
        ),
        "pr": (pr, "wandb/area-under-curve/v0", ("recall", "precision"), ("recall", "precision"), "auprc"),
    }
    logged: dict[str, Any] = {}
    for name, (table, preset, (x, y), (x_title, y_title), score) in charts.items():
        if len(table):
            logged[name] = wandb.plot_table(
                preset,
                wandb.Table(columns=list(table.columns), data=table.to_numpy().tolist()),
                {"x": x, "y": y, "class": "class"},
                {
                    "title": _title(record, score, table["class"].unique()),
                    "x-axis-title": x_title,
                    "y-axis-title": y_title,
                },
            )
    if len(confusion):
        logged["confusion"] = wandb.plot_table(
            "wandb/confusion_matrix/v1",
            wandb.Table(columns=list(confusion.columns), data=confusion.to_numpy().tolist()),
            {name: name for name in confusion.columns},
            {
                "title": f"Test images, threshold {record['protocol']['threshold']:g}, n = {int(confusion['nPredictions'].sum())}"
            },
        )
    if logged:
        run.log(logged)


def _title(record: Mapping[str, Any], score: str, drawn: Any) -> str:
    """Return a chart's title: the area with its interval and n, where one class is drawn."""
    found = record["metrics"].get(f"{score}/{drawn[0]}")
    if len(drawn) > 1 or not found or found["value"] is None:
        return f"{score.upper()} of {len(drawn)} classes: see the summary"
    spread = "" if found["low"] is None else f" [{found['low']:.3f}, {found['high']:.3f}]"
    return f"{drawn[0]}: {score.upper()} {found['value']:.3f}{spread}, n = {found['n']}, {record['protocol']['interval']}"


def _thumbnails(images: Pixels, worst: pd.DataFrame) -> list[Pixels]:
    """Return uint8 pictures of at most THUMBNAIL_PX a side, in the order of the table."""
    side = min(int(images.shape[1]), THUMBNAIL_PX)
    return [
        np.asarray(cv2.resize(np.asarray(images[row]), (side, side), interpolation=cv2.INTER_AREA), np.uint8)
        for row in worst["row"]
    ]


def _worst_table(worst: pd.DataFrame, thumbnails: list[Pixels] | None) -> Any:
    import wandb

    columns: list[str | int] = [str(name) for name in worst.columns]
    data = worst.to_numpy().tolist()
    if thumbnails is not None:
        columns = ["image", *columns]
        data = [[wandb.Image(picture), *row] for picture, row in zip(thumbnails, data, strict=True)]
    return wandb.Table(columns=columns, data=data)
