"""Operating points, views, tests of pairs: what the report shows is what the records hold, and nothing where none is."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr.files import read_json
from cxr.metric.classification import auroc
from cxr.report.detail_section import groups_grid, points_grid, points_section
from cxr.report.difference import compare_arms, compare_classes
from cxr.report.difference_section import difference_section
from cxr.report.export_difference import differences_grid, p_text, told_of_tests
from cxr.report.runs import group_runs, load_run


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_rows_by_view_are_scores_of_those_images(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(tmp_path, "a", paper="phantom")
    frame = pd.read_parquet(run / "predictions.parquet")
    frame["view"] = np.where(np.arange(len(frame)) < 45, "AP", "PA")
    frame.to_parquet(run / "predictions.parquet")
    arms = group_runs([load_run(run)])
    head, body = groups_grid(arms, None, "view", "accuracy")
    assert head == ["Model", "Arm", "View", "Test accuracy (%)", "AUROC PNEUMONIA", "Images (patients)"]
    assert [row[2] for row in body] == ["PA", "AP"]  # the largest first
    for row, part in ((body[0], frame.iloc[45:]), (body[1], frame.iloc[:45])):
        area = auroc(part["target:PNEUMONIA"], part["prob:PNEUMONIA"])
        assert area is not None and row[4].startswith(f"{area:.3f} [")
        assert row[5] == f"{len(part)} ({part['patient_id'].nunique()})"
    frame["view"] = "PA"
    frame.to_parquet(run / "predictions.parquet")
    assert groups_grid(group_runs([load_run(run)]), None, "view", "accuracy")[1] == []


def test_operating_points_of_the_record(make_run: Callable[..., Path], tmp_path: Path) -> None:
    [without] = group_runs([load_run(make_run(tmp_path, "b", paper="phantom"))])
    assert points_section([without], None, tmp_path) == ("", [])
    run = make_run(tmp_path, "a", paper="phantom", validated=0.0)
    record = read_json(run / "result.json")
    [arm] = group_runs([load_run(run)])
    head, body = points_grid([arm], None)
    assert len(body) == len(record["operating_points"]) == 2
    for row, point in zip(body, record["operating_points"], strict=True):
        told = dict(zip(head, row, strict=True))
        assert told["Threshold"] == f"{point['threshold']:.3f}"
        assert told["Test: sensitivity"].startswith(f"{point['test']['sensitivity']['value']:.3f} [")
        assert told["images (with it)"].startswith(f"{point['validation']['n']:,} (")


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_differences_table_has_p_holm_and_the_test(
    seeds: int, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    runs = [
        make_run(tmp_path, f"{arm}-{s}", arm=arm, seed=s, wrong=wrong, paper="phantom")
        for s in range(seeds)
        for arm, wrong in (("real_only", 30), ("synthetic", 5), ("duplicate_real", 25))
    ]
    arms = group_runs([load_run(run) for run in runs])
    pairs = [["synthetic", "real_only"], ["duplicate_real", "real_only"]]
    found, by_class = compare_arms(arms, pairs, "accuracy", None), compare_classes(arms, pairs, None)
    text, markdown = difference_section(found, by_class, tmp_path / "out")
    head, body = differences_grid(found)
    assert ("95 % over patients and seeds" in head) is (seeds > 1)
    assert "Paper†" not in head and "Score" not in head
    for row, d in zip(body, found, strict=True):
        told = dict(zip(head, row, strict=True))
        assert told["p (Holm)"] == f"{p_text(d.p)} ({p_text(d.p_holm)})"
        assert d.test is not None and told["McNemar, mid-p"] == p_text(d.test.p)
    assert "McNemar's test applies to accuracy" in plain(" ".join(told_of_tests(found)))
    assert "not offered: 120 images of 40 patients are not independent" in text  # DeLong's
    assert "AUROC by class" in markdown[1]
    with (tmp_path / "out" / "differences-by-class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["metric"] for row in rows] == ["auroc/PNEUMONIA"] * 2
    assert {row["test"] for row in rows} == {"DeLong"} and {row["test_p"] for row in rows} == {""}
    assert re.search(r'data-value="[0-9.]+"', text)


@pytest.mark.parametrize(("p", "text"), [(0.0004, "<0.001"), (0.04, "0.040"), (1.0, "1.000"), (None, "n/a")])
def test_a_p_as_text(p: float | None, text: str) -> None:
    assert p_text(p) == text
