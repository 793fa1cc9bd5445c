"""From a table of predictions and the facts of a run to its result: scores, intervals, warnings, files.

Running the network is not done here. The format itself is in `cxr.metric.result`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from cxr.evaluation.finding import lacking_warnings, one_class_warning, operating_points
from cxr.files import atomic_path, write_json
from cxr.metric.bootstrap import INTERVAL, draw_patients, estimate
from cxr.metric.classification import confusion_matrix
from cxr.metric.result import (
    PREDICTIONS,
    RESULT,
    SCHEMA,
    VALIDATION,
    check_predictions,
    check_result,
    read_predictions,
    read_result,
    tables,
)

__all__ = [
    "RunFacts",
    "build_record",
    "check_predictions",
    "check_result",
    "lacking_warnings",
    "one_class_warning",
    "read_predictions",
    "read_result",
    "write_result",
]


@dataclass(frozen=True)
class RunFacts:
    """What a result says about the run that made it, beside its scores.

    Attributes:
        weights: what the network started from: "scratch", "pretrained", or "random" when layers that the
            recipe takes as pretrained (a frozen backbone) hold random values; the report marks "random".
        counts: {"train": {class: {"real": n, "synthetic": n, "duplicated": n}}, "val": {class: n},
            "test": {class: n}}.
        wall_s: seconds that training took.
        leakage: None, or what the leak guard was told to let pass.
        protocol: facts that make scores comparable (image size, choice of checkpoint, …); added to ours.
        warnings: whatever training or loading found.
        kfold: of which cross-validation `fold` is one (see `cxr.data.split.Split`); None without folds.
        training: how long and on how much it trained: {"epochs", "max_epochs", "images", …}; and "accuracy" and
            "loss" of its last epoch, running means while it trained, as Keras prints them. The two become
            the scores train_accuracy and train_loss; n is the training images and they have no interval.
        departures: "key: experiment → run" for each value that is not the experiment file's; None: not known.
    """

    run: str
    paper: str | None
    experiment: str | None
    arm: str
    model: str
    weights: str | None
    seed: int
    fold: int | None
    config_hash: str
    split_fingerprint: str
    split_name: str
    checkpoint_file: str
    checkpoint_sha256: str
    counts: Mapping[str, Mapping[str, Any]]
    wall_s: float
    leakage: str | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    kfold: Mapping[str, Any] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    departures: tuple[str, ...] | None = ()


def build_record(
    predictions: pd.DataFrame,
    facts: RunFacts,
    *,
    classes: Sequence[str],
    multi_label: bool = False,
    threshold: float = 0.5,
    at_specificity: float = 0.9,
    n_resamples: int = 2000,
    bootstrap_seed: int = 0,
    validation: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Score a table of predictions and return the record that `result.json` holds.

    Args:
        predictions: columns row, image_id, patient_id, view, source, target:<class>, prob:<class>; one row per
            test image.
        at_specificity: in (0, 1); an operating point has the highest sensitivity at this specificity.
        validation: the same columns, one row per validation image: operating points are chosen there and nothing
            is scored. None or empty: there are no operating points.
        classes: label names; with two and not `multi_label`, the second is the positive one.

    Raises:
        UserError: a column is missing, an image was predicted twice, or a probability is NaN.
    """
    frame = check_predictions(predictions, classes, facts.run)
    target, prob, patients = tables(frame, classes)
    resamples = draw_patients(patients, n_resamples=n_resamples, seed=bootstrap_seed)
    found = estimate(target, [prob], classes, resamples, multi_label=multi_label, threshold=threshold)
    warnings = list(facts.warnings)
    collapsed = one_class_warning(target, prob, classes, multi_label=multi_label, threshold=threshold)
    if collapsed is not None:
        warnings.append(collapsed)
    n_lone = sum(patient is None for patient in patients)
    if n_lone:
        warnings.append(
            f"{n_lone} of {len(patients)} test images have no patient id; each was resampled as its own"
        )
    warnings += lacking_warnings(target, resamples, classes, multi_label=multi_label)
    for name, score in found.items():
        if score.value is None:
            warnings.append(
                f"{name} is not defined on this test set (a class has fewer than two positive or two negative images)"
            )
    points, told = operating_points(
        frame, validation, classes, resamples, multi_label=multi_label, at_specificity=at_specificity
    )
    warnings += told
    training = dict(facts.training)
    learned = {f"train_{name}": training.pop(name, None) for name in ("accuracy", "loss")}
    record = {
        "schema": SCHEMA,
        "paper": facts.paper,
        "experiment": facts.experiment,
        "arm": facts.arm,
        "model": facts.model,
        "weights": facts.weights,
        "seed": facts.seed,
        "fold": facts.fold,
        "kfold": None if facts.kfold is None else dict(facts.kfold),
        "run": facts.run,
        "config_hash": facts.config_hash,
        "split_fingerprint": facts.split_fingerprint,
        "split_name": facts.split_name,
        "checkpoint": {"file": facts.checkpoint_file, "sha256": facts.checkpoint_sha256},
        "classes": list(classes),
        "counts": {part: dict(counts) for part, counts in facts.counts.items()},
        "protocol": {
            **facts.protocol,
            "threshold": threshold,
            "at_specificity": at_specificity,
            "interval": INTERVAL,
            "n_resamples": n_resamples,
            "bootstrap_seed": bootstrap_seed,
            "multi_label": multi_label,
        },
        "metrics": {
            **{name: score.to_record() for name, score in found.items()},
            **{
                name: {"value": value, "low": None, "high": None, "n": training["images"], "n_patients": None}
                for name, value in learned.items()
                if value is not None
            },
        },
        "confusion": [] if multi_label else confusion_matrix(target, prob, threshold=threshold).tolist(),
        "operating_points": points,
        "warnings": warnings,
        "wall_s": float(facts.wall_s),
        "training": training,
        "departures": None if facts.departures is None else list(facts.departures),
        "leakage": facts.leakage,
    }
    return check_result(record, facts.run)


def write_result(
    run: Path, predictions: pd.DataFrame, record: Mapping[str, Any], validation: pd.DataFrame | None = None
) -> None:
    """Write predictions_val.parquet, predictions.parquet, then result.json, each whole or not at all."""
    checked = check_result(dict(record), str(run / RESULT))
    frame = check_predictions(predictions, checked["classes"], str(run / PREDICTIONS))
    if validation is not None and not validation.empty:
        chosen_on = check_predictions(validation, checked["classes"], str(run / VALIDATION))
        with atomic_path(run / VALIDATION) as temporary:
            chosen_on.to_parquet(temporary, index=False)
    else:
        (run / VALIDATION).unlink(missing_ok=True)  # of an earlier evaluation
    with atomic_path(run / PREDICTIONS) as temporary:
        frame.to_parquet(temporary, index=False)
    write_json(run / RESULT, checked)
