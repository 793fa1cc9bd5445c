"""The format of a result: what `result.json` and `predictions.parquet` hold, how they are read and checked.

Lies beside the metrics so that evaluation, which writes results, and the report, which reads them, share one
definition. Change a key only together with SCHEMA.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.errors import UserError
from cxr.files import read_json, read_parquet

__all__ = [
    "HEATMAPS",
    "PREDICTIONS",
    "RESULT",
    "SCHEMA",
    "VALIDATION",
    "check_predictions",
    "check_result",
    "read_predictions",
    "read_result",
    "tables",
]

SCHEMA = 3
RESULT = "result.json"
PREDICTIONS = "predictions.parquet"
VALIDATION = "predictions_val.parquet"  # the same columns; chooses operating points, is never scored
HEATMAPS = "figures/gradcam/gradcam.json"  # what the pictures beside it show
TARGET, PROB = "target:", "prob:"

# every key of a record and the type of its value; `weights` says what the network started from, `kfold` of which
# cross-validation `fold` is one, `departures` in what the run differs from its experiment file (None: not known)
KEYS: dict[str, tuple[type, ...]] = {
    "schema": (int,),
    "paper": (str, type(None)),
    "experiment": (str, type(None)),
    "arm": (str,),
    "model": (str,),
    "weights": (str, type(None)),
    "seed": (int,),
    "fold": (int, type(None)),
    "kfold": (dict, type(None)),
    "run": (str,),
    "config_hash": (str,),
    "split_fingerprint": (str,),
    "split_name": (str,),
    "checkpoint": (dict,),
    "classes": (list,),
    "counts": (dict,),
    "protocol": (dict,),
    "metrics": (dict,),
    "confusion": (list,),
    "operating_points": (list,),
    "warnings": (list,),
    "wall_s": (int, float),
    "training": (dict,),
    "departures": (list, type(None)),
    "leakage": (str, type(None)),
}


def check_result(record: Any, where: str) -> dict[str, Any]:
    """Return `record` when it has every key with the right type, else raise a UserError naming `where`."""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise UserError(
            f"{where}: result format {found!r}, expected {SCHEMA}; evaluate the run again with this version"
        )
    for key, types in KEYS.items():
        if key not in record:
            raise UserError(f"{where}: no '{key}' in the result; evaluate the run again")
        if not isinstance(record[key], types) or (isinstance(record[key], bool)):
            raise UserError(
                f"{where}: '{key}' is {record[key]!r}, expected {' or '.join(t.__name__ for t in types)}"
            )
    return record


def read_result(run: Path) -> dict[str, Any]:
    """Read and check the result of a run folder."""
    if not (run / RESULT).is_file():
        raise UserError(f"{run}: no {RESULT}; expected an evaluated run: evaluate it first")
    return check_result(read_json(run / RESULT), str(run / RESULT))


def check_predictions(frame: pd.DataFrame, classes: Sequence[str], where: str) -> pd.DataFrame:
    """Check the columns and values of a predictions table; return it sorted by row, those columns only."""
    targets, probs = [TARGET + c for c in classes], [PROB + c for c in classes]
    wanted = ["row", "image_id", "patient_id", "view", "source", *targets, *probs]
    missing = [c for c in wanted if c not in frame.columns]
    if missing:
        raise UserError(f"{where}: no column {', '.join(missing)}; expected {', '.join(wanted)}")
    if frame.empty:
        raise UserError(f"{where}: no predictions; the test part of the split is empty, choose another split")
    if frame["image_id"].duplicated().any():
        twice = frame.loc[frame["image_id"].duplicated(), "image_id"].iloc[0]
        raise UserError(f"{where}: image {twice!r} was predicted twice; expected each test image once")
    found = frame[wanted].sort_values("row", kind="stable", ignore_index=True)
    found[targets + probs] = found[targets + probs].astype("float32")
    values = found[probs].to_numpy()
    if not np.isfinite(values).all():
        n_bad = int((~np.isfinite(values)).any(axis=1).sum())
        raise UserError(
            f"{where}: {n_bad} of {len(found)} predictions are NaN; the training diverged, lower the lr"
        )
    return found


def read_predictions(run: Path, classes: Sequence[str]) -> pd.DataFrame:
    """Read and check the predictions of a run folder."""
    path = run / PREDICTIONS
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; expected the predictions beside {RESULT}: evaluate the run again"
        )
    frame = read_parquet(path, f"the predictions beside {RESULT}: evaluate the run again")
    return check_predictions(frame, classes, str(path))


def tables(
    predictions: pd.DataFrame, classes: Sequence[str]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[str | None]]:
    """Split a predictions table into target (N, C), probability (N, C) and the patient of each image."""
    target = predictions[[TARGET + c for c in classes]].to_numpy(dtype=np.float64)
    prob = predictions[[PROB + c for c in classes]].to_numpy(dtype=np.float64)
    return target, prob, [p if isinstance(p, str) and p else None for p in predictions["patient_id"]]
