"""Reads evaluated run folders and groups them: which runs may be averaged, which arms may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError
from cxr.files import read_json
from cxr.metric.bootstrap import Resamples, draw_patients
from cxr.metric.result import read_predictions, read_result, tables

__all__ = ["Arm", "ReportRun", "group_runs", "load_run", "resamples_of", "same_test_images"]


@dataclass(frozen=True)
class ReportRun:
    """One evaluated run: its folder, its checked result, its manifest ({} when absent) and predictions.

    Attributes:
        target, prob: (N, C), rows in the order of `image_ids`.
        patients: one id per image, None where unknown.
    """

    path: Path
    result: dict[str, Any]
    manifest: dict[str, Any]
    image_ids: tuple[str, ...]
    target: npt.NDArray[np.float64]
    prob: npt.NDArray[np.float64]
    patients: tuple[str | None, ...]

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.result["run"])

    @property
    def one_class(self) -> str | None:
        """The warning that this run gives every image the same answer, or None."""
        found = [w for w in self.result["warnings"] if w.startswith(("predicts only ", "gives every image "))]
        return found[0] if found else None


@dataclass(frozen=True)
class Arm:
    """All seeds of one model in one arm, sorted; they share split, protocol, classes, training counts."""

    model: str
    arm: str
    runs: tuple[ReportRun, ...]

    @property
    def classes(self) -> list[str]:
        """Label names in order."""
        return list(self.runs[0].result["classes"])

    @property
    def protocol(self) -> dict[str, Any]:
        """What makes the scores comparable."""
        return dict(self.runs[0].result["protocol"])

    @property
    def marks(self) -> list[str]:
        """What a reader must know before believing the row."""
        found = []
        collapsed = [run for run in self.runs if run.one_class is not None]
        if collapsed:
            which = (
                "" if len(collapsed) == len(self.runs) else f" ({len(collapsed)} of {len(self.runs)} seeds)"
            )
            found.append(f"{collapsed[0].one_class}{which}")
        if any(run.result["weights"] == "random" for run in self.runs):
            found.append("random weights: the layers that the paper takes from ImageNet were never trained")
        leaks = sorted({str(run.result["leakage"]) for run in self.runs if run.result["leakage"]})
        found.extend(f"leakage allowed: {leak}" for leak in leaks)
        return found


def load_run(path: Path) -> ReportRun:
    """Read a run folder that was evaluated; a UserError names what is missing."""
    result = read_result(path)
    frame = read_predictions(path, result["classes"]).sort_values(
        "image_id", kind="stable", ignore_index=True
    )
    target, prob, patients = tables(frame, result["classes"])
    manifest = read_json(path / "manifest.json") if (path / "manifest.json").is_file() else {}
    ids = tuple(str(image) for image in frame["image_id"])
    return ReportRun(path, result, manifest, ids, target, prob, tuple(patients))


def group_runs(runs: Sequence[ReportRun]) -> list[Arm]:
    """Group runs by model and arm, in order of appearance; refuse what cannot be averaged.

    Raises:
        UserError: two runs of a group differ in split, protocol, classes, fold or training counts, or share a
            seed; or two arms of a model were tested under another split or protocol.
    """
    groups: dict[tuple[str, str], list[ReportRun]] = {}
    for run in runs:
        groups.setdefault((run.result["model"], run.result["arm"]), []).append(run)
    arms = []
    for (model, arm), members in groups.items():
        first = members[0]
        seeds: dict[int, ReportRun] = {}
        for run in members:
            _refuse_unlike(
                first, run, ("split_fingerprint", "protocol", "classes", "fold"), "cannot be averaged"
            )
            if run.result["counts"].get("train") != first.result["counts"].get("train"):
                _refuse(first, run, "training counts", "cannot be averaged")
            if run.result["seed"] in seeds:
                raise UserError(
                    f"runs {seeds[run.result['seed']].name} and {run.name} are both {model}, {arm}, seed "
                    f"{run.result['seed']}; expected one run per seed: leave one out of runs"
                )
            seeds[run.result["seed"]] = run
        arms.append(Arm(model, arm, tuple(sorted(members, key=lambda r: int(r.result["seed"])))))
    firsts: dict[str, ReportRun] = {}
    for one in arms:
        first = firsts.setdefault(one.model, one.runs[0])
        _refuse_unlike(first, one.runs[0], ("split_fingerprint", "protocol", "classes"), "cannot be compared")
    for one in arms:
        for run in one.runs:
            same_test_images(firsts[one.model], run)
    return arms


def same_test_images(a: ReportRun, b: ReportRun) -> None:
    """Raise a UserError unless both runs predicted the same images with the same labels and patients."""
    if a.image_ids != b.image_ids:
        n = len(set(a.image_ids) ^ set(b.image_ids))
        raise UserError(
            f"runs {a.name} and {b.name} name one split but differ in {n} test images; evaluate both again"
        )
    if not np.array_equal(a.target, b.target, equal_nan=True) or a.patients != b.patients:
        raise UserError(
            f"runs {a.name} and {b.name} disagree on labels or patients of the test images; evaluate again"
        )


def resamples_of(arm: Arm) -> Resamples:
    """Draw the patients of an arm's test images as its protocol says; equal for all arms of a model."""
    protocol = arm.protocol
    return draw_patients(
        arm.runs[0].patients, n_resamples=int(protocol["n_resamples"]), seed=int(protocol["bootstrap_seed"])
    )


def _refuse_unlike(a: ReportRun, b: ReportRun, keys: Sequence[str], verdict: str) -> None:
    for key in keys:
        if a.result[key] != b.result[key]:
            _refuse(a, b, key.replace("_", " "), verdict, f"{a.result[key]!r} and {b.result[key]!r}")


def _refuse(a: ReportRun, b: ReportRun, what: str, verdict: str, values: str = "") -> None:
    told = f" ({values})" if values and len(values) < 120 else ""
    raise UserError(
        f"runs {a.name} and {b.name} {verdict}: their {what} differ{told}; "
        f"report them apart, or run both with the same split and evaluation"
    )
