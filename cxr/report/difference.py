"""Paired differences between arms of one model, and the sentence that opens a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxr.metric.bootstrap import Estimate
from cxr.report.mark import NO_PATIENTS, Mark
from cxr.report.published import PublishedPaper
from cxr.report.runs import Arm, difference
from cxr.report.spec import ReportSpec, arm_name
from cxr.report.table import metric_title, percent_points

__all__ = ["Difference", "compare_arms", "summary", "unpaired", "verdict"]


@dataclass(frozen=True)
class Difference:
    """One arm minus its reference, for one model and score; same test images, same resamples."""

    model: str
    model_name: str
    arm: str
    reference: str
    metric: str
    ours: Estimate
    n_seeds: tuple[int, int]
    published: float | None
    degenerate: bool
    marks: tuple[Mark, ...] = ()

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """The interval to judge by: over patients and seeds where there are several, else over patients."""
        if self.ours.low_seeds is not None:
            return self.ours.low_seeds, self.ours.high_seeds
        return self.ours.low, self.ours.high


def compare_arms(
    arms: Sequence[Arm], comparisons: Sequence[Sequence[str]], metric: str, paper: PublishedPaper | None
) -> list[Difference]:
    """Return every wanted difference whose two arms were run, model by model."""
    found = {(arm.model, arm.arm): arm for arm in arms}
    differences = []
    for model in dict.fromkeys(arm.model for arm in arms):
        for name, reference in comparisons:
            a, b = found.get((model, name)), found.get((model, reference))
            if a is None or b is None:
                continue
            if a.folds != b.folds:  # `unpaired` says so
                continue
            ours = difference(a, b, [metric])
            if metric not in ours:
                continue
            printed = [paper.find(model, arm, metric) for arm in (name, reference)] if paper else []
            exact = [p.value for p in printed if p is not None and not p.bound]
            theirs = exact[0] - exact[1] if len(exact) == 2 else None
            collapsed = any(run.one_class is not None for run in (*a.runs, *b.runs))
            model_name = paper.models.get(model, model) if paper else model
            n_seeds = (a.n_seeds, b.n_seeds)
            marks = tuple(dict.fromkeys((*a.marks, *b.marks)))
            differences.append(
                Difference(
                    model,
                    model_name,
                    name,
                    reference,
                    metric,
                    ours[metric],
                    n_seeds,
                    theirs,
                    collapsed,
                    marks,
                )
            )
    return differences


def unpaired(arms: Sequence[Arm], comparisons: Sequence[Sequence[str]]) -> list[str]:
    """Return a sentence for each wanted difference whose arms were run on unlike folds: it is not shown."""
    found = {(arm.model, arm.arm): arm for arm in arms}
    pairs = [
        (found[model, name], found[model, reference])
        for model in dict.fromkeys(arm.model for arm in arms)
        for name, reference in comparisons
        if (model, name) in found and (model, reference) in found
    ]
    return [
        f"{a.model}: {arm_name(a.arm)} (folds {', '.join(map(str, a.folds))}) and {arm_name(b.arm)} (folds "
        f"{', '.join(map(str, b.folds))}) were tested on unlike folds and are not compared"
        for a, b in pairs
        if a.folds != b.folds
    ]


def verdict(difference: Difference) -> str:
    """Return in words what the interval says about the sign."""
    low, high = difference.interval
    if low is None or high is None:
        return "not defined"
    if low > 0 or high < 0:
        return "excludes zero"
    return "includes zero"


def summary(spec: ReportSpec, differences: Sequence[Difference], n_arms: int) -> list[str]:
    """Return the opening sentences: effect of the lead model's arms, interval and n, the paper's."""
    models = [d.model for d in differences]
    lead = spec.lead_model if spec.lead_model in models else (models[0] if models else None)
    if lead is None:
        return [f"{n_arms} model and arm combinations were evaluated; no two arms of one model to compare."]
    sentences = []
    for d in (d for d in differences if d.model == lead):
        low, high = (percent_points(d.metric, v) for v in d.interval)
        unit = " points" if d.metric == "accuracy" else ""
        score = (
            metric_title(d.metric).replace(" (%)", "").lower()
            if "/" not in d.metric
            else metric_title(d.metric)
        )
        over = "patients and seeds" if d.ours.low_seeds is not None else "patients"
        seeds = " and ".join(dict.fromkeys(str(n) for n in d.n_seeds))
        unknown = any(mark.tag == NO_PATIENTS for mark in d.marks)
        of = ", patients unknown" if unknown else f" of {d.ours.n_patients:,} patients"
        sentences.append(
            f"{d.model_name}, {arm_name(d.arm)} against {arm_name(d.reference)}: {score} changed by "
            f"{percent_points(d.metric, d.ours.value)}{unit} (95 % interval over {over} {low} to {high}; "
            f"{d.ours.n:,} test images{of}; seeds per arm: {seeds}). "
            f"The interval {verdict(d)}."
            + (
                f" The paper prints {percent_points(d.metric, d.published)}{unit}."
                if d.published is not None
                else ""
            )
            + (" A model that predicts one class only is among these runs." if d.degenerate else "")
        )
    return sentences
