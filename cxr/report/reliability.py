"""Reliability diagrams: how often a model is right among images that it is equally sure of, and how many those are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.metric.bootstrap import Estimate
from cxr.metric.calibration import BINS, Reliability, reliability_curve
from cxr.metric.resample import Resamples, draw_patients
from cxr.report.figure import FAINT, INK, arm_colour, short_name
from cxr.report.runs import Arm, measure
from cxr.report.save import STYLE

__all__ = ["RELIABILITY_TOLD", "arms_reliability", "labels_reliability", "pooled_reliability"]

MOST_COLUMNS = 3
RELIABILITY_TOLD = (
    f"Points: share of right answers in each of {BINS} equal bins of {{confidence}}, 95 % interval over patients, all "
    "seeds and folds together; bars: test images in the bin, as a share. On the diagonal the probabilities mean "
    f"what they say. ECE over {BINS} bins [95 % interval]: mean over seeds; even a perfect model's is above 0 in "
    "a sample, so the interval starts at 0 unless a calibrated model would show as much in fewer than 1 of 20 test sets."
)


def arms_reliability(arms: Sequence[Arm]) -> Figure | None:
    """Draw a panel per arm of one model of a single-label task, by the probability of the most probable class."""
    shown = [arm for arm in arms if not arm.protocol["multi_label"]]
    if not shown:
        return None
    panels = [
        (short_name(arm.arm), measure(arm, ["ece15"])["ece15"], pooled_reliability(arm, None), arm_colour(arm.arm, i))
        for i, arm in enumerate(shown)
    ]  # fmt: skip
    return _figure(panels, "confidence", "share right")


def labels_reliability(arm: Arm) -> Figure | None:
    """Draw a panel per label of an arm with independent labels, by the label's probability."""
    if not arm.protocol["multi_label"]:
        return None
    names = [f"ece15/{name}" for name in arm.classes]
    found = measure(arm, names)
    panels = [
        (label, found[name], pooled_reliability(arm, c), arm_colour(arm.arm, 0))
        for c, (label, name) in enumerate(zip(arm.classes, names, strict=True))
    ]
    return _figure(panels, "probability", "share with the label")


def pooled_reliability(arm: Arm, label: int | None) -> Reliability:
    """Return the curve of all runs of an arm together: each answer of each seed counts, patients are drawn once.

    `label`: as in `cxr.metric.calibration.confidences`.
    """
    target, prob, groups, weights, n_groups = [], [], [], [], 0
    n_resamples, seed = int(arm.protocol["n_resamples"]), int(arm.protocol["bootstrap_seed"])
    for first in arm.one_seed:  # one per fold
        drawn = draw_patients(first.patients, n_resamples=n_resamples, seed=seed, fold=first.fold)
        weights.append(drawn.weights)
        for run in (run for run in arm.runs if run.fold == first.fold):
            target.append(run.target)
            prob.append(run.prob)
            groups.append(drawn.groups + n_groups)
        n_groups += drawn.n_patients
    resamples = Resamples(np.concatenate(groups), np.concatenate(weights, axis=1), seed)
    return reliability_curve(np.concatenate(target), np.concatenate(prob), label, resamples)


def _figure(
    panels: Sequence[tuple[str, Estimate, Reliability, str]], x_label: str, y_label: str
) -> Figure | None:
    """Draw panels of (title, ECE, curve, colour), at most three side by side."""
    columns = min(MOST_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with mpl.rc_context(STYLE):
        side = 1.8 if columns > 1 else 2.8
        figure = Figure(figsize=(0.4 + side * columns, 0.3 + (side + 0.4) * rows), layout="constrained")
        axes: list[Axes] = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
        for empty in axes[len(panels) :]:
            empty.set_visible(False)
        for i, (panel, (title, ece, curve, colour)) in enumerate(zip(axes, panels, strict=False)):
            panel.plot([0, 1], [0, 1], color=FAINT, lw=0.8, ls=(0, (2, 3)))
            if curve.n.size:
                panel.bar(
                    curve.confidence, curve.n / curve.n.sum(), 0.8 / BINS, color=colour, alpha=0.2, lw=0
                )
                panel.vlines(curve.confidence, curve.low, curve.high, color=colour, lw=1.1)
                panel.plot(curve.confidence, curve.frequency, "o-", color=colour, ms=3.2, lw=0.9)
            panel.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            panel.set_title(f"{title}\n{_ece(ece)}", color=INK, fontsize=8.5)
            if i + columns >= len(panels):
                panel.set_xlabel(x_label)
                panel.tick_params(labelbottom=True)
            if i % columns == 0:
                panel.set_ylabel(y_label)
        return figure


def _ece(ece: Estimate) -> str:
    if ece.value is None:
        return "ECE n/a"
    return f"ECE {ece.value:.3f}" + ("" if ece.low is None else f" [{ece.low:.3f}, {ece.high:.3f}]")
