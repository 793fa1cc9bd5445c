"""Reads evaluated run folders, groups them (what may be averaged, what may be compared), scores the groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError
from cxr.files import read_json
from cxr.metric.audit_record import Verdict, read_audit
from cxr.metric.bootstrap import Answers, Estimate, estimate_folds, paired_difference_folds
from cxr.metric.resample import draw_patients
from cxr.metric.result import read_predictions, read_result, tables
from cxr.report.mark import LEAK, NO_PATIENTS, RANDOM, Mark
from cxr.report.spec import arm_rank

__all__ = ["Arm", "ReportRun", "difference", "group_runs", "load_run", "measure", "same_test_images"]


@dataclass(frozen=True)
class ReportRun:
    """One evaluated run: its folder, its checked result, its manifest ({} when absent) and predictions.

    Attributes:
        target, prob: (N, C), rows in the order of `image_ids`.
        patients: one id per image, None where unknown.
        views, sources: of each image (PA, AP …; the hospital or collection), None where unknown.
        audit: what `evaluate.py audit=…` found of this result; None: it did not look.
    """

    path: Path
    result: dict[str, Any]
    manifest: dict[str, Any]
    image_ids: tuple[str, ...]
    target: npt.NDArray[np.float64]
    prob: npt.NDArray[np.float64]
    patients: tuple[str | None, ...]
    views: tuple[str | None, ...] = ()
    sources: tuple[str | None, ...] = ()
    audit: tuple[Verdict, ...] | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.result["run"])

    @property
    def fold(self) -> int | None:
        """Which fold of its cross-validation it was tested on; None without one."""
        fold: int | None = self.result["fold"]
        return fold

    @property
    def one_class(self) -> str | None:
        """The warning that this run gives every image the same answer, or None."""
        found = [w for w in self.result["warnings"] if w.startswith(("predicts only ", "gives every image "))]
        return found[0] if found else None


@dataclass(frozen=True)
class Arm:
    """All runs of one model in one arm, by seed and fold; they share protocol, classes, and of a fold its split.

    Every seed has the same folds of one cross-validation, or there is none and `folds` is empty.
    """

    model: str
    arm: str
    runs: tuple[ReportRun, ...]

    @property
    def classes(self) -> list[str]:
        """Label names in order."""
        return list(self.runs[0].result["classes"])

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were run."""
        return tuple(sorted({int(run.result["seed"]) for run in self.runs}))

    @property
    def n_seeds(self) -> int:
        """How many seeds were run."""
        return len(self.seeds)

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that were run."""
        return tuple(sorted({run.fold for run in self.runs if run.fold is not None}))

    @property
    def one_seed(self) -> tuple[ReportRun, ...]:
        """The runs of the first seed: one for every test set."""
        return tuple(run for run in self.runs if run.result["seed"] == self.runs[0].result["seed"])

    @property
    def n_images(self) -> int:
        """Test images, of all folds."""
        return sum(len(run.image_ids) for run in self.one_seed)

    @property
    def n_patients(self) -> int:
        """Patients of the test images; one without an id counts as a patient of its own."""
        patients = [patient for run in self.one_seed for patient in run.patients]
        return len({p for p in patients if p is not None}) + patients.count(None)

    @property
    def knows_patients(self) -> bool:
        """Whether any test image has a patient id."""
        return any(patient is not None for run in self.one_seed for patient in run.patients)

    @property
    def split(self) -> tuple[str, str]:
        """Name and fingerprint of the split; of the whole cross-validation where there is one."""
        first = self.runs[0].result
        if first["kfold"] is not None:
            return str(first["kfold"]["name"]), str(first["kfold"]["fingerprint"])
        return str(first["split_name"]), str(first["split_fingerprint"])

    @property
    def departures(self) -> list[str]:
        """What any of the runs has otherwise than its experiment file: "key: there → here"."""
        return list(dict.fromkeys(line for run in self.runs for line in run.result["departures"] or ()))

    @property
    def protocol(self) -> dict[str, Any]:
        """What makes the scores comparable."""
        return dict(self.runs[0].result["protocol"])

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What audits found, each said once; () where no run was audited."""
        return tuple(dict.fromkeys(verdict for run in self.runs for verdict in run.audit or ()))

    @property
    def marks(self) -> list[Mark]:
        """What a reader must know before believing the row."""
        found = []
        collapsed = [run for run in self.runs if run.one_class is not None]
        if collapsed:
            what = "runs" if self.folds else "seeds"
            which = (
                "" if len(collapsed) == len(self.runs) else f" ({len(collapsed)} of {len(self.runs)} {what})"
            )
            same = "one class only" if "predicts only" in str(collapsed[0].one_class) else "one answer only"
            found.append(Mark(same, f"{collapsed[0].one_class}{which}"))
        if any(run.result["weights"] == "random" for run in self.runs):
            found.append(Mark(RANDOM, "the layers that the paper takes from ImageNet were never trained"))
        if not self.knows_patients:
            told = "each image was resampled as a patient of its own; a patient may lie in training and test"
            found.append(Mark(NO_PATIENTS, told))
        wanted = (self.runs[0].result["kfold"] or {}).get("folds", 0)
        if len(self.folds) < wanted:
            which = ", ".join(map(str, self.folds))
            found.append(
                Mark(f"{len(self.folds)} of {wanted} folds", f"of the cross-validation, fold {which}")
            )
        if self.departures:
            told = "not the experiment's own size or recipe; what was changed stands with Ours, below"
            found.append(Mark("changed recipe", told))
        if any(run.result["departures"] is None for run in self.runs):
            told = "its experiment file was not found, so what was changed is not known"
            found.append(Mark("recipe unknown", told))
        leaks = sorted({str(run.result["leakage"]) for run in self.runs if run.result["leakage"]})
        found.extend(Mark("leakage allowed", leak) for leak in leaks)
        found.extend(Mark(LEAK, f"{v.question}: {v.told}") for v in self.verdicts if v.answer == LEAK)
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
    views, sources = (_texts(frame[column]) for column in ("view", "source"))
    return ReportRun(
        path, result, manifest, ids, target, prob, tuple(patients), views, sources, read_audit(path)
    )


def _texts(column: Iterable[object]) -> tuple[str | None, ...]:
    return tuple(value if isinstance(value, str) and value else None for value in column)


def group_runs(runs: Sequence[ReportRun]) -> list[Arm]:
    """Group runs by model, in order of appearance, and arm, in that of reports; refuse what cannot be averaged.

    Raises:
        UserError: two runs of a group differ in protocol, classes, cross-validation, or (of one fold) in split or
            training counts; or share seed and fold; or seeds have unlike folds; or folds share patients; or two
            arms of a model were tested under another split or protocol.
    """
    groups: dict[tuple[str, str], list[ReportRun]] = {}
    for run in runs:
        groups.setdefault((run.result["model"], run.result["arm"]), []).append(run)
    arms = []
    for (model, arm), members in groups.items():
        of_fold: dict[int | None, ReportRun] = {}
        seen: dict[tuple[int, int | None], ReportRun] = {}
        for run in members:
            _refuse_unlike_split(members[0], run, of_fold, "cannot be averaged")
            first = of_fold[run.fold]
            if run.result["counts"].get("train") != first.result["counts"].get("train"):
                _refuse(first, run, "training counts", "cannot be averaged")
            key = (int(run.result["seed"]), run.fold)
            if key in seen:
                fold = "" if run.fold is None else f", fold {run.fold}"
                raise UserError(
                    f"runs {seen[key].name} and {run.name} are both {model}, {arm}, seed {key[0]}{fold}; "
                    f"expected one run per seed{' and fold' if fold else ''}: leave one out of runs"
                )
            seen[key] = run
        _check_folds(seen, of_fold)
        ordered = sorted(seen, key=lambda key: (key[0], -1 if key[1] is None else key[1]))
        arms.append(Arm(model, arm, tuple(seen[key] for key in ordered)))
    firsts: dict[str, ReportRun] = {}
    by_fold: dict[str, dict[int | None, ReportRun]] = {}
    for one in arms:
        first = firsts.setdefault(one.model, one.runs[0])
        for run in one.runs:
            known = by_fold.setdefault(one.model, {})
            _refuse_unlike_split(first, run, known, "cannot be compared")
    for one in arms:
        for run in one.runs:
            same_test_images(by_fold[one.model][run.fold], run)
    models = list(firsts)
    return sorted(arms, key=lambda one: (models.index(one.model), arm_rank(one.arm)))


def _refuse_unlike_split(
    first: ReportRun, run: ReportRun, of_fold: dict[int | None, ReportRun], verdict: str
) -> None:
    """Refuse another split or protocol than that of `first`; folds of one cross-validation are not unlike."""
    if first.result["kfold"] is None or run.result["kfold"] is None:
        _refuse_unlike(first, run, ("split_fingerprint", "protocol", "classes", "fold"), verdict)
    _refuse_unlike(first, run, ("kfold", "protocol", "classes"), verdict)
    _refuse_unlike(of_fold.setdefault(run.fold, run), run, ("split_fingerprint",), verdict)


def _check_folds(seen: dict[tuple[int, int | None], ReportRun], of_fold: dict[int | None, ReportRun]) -> None:
    """Refuse seeds with unlike folds, and folds that share images or patients."""
    for seed in sorted({seed for seed, _ in seen}):
        if missing := [fold for fold in of_fold if (seed, fold) not in seen]:
            known = next(run for (s, _), run in seen.items() if s == seed)
            raise UserError(
                f"runs {known.name} and {of_fold[missing[0]].name} cannot be averaged: seed {seed} has no fold "
                f"{missing[0]}; expected the same folds of every seed: train it, or leave that fold or seed out"
            )
    owner: dict[str, ReportRun] = {}
    for run in of_fold.values():
        for unit in {f"image {i}" for i in run.image_ids} | {f"patient {p}" for p in run.patients if p}:
            if owner.setdefault(unit, run) is not run:
                raise UserError(
                    f"runs {owner[unit].name} and {run.name} cannot be averaged: both folds test {unit}; "
                    f"expected each in one fold: report them apart"
                )


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


def measure(arm: Arm, names: Sequence[str]) -> dict[str, Estimate]:
    """Return the wanted scores of an arm: mean over folds, then seeds, with intervals over patients."""
    multi_label, threshold = bool(arm.protocol["multi_label"]), float(arm.protocol["threshold"])
    return estimate_folds(
        _tested(arm), arm.classes, multi_label=multi_label, threshold=threshold, names=names
    )


def difference(a: Arm, b: Arm, names: Sequence[str]) -> dict[str, Estimate]:
    """Return score(a) - score(b) of two arms of one model with the same folds, patients drawn jointly."""
    multi_label, threshold = bool(a.protocol["multi_label"]), float(a.protocol["threshold"])
    return paired_difference_folds(
        _tested(a), _tested(b), a.classes, multi_label=multi_label, threshold=threshold, names=names
    )


def _tested(arm: Arm) -> list[Answers]:
    """Return each test set with its answers; its patients are drawn alike in all arms of a model."""
    n_resamples, seed = int(arm.protocol["n_resamples"]), int(arm.protocol["bootstrap_seed"])
    return [
        Answers(
            first.target,
            [run.prob for run in arm.runs if run.fold == first.fold],
            draw_patients(first.patients, n_resamples=n_resamples, seed=seed, fold=first.fold),
        )
        for first in arm.one_seed
    ]


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
