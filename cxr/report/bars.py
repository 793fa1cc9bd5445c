"""Bars of a report: training images by class, arm and origin; scores by class with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cxr.report.figure import COLOURS, INK, OTHERS
from cxr.report.mark import RANDOM
from cxr.report.provenance import ORIGINS, training_counts
from cxr.report.runs import Arm
from cxr.report.save import STYLE
from cxr.report.spec import arm_name, arm_rank
from cxr.report.table import Row, Table, metric_title

__all__ = ["counts_figure", "scores_figure"]

ORIGIN = {
    "real": ("real", "#4b4b48"),
    "synthetic": ("GAN images", COLOURS["synthetic"]),
    "duplicated": ("real, repeated", COLOURS["duplicate_real"]),
}
MOST_BARS = 60  # in one panel; above that a table reads better
SLANTED = 5  # more names than these side by side are slanted


def counts_figure(arms: Sequence[Arm]) -> Figure | None:
    """Training images of each class: a group of stacked bars per class, one bar per arm, stacked by origin.

    Arms of several models that train on the same images share a bar.
    """
    bars: dict[tuple[str, tuple[tuple[str, tuple[float, ...]], ...]], Arm] = {}
    for arm in sorted(arms, key=lambda one: arm_rank(one.arm)):
        counts = tuple((c, tuple(training_counts(arm, c)[o] for o in ORIGINS)) for c in arm.classes)
        bars.setdefault((arm.arm, counts), arm)
    shown = list(bars.values())
    classes = list(dict.fromkeys(c for arm in shown for c in arm.classes))
    heights = np.array(
        [
            [[training_counts(arm, c)[o] if c in arm.classes else 0 for o in ORIGINS] for c in classes]
            for arm in shown
        ]
    )
    if heights.size == 0 or not heights.any() or heights[..., 0].size > MOST_BARS:
        return None
    names = [arm_name(arm.arm) for arm in shown]
    twice = [f"{n}, {arm.model}" if names.count(n) > 1 else n for n, arm in zip(names, shown, strict=True)]
    place, width = _places(len(classes), len(shown))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(min(10.0, 3.6 + 0.5 * heights[..., 0].size), 3.4), layout="constrained")
        axes = figure.subplots()
        for i in range(len(shown)):
            bottom = np.zeros(len(classes))
            for o, origin in enumerate(ORIGINS):
                label, colour = ORIGIN[origin]
                axes.bar(
                    place[:, i], heights[i, :, o], width, bottom=bottom, color=colour,
                    label=label if i == 0 and heights[..., o].any() else None,
                )  # fmt: skip
                bottom += heights[i, :, o]
            for x, top in zip(place[:, i], bottom, strict=True):
                axes.annotate(str(i + 1), (x, top), ha="center", va="bottom", fontsize=7.5, color=INK)
        _name_groups(axes, classes)
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel("training images")
        axes.margins(y=0.1)
        key = "\n".join(f"{i}  {name}" for i, name in enumerate(twice, 1))
        figure.legend(loc="outside right upper", title=key, title_fontsize=8.5, alignment="left")
        return figure


def scores_figure(table: Table) -> Figure | None:
    """Scores of a table by class: a panel per score, a group of bars per class, a bar per model and arm that ran."""
    rows: dict[tuple[str, str], dict[str, Row]] = {}
    for row in table.rows:
        if row.class_name is not None and any(c.ours is not None for c in row.cells):
            rows.setdefault((row.model_name, row.arm), {})[row.class_name] = row
    classes = list(dict.fromkeys(row.class_name or "" for row in table.rows))
    if not rows or len(rows) * len(classes) > MOST_BARS:
        return None
    place, width = _places(len(classes), len(rows))
    models = list(dict.fromkeys(model for model, _ in rows))
    wide = min(10.0, 2.6 + max(0.3 * len(rows), 1.0) * len(classes))
    with mpl.rc_context(STYLE):
        many = len(classes) > SLANTED  # then the names below and the legend above need height
        high = 0.5 + 1.9 * len(table.metrics) + (0.8 + 0.12 * len(rows) if many else 0.0)
        figure = Figure(figsize=(wide, high), layout="constrained")
        panels = list(figure.subplots(len(table.metrics), 1, squeeze=False, sharex=True)[:, 0])
        handles: list[Patch] = []
        for position, axes in enumerate(panels):
            for i, ((model, arm), by_class) in enumerate(rows.items()):
                label = (f"{model}, " if len(models) > 1 else "") + arm_name(arm)
                colour = (
                    OTHERS[i % len(OTHERS)] if len(models) > 1 else COLOURS.get(arm, OTHERS[i % len(OTHERS)])
                )
                if any(k.tag == RANDOM for row in by_class.values() for k in row.marks):
                    label += f", {RANDOM}"
                if position == 0:
                    handles.append(Patch(color=colour, alpha=0.8, label=label))
                for x, name in zip(place[:, i], classes, strict=True):
                    if name not in by_class:
                        continue
                    cell = by_class[name].cells[position]
                    if cell.ours is not None and cell.ours.value is None:
                        axes.text(x, 0.02, "n/a", ha="center", fontsize=7, color=INK)
                    if cell.ours is not None and cell.ours.value is not None:
                        axes.bar(x, cell.ours.value, width, color=colour, alpha=0.8)
                        if cell.ours.low is not None and cell.ours.high is not None:
                            axes.plot([x, x], [cell.ours.low, cell.ours.high], color=INK, lw=1.1)
                    if cell.published is not None and not cell.published.bound:
                        axes.plot(x, cell.published.value, "D", color="none", mec=INK, mew=0.9, ms=4)
            axes.set_ylim(0, 1.02)
            axes.set_title(metric_title(table.metrics[position]), color=INK)
            axes.tick_params(axis="x", length=0)
        _name_groups(panels[-1], classes)
        if many:
            figure.legend(handles=handles, loc="outside upper left", ncols=2)
        else:
            figure.legend(handles=handles, loc="outside right upper")
        return figure


def _name_groups(axes: Axes, classes: Sequence[str]) -> None:
    """Write the classes below their bars, slanted where many stand side by side."""
    slanted: dict[str, Any] = {"rotation": 60, "ha": "right", "rotation_mode": "anchor", "fontsize": 8}
    axes.set_xticks(np.arange(len(classes)), classes, **(slanted if len(classes) > SLANTED else {}))


def _places(n_groups: int, n_bars: int) -> tuple[np.ndarray, float]:
    """Return the centre of every bar (groups, bars) around 0, 1, 2, …, and the width of one."""
    width = 0.8 / n_bars
    return np.arange(n_groups)[:, None] + (np.arange(n_bars)[None] - (n_bars - 1) / 2) * width, width * 0.92
