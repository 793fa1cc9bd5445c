"""Paired differences between arms of one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cxr.metric.bootstrap import Estimate
from cxr.metric.operating_point import point_labels
from cxr.metric.paired_test import PairedTest, holm
from cxr.report.detail import paired_test
from cxr.report.mark import Mark
from cxr.report.published import PublishedPaper
from cxr.report.runs import Arm, difference
from cxr.report.spec import arm_name
from cxr.report.table import percent_points

__all__ = ["Difference", "compare_arms", "compare_classes", "more_digits", "unpaired", "verdict"]


@dataclass(frozen=True)
class Difference:
    """One arm minus its reference, for one model and score; same test images, same resamples.

    Attributes:
        test: McNemar's for accuracy, DeLong's for an AUROC: over patients, for these trained models, beside the
            bootstrap's; None where there is none for the score.
        p_holm: `p` adjusted for the other differences of the model that stand beside it (Holm).
    """

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
    test: PairedTest | None = None
    p_holm: float | None = None

    @property
    def p(self) -> float | None:
        """The two-sided p of "no difference" that goes with `interval`: below .05 where it excludes zero."""
        return self.ours.p if self.ours.low_seeds is None else self.ours.p_seeds

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """The interval to judge by: over patients and seeds where there are several, else over patients."""
        if self.ours.low_seeds is not None:
            return self.ours.low_seeds, self.ours.high_seeds
        return self.ours.low, self.ours.high


def compare_arms(
    arms: Sequence[Arm], comparisons: Sequence[Sequence[str]], metric: str, paper: PublishedPaper | None
) -> list[Difference]:
    """Return every wanted difference whose two arms were run, model by model; Holm over those of a model."""
    return _compare(arms, comparisons, paper, lambda _: [metric])


def compare_classes(
    arms: Sequence[Arm], comparisons: Sequence[Sequence[str]], paper: PublishedPaper | None
) -> list[Difference]:
    """Return the differences of AUROC class by class (of two exclusive classes the second: the first mirrors it).

    `p_holm` is adjusted for all classes and comparisons of the model.
    """

    def names(arm: Arm) -> list[str]:
        multi_label = bool(arm.protocol["multi_label"])
        return [f"auroc/{name}" for name in point_labels(arm.classes, multi_label=multi_label)]

    return _compare(arms, comparisons, paper, names)


def _compare(
    arms: Sequence[Arm],
    comparisons: Sequence[Sequence[str]],
    paper: PublishedPaper | None,
    metrics: Callable[[Arm], list[str]],
) -> list[Difference]:
    found = {(arm.model, arm.arm): arm for arm in arms}
    differences = []
    for model in dict.fromkeys(arm.model for arm in arms):
        of_model = []
        for name, reference in comparisons:
            a, b = found.get((model, name)), found.get((model, reference))
            if a is None or b is None or a.folds != b.folds:  # `unpaired` says so of folds
                continue
            names = metrics(a)
            of_model += [_pair(a, b, metric, ours, paper) for metric, ours in difference(a, b, names).items()]
        adjusted = holm([d.p for d in of_model])
        differences += [replace(d, p_holm=p) for d, p in zip(of_model, adjusted, strict=True)]
    return differences


def _pair(a: Arm, b: Arm, metric: str, ours: Estimate, paper: PublishedPaper | None) -> Difference:
    printed = [paper.find(a.model, arm, metric) for arm in (a.arm, b.arm)] if paper else []
    exact = [p.value for p in printed if p is not None and not p.bound]
    return Difference(
        model=a.model,
        model_name=paper.models.get(a.model, a.model) if paper else a.model,
        arm=a.arm,
        reference=b.arm,
        metric=metric,
        ours=ours,
        n_seeds=(a.n_seeds, b.n_seeds),
        published=exact[0] - exact[1] if len(exact) == 2 else None,
        degenerate=any(run.one_class is not None for run in (*a.runs, *b.runs)),
        marks=tuple(dict.fromkeys((*a.marks, *b.marks))),
        test=paired_test(a, b, metric),
    )


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


def more_digits(difference: Difference) -> int:
    """Return the digits that show an interval's end to be off zero where the usual ones round it to zero, 2 at most.

    Else "0.000 to +0.004" would stand beside "excludes zero".
    """
    if verdict(difference) != "excludes zero":
        return 0
    for more in (0, 1):
        ends = [percent_points(difference.metric, end, more=more) for end in difference.interval]
        if all(end.strip("0.") for end in ends):
            return more
    return 2
