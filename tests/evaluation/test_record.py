"""Records: written whole, read back checked, one-class models called out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr.errors import UserError
from cxr.evaluation.record import RunFacts, build_record, read_predictions, read_result, write_result

CLASSES = ["NORMAL", "PNEUMONIA"]


def facts(**changed: Any) -> RunFacts:
    known: dict[str, Any] = {
        "run": "r", "paper": "talukdar", "experiment": None, "arm": "real_only", "model": "m",
        "weights": None,
        "seed": 0, "fold": None, "config_hash": "c", "split_fingerprint": "f", "split_name": "patient",
        "checkpoint_file": "checkpoints/best.ckpt", "checkpoint_sha256": "s", "wall_s": 3,
        "counts": {"train": {}, "val": {}, "test": {}},
    }  # fmt: skip
    return RunFacts(**{**known, **changed})


def predictions(p: list[float], truth: list[int], patient: str | None = "x") -> pd.DataFrame:
    q, t = np.array(p, dtype="float32"), np.eye(2, dtype="float32")[truth]
    frame = pd.DataFrame({"row": np.arange(len(p))[::-1], "image_id": [f"i{i}" for i in range(len(p))]})
    frame["patient_id"] = [None if patient is None else f"{patient}{i // 2}" for i in range(len(p))]
    frame["view"], frame["source"] = "PA", None
    for c, name in enumerate(CLASSES):
        frame[f"target:{name}"], frame[f"prob:{name}"] = t[:, c], (1 - q, q)[c]
    return frame


def test_round_trip(tmp_path: Path) -> None:
    frame = predictions([0.9, 0.2, 0.7, 0.6, 0.1, 0.8], [1, 0, 1, 0, 0, 1])
    record = build_record(frame, facts(protocol={"image_size_px": 128}), classes=CLASSES, n_resamples=50)
    write_result(tmp_path / "run", frame, record)
    assert read_result(tmp_path / "run") == record
    assert record["metrics"]["accuracy"]["value"] == pytest.approx(5 / 6)
    assert (record["metrics"]["accuracy"]["n"], record["metrics"]["accuracy"]["n_patients"]) == (6, 3)
    assert record["confusion"] == [[2, 1], [0, 3]]
    assert record["protocol"]["image_size_px"] == 128
    assert record["protocol"]["interval"] == "95 % patient bootstrap t"
    back = read_predictions(tmp_path / "run", CLASSES)
    assert back["row"].tolist() == list(range(6))
    assert back["image_id"].iloc[0] == "i5"
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["predictions.parquet", "result.json"]


def test_a_one_class_model_is_called_out() -> None:
    frame = predictions([0.6 + 0.0001 * i for i in range(1172)], [1] * 855 + [0] * 317)
    record = build_record(frame, facts(), classes=CLASSES, n_resamples=10)
    expected = (
        "predicts only PNEUMONIA (the base rate, 72.95 %): a preprocessing or optimiser failure, not a result"
    )
    assert expected in record["warnings"]
    fair = build_record(predictions([0.9, 0.1], [1, 0]), facts(), classes=CLASSES, n_resamples=10)
    assert not any("predicts only" in w for w in fair["warnings"])


def test_classes_that_resamples_lack_are_told_shortly() -> None:
    frame = predictions([0.9, 0.8, 0.7, 0.2], [1, 1, 1, 0], patient=None)
    record = build_record(frame, facts(), classes=CLASSES, n_resamples=50)
    (told,) = [w for w in record["warnings"] if "resamples" in w]
    assert re.fullmatch(
        r"up to \d+ of 50 resamples lack positives of NORMAL.*: left out of their scores", told
    )


def test_undefined_scores_are_null_in_json_and_told(tmp_path: Path) -> None:
    frame = predictions([0.9, 0.8], [1, 1], patient=None)
    record = build_record(frame, facts(), classes=CLASSES, n_resamples=10)
    write_result(tmp_path, frame, record)
    text = (tmp_path / "result.json").read_text()
    assert json.loads(text)["metrics"]["auroc/NORMAL"]["value"] is None
    assert "NaN" not in text
    assert any("auroc/NORMAL is not defined" in w for w in record["warnings"])
    assert any("no patient id" in w for w in record["warnings"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: f.drop(columns="prob:NORMAL"), "no column prob:NORMAL"),
        (lambda f: f.assign(image_id="same"), "predicted twice"),
        (lambda f: f.assign(**{"prob:NORMAL": np.nan}), "NaN"),
        (lambda f: f.iloc[:0], "no predictions"),
    ],
)
def test_bad_predictions_are_refused_in_one_line(change: Any, told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        build_record(change(predictions([0.9, 0.1], [1, 0])), facts(), classes=CLASSES)
    assert "\n" not in str(error.value)


def test_reading_refuses_another_format_and_missing_keys(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="evaluate it first"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text('{"schema": 99}')
    with pytest.raises(UserError, match="format 99"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text('{"schema": 3}')
    with pytest.raises(UserError, match="no 'paper'"):
        read_result(tmp_path)


def test_a_failed_write_leaves_the_old_result(tmp_path: Path) -> None:
    frame = predictions([0.9, 0.1], [1, 0])
    record = build_record(frame, facts(), classes=CLASSES, n_resamples=10)
    write_result(tmp_path, frame, record)
    with pytest.raises(ValueError, match="JSON"):
        write_result(tmp_path, frame, {**record, "wall_s": float("nan")})
    assert read_result(tmp_path) == record


def test_operating_points_are_those_of_validation_not_of_test(tmp_path: Path) -> None:
    """On test images .5 parts the classes without fault; on validation images .8 does, and is what is used."""
    test = predictions([0.6, 0.7, 0.9, 0.1, 0.2, 0.3], [1, 1, 1, 0, 0, 0])
    val = predictions([0.85, 0.9, 0.95, 0.6, 0.7, 0.75], [1, 1, 1, 0, 0, 0], patient="v")
    val["image_id"] = "v" + val["image_id"]
    record = build_record(test, facts(), classes=CLASSES, n_resamples=50, validation=val)
    points = {p["rule"]: p for p in record["operating_points"]}
    assert set(points) == {"youden", "specificity>=0.9"}
    for point in points.values():
        assert point["class"] == "PNEUMONIA" and point["threshold"] == pytest.approx(0.8)
        assert point["validation"] == {
            "sensitivity": 1.0, "specificity": 1.0, "n": 6, "n_positive": 3, "n_patients": 3,
        }  # fmt: skip
        assert point["test"]["sensitivity"]["value"] == pytest.approx(1 / 3)
        assert point["test"]["specificity"]["value"] == 1.0
        assert point["test"]["sensitivity"]["n_patients"] == 3
    without = build_record(test, facts(), classes=CLASSES, n_resamples=50)
    assert without["metrics"] == record["metrics"]  # validation images are never scored
    assert without["operating_points"] == [] and any("no operating points" in w for w in without["warnings"])
    write_result(tmp_path, test, record, val)
    kept = pd.read_parquet(tmp_path / "predictions_val.parquet")
    assert sorted(kept["image_id"]) == sorted(val["image_id"]) and {"view", "source"} <= set(kept.columns)
    write_result(tmp_path, test, without)
    assert not (tmp_path / "predictions_val.parquet").exists()  # no stale one


def test_no_operating_point_is_told_and_a_bad_specificity_refused() -> None:
    test = predictions([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0])
    lone = predictions([0.9, 0.1, 0.2], [1, 0, 0]).assign(image_id=["a", "b", "c"])
    record = build_record(test, facts(), classes=CLASSES, n_resamples=10, validation=lone)
    assert record["operating_points"] == []
    assert any(w.startswith("no operating point of PNEUMONIA (youden)") for w in record["warnings"])
    with pytest.raises(UserError, match=r"at_specificity=0\.9"):
        build_record(test, facts(), classes=CLASSES, at_specificity=90, validation=lone)
    with pytest.raises(ValueError, match="validation and test"):
        build_record(test, facts(), classes=CLASSES, validation=test)
