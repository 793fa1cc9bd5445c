"""One figure of the ROC curves of all labels of a multi-label model, their AUROC in the legend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from cxr.metric.classification import roc_points
from cxr.report.figure import FAINT, INK
from cxr.report.runs import Arm, measure
from cxr.report.save import STYLE
from cxr.report.spec import arm_name

__all__ = ["label_figures", "labels_figure"]

HUES = ("#0f6a8c", "#c26a2c", "#5b8c3e", "#a33b56", "#7b5ea7", "#8a7a2f", "#4b4b48")
DASHES: tuple[tuple[int, tuple[float, ...]], ...] = ((0, ()), (0, (4, 1.5)), (0, (1.2, 1.2)))


def label_figures(arms: Sequence[Arm], model_name: str) -> Iterator[tuple[str, Figure | None, str]]:
    """Yield file name, figure and caption of the figure of each arm of one model that has independent labels."""
    for arm in arms:
        if not arm.protocol["multi_label"]:
            continue
        mean = f" (vertical mean of {len(arm.runs)} runs)" if len(arm.runs) > 1 else ""
        told = (
            f"ROC of all labels, {model_name}, {arm_name(arm.arm)}{mean}. "
            "n/a: fewer than two positive or two negative test images."
        )
        yield f"roc-{arm.model}-{arm.arm}-all-labels", labels_figure(arm), told


def labels_figure(arm: Arm) -> Figure:
    """Draw a curve for each label of an arm; the legend has every label, those without a curve as n/a.

    AUROC and its interval are those of the tables, the curve is the vertical mean over seeds and folds.
    """
    areas = measure(arm, [f"auroc/{name}" for name in arm.classes])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=FAINT, lw=0.8, ls=(0, (2, 3)))
        grid = np.linspace(0, 1, 501)
        for c, name in enumerate(arm.classes):
            curves = []
            for run in arm.runs:
                known = ~np.isnan(run.target[:, c])
                points = roc_points(run.target[known, c], run.prob[known, c])
                if points is not None:
                    curves.append(np.interp(grid, *points))
            style: dict[str, Any] = {
                "color": HUES[c % len(HUES)],
                "ls": DASHES[c // len(HUES) % len(DASHES)],
                "lw": 1.3,
            }
            area = areas[f"auroc/{name}"]
            if curves and area.value is not None:
                told = "" if area.low is None else f" [{area.low:.3f}, {area.high:.3f}]"
                x, y = np.r_[0.0, grid], np.r_[0.0, np.mean(curves, axis=0)]
                axes.plot(x, y, label=f"{name}  {area.value:.3f}{told}", **style)
            else:
                axes.plot([], [], label=f"{name}  n/a", **{**style, "color": FAINT})
        axes.set(
            xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal"
        )
        axes.set_title(f"{arm_name(arm.arm)}: AUROC [95 % interval]", color=INK)
        figure.legend(loc="outside right center", labelspacing=0.55, handlelength=2.2)
        return figure
