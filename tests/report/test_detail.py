"""Tests of pairs, operating points and views of arms; what is not offered says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from cxr.metric.delong import delong
from cxr.metric.paired_test import holm
from cxr.report.detail import operating_points, scores_by
from cxr.report.difference import compare_arms, compare_classes
from cxr.report.runs import Arm, group_runs, load_run, measure

PAIR = [["synthetic", "real_only"]]


def _lone(path: Path) -> None:
    """Give every image of a run a patient of its own."""
    import pandas as pd

    frame = pd.read_parquet(path / "predictions.parquet")
    frame.assign(patient_id=[f"own {i}" for i in frame["image_id"]]).to_parquet(path / "predictions.parquet")


def _arms(make_run: Callable[..., Path], root: Path, lone: bool = False, **options: object) -> list[Arm]:
    paths = [
        make_run(root, "r", wrong=24, **options),
        make_run(root, "g", arm="synthetic", wrong=6, **options),
    ]
    for path in paths if lone else []:
        _lone(path)
    return group_runs([load_run(path) for path in paths])


def test_mcnemar_and_delong_where_images_are_independent(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    arms = _arms(make_run, tmp_path, lone=True)
    (found,) = compare_arms(arms, PAIR, "accuracy", None)
    real, gan = ((a.runs[0].prob[:, 1] > 0.5) == (a.runs[0].target[:, 1] > 0.5) for a in arms)
    b, c = int((gan & ~real).sum()), int((real & ~gan).sum())
    assert found.test is not None and found.test.name == "McNemar, mid-p"
    assert found.test.told == f"exact p {binomtest(b, b + c).pvalue:.3g}"
    assert found.p is not None and (found.p < 0.05) == (found.interval[0] > 0)  # one statement
    (area,) = compare_classes(arms, PAIR, None)
    assert area.metric == "auroc/PNEUMONIA" and area.test is not None
    runs = [a.runs[0] for a in arms]
    expected = delong([(runs[0].target[:, 1], [runs[1].prob[:, 1]], [runs[0].prob[:, 1]])])
    assert area.test.p == pytest.approx(expected[2])
    assert area.ours.value == pytest.approx(expected[0]) and area.p_holm == area.p


def test_delong_is_not_offered_where_images_depend(make_run: Callable[..., Path], tmp_path: Path) -> None:
    (shared,) = compare_classes(_arms(make_run, tmp_path / "a"), PAIR, None)
    assert shared.test is not None and shared.test.p is None
    assert shared.test.told == "not offered: 120 images of 40 patients are not independent"
    arms = _arms(make_run, tmp_path / "b", patients=False)
    (unknown,) = compare_classes(arms, PAIR, None)
    assert unknown.test is not None and "patients unknown" in unknown.test.told
    (accuracy,) = compare_arms(_arms(make_run, tmp_path / "c"), PAIR, "accuracy", None)
    assert accuracy.test is not None and "taken together" in accuracy.test.told
    (f1,) = compare_arms(arms, PAIR, "f1_macro", None)
    assert f1.test is None


def test_holm_is_over_classes_and_comparisons_of_a_model(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    names = ["A", "B", "C"]
    paths = [
        make_run(tmp_path, arm, arm=arm, wrong=wrong, classes=names)
        for arm, wrong in (("real_only", 30), ("synthetic", 12), ("duplicate_real", 28))
    ]
    arms = group_runs([load_run(path) for path in paths])
    found = compare_classes(arms, [*PAIR, ["duplicate_real", "real_only"]], None)
    assert [d.metric for d in found] == [f"auroc/{c}" for c in names] * 2
    assert [d.p_holm for d in found] == holm([d.p for d in found])
    assert any(d.p_holm > d.p for d in found if d.p is not None and d.p_holm is not None)


def test_views_are_scored_apart(make_run: Callable[..., Path], tmp_path: Path) -> None:
    (arm,) = group_runs([load_run(make_run(tmp_path, f"s{s}", seed=s)) for s in range(2)])
    whole = measure(arm, ["accuracy"])["accuracy"]
    pa, ap = scores_by(arm, "view", ["accuracy", "auroc/PNEUMONIA"])
    assert [(g.group, g.n_images, g.n_patients) for g in (pa, ap)] == [("PA", 80, 40), ("AP", 40, 40)]
    parts = [g.scores["accuracy"].value or 0 for g in (pa, ap)]
    assert np.average(parts, weights=[80, 40]) == pytest.approx(whole.value)
    assert all(s.low is not None and s.n == g.n_images for g in (pa, ap) for s in g.scores.values())
    assert [g.group for g in scores_by(arm, "view", ["accuracy"], fewest=50)] == ["PA"]
    assert scores_by(arm, "source", ["accuracy"]) == []  # the index knows none


def test_operating_points_of_an_arm_are_those_of_its_runs(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    runs = [make_run(tmp_path, f"s{s}", seed=s, wrong=6 + 12 * s, validated=0.05) for s in range(2)]
    (arm,) = group_runs([load_run(path) for path in runs])
    found = {p.rule: p for p in operating_points(arm)}
    assert set(found) == {"youden", "specificity>=0.9"}
    recorded = [p for run in arm.runs for p in run.result["operating_points"] if p["rule"] == "youden"]
    youden = found["youden"]
    assert youden.thresholds == tuple(p["threshold"] for p in recorded)
    assert youden.test["sensitivity"].per_seed == pytest.approx(
        [p["test"]["sensitivity"]["value"] for p in recorded]
    )
    assert (youden.n_val, youden.n_val_positive, youden.test["specificity"].n_patients) == (120, 90, 40)
    assert youden.test["sensitivity"].low_seeds is not None
    (bare,) = group_runs([load_run(make_run(tmp_path, "bare"))])
    assert operating_points(bare) == []
