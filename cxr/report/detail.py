"""What the predictions of an arm say beside its scores: tests of pairs, operating points, views and sources.

All of it is computed from predictions.parquet; only the thresholds, chosen on validation images, come from result.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np

from cxr.metric.bootstrap import Answers, Estimate, estimate_folds
from cxr.metric.classification import decide
from cxr.metric.delong import delong
from cxr.metric.operating_point import point_estimates
from cxr.metric.paired_test import PairedTest, mcnemar
from cxr.metric.ranking import FEWEST
from cxr.metric.resample import draw_patients
from cxr.report.runs import Arm, ReportRun

__all__ = ["FEWEST_IMAGES", "GroupScores", "PointScores", "operating_points", "paired_test", "scores_by"]

FEWEST_IMAGES = 20  # a smaller group is not shown: its interval would say nothing


@dataclass(frozen=True)
class GroupScores:
    """Scores of an arm on the test images of one view or source; each has its n, patients and interval."""

    column: str
    group: str
    n_images: int
    n_patients: int
    scores: dict[str, Estimate]


@dataclass(frozen=True)
class PointScores:
    """An operating point of an arm: chosen by each run on its validation images, judged on the test images.

    Attributes:
        thresholds: one per run, in the order of `Arm.runs`.
        val_sensitivity, val_specificity: on validation, mean over runs.
        n_val, n_val_positive: validation images, those with the class; of all folds.
        test: sensitivity, specificity and precision: means over seeds and folds, intervals over patients.
    """

    label: str
    rule: str
    thresholds: tuple[float, ...]
    val_sensitivity: float
    val_specificity: float
    n_val: int
    n_val_positive: int
    test: dict[str, Estimate]


def scores_by(
    arm: Arm, column: Literal["view", "source"], names: Sequence[str], fewest: int = FEWEST_IMAGES
) -> list[GroupScores]:
    """Return the scores of an arm view by view or source by source, largest group first.

    Groups of fewer than `fewest` images are left out, images without a value too; [] where there is one group only.
    A fold without images of a group is left out of its mean; a score that a group does not define is None.
    """
    values = {
        run.fold: np.array(run.views if column == "view" else run.sources, object) for run in arm.one_seed
    }
    known = [v for of_fold in values.values() for v in of_fold if v is not None]
    counts = {group: known.count(group) for group in dict.fromkeys(known)}
    shown = sorted((g for g, n in counts.items() if n >= fewest), key=lambda g: (-counts[g], g))
    if len(counts) < 2:
        return []
    found = []
    for group in shown:
        folds = []
        for first in arm.one_seed:
            rows = np.flatnonzero(values[first.fold] == group)
            if rows.size:
                drawn = draw_patients([first.patients[i] for i in rows], fold=first.fold, **_draws(arm))
                probs = [run.prob[rows] for run in _of_fold(arm, first)]
                folds.append(Answers(first.target[rows], probs, drawn))
        multi_label, threshold = bool(arm.protocol["multi_label"]), float(arm.protocol["threshold"])
        scores = estimate_folds(folds, arm.classes, multi_label=multi_label, threshold=threshold, names=names)
        n_patients = sum(fold.resamples.n_patients for fold in folds)
        found.append(GroupScores(column, group, counts[group], n_patients, scores))
    return found


def operating_points(arm: Arm) -> list[PointScores]:
    """Return the operating points that every run of the arm has."""
    of_run = [{(p["class"], p["rule"]): p for p in run.result["operating_points"]} for run in arm.runs]
    found = []
    for label, rule in of_run[0]:
        points = [of.get((label, rule)) for of in of_run]
        if any(p is None for p in points):
            continue
        chosen = {run.name: p for run, p in zip(arm.runs, points, strict=True) if p is not None}
        c = arm.classes.index(label)
        folds = []
        for first in arm.one_seed:
            runs = _of_fold(arm, first)
            thresholds = [float(chosen[run.name]["threshold"]) for run in runs]
            drawn = draw_patients(first.patients, fold=first.fold, **_draws(arm))
            folds.append((first.target[:, c], [run.prob[:, c] for run in runs], thresholds, drawn))
        on_val = [p["validation"] for p in chosen.values()]
        of_folds = [chosen[run.name]["validation"] for run in arm.one_seed]
        found.append(
            PointScores(
                label=label,
                rule=rule,
                thresholds=tuple(float(p["threshold"]) for p in chosen.values()),
                val_sensitivity=fmean(v["sensitivity"] for v in on_val),
                val_specificity=fmean(v["specificity"] for v in on_val),
                n_val=sum(v["n"] for v in of_folds),
                n_val_positive=sum(v["n_positive"] for v in of_folds),
                test=point_estimates(folds),
            )
        )
    return found


def paired_test(a: Arm, b: Arm, metric: str) -> PairedTest | None:
    """Return McNemar's test for the accuracy of a single-label task, DeLong's for an AUROC; None for other scores."""
    if metric == "accuracy" and not a.protocol["multi_label"]:
        return _mcnemar(a, b)
    return _delong(a, b, metric.partition("/")[2]) if metric.startswith("auroc/") else None


def _mcnemar(a: Arm, b: Arm) -> PairedTest:
    threshold = float(a.protocol["threshold"])
    right: list[list[np.ndarray]] = []
    for arm in (a, b):
        by_seed: dict[int, list[np.ndarray]] = {}
        for run in arm.runs:
            answer = decide(run.prob, multi_label=False, threshold=threshold)
            by_seed.setdefault(int(run.result["seed"]), []).append(
                np.asarray((answer & (run.target > 0.5)).any(axis=1))
            )
        right.append([np.concatenate(of_folds) for of_folds in by_seed.values()])
    patients: dict[str, int] = {}
    units = [p if p else f" {i}" for i, p in enumerate(p for run in a.one_seed for p in run.patients)]
    groups = np.array([patients.setdefault(unit, len(patients)) for unit in units])
    exact, mid = mcnemar(right[0], right[1], groups)
    told = "" if len(patients) == len(units) else "; the images of a patient are taken together"
    if any(patient is None for run in a.one_seed for patient in run.patients):
        told += "; images of unknown patients stand alone"
    seeds = "; mean over seeds" if len(right[0]) + len(right[1]) > 2 else ""
    pooled = "; folds pooled" if a.folds else ""
    return PairedTest("McNemar, mid-p", mid, f"exact p {exact:.3g}{told}{seeds}{pooled}")


def _delong(a: Arm, b: Arm, label: str) -> PairedTest:
    name = "DeLong"
    if any(patient is None for run in a.one_seed for patient in run.patients):
        return PairedTest(name, None, "not offered: patients unknown, so images may not be independent")
    if a.n_patients < a.n_images:
        told = f"{a.n_images:,} images of {a.n_patients:,} patients are not independent"
        return PairedTest(name, None, f"not offered: {told}")
    c, folds = a.classes.index(label), []
    for first in a.one_seed:
        y = first.target[:, c]
        if min((y == 1).sum(), (y == 0).sum()) < FEWEST:
            continue  # not defined there, as in the mean over folds
        pair = [[run.prob[:, c] for run in _of_fold(arm, first)] for arm in (a, b)]
        folds.append((y, pair[0], pair[1]))
    if not folds:
        return PairedTest(name, None, "not defined: fewer than two images with the class or without it")
    several = "; mean over seeds" if a.n_seeds + b.n_seeds > 2 else ""
    return PairedTest(name, delong(folds)[2], f"each image is a patient of its own{several}")


def _of_fold(arm: Arm, first: ReportRun) -> list[ReportRun]:
    return [run for run in arm.runs if run.fold == first.fold]


def _draws(arm: Arm) -> dict[str, int]:
    return {"n_resamples": int(arm.protocol["n_resamples"]), "seed": int(arm.protocol["bootstrap_seed"])}
