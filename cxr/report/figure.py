"""Figures of a report: confusion matrices, training curves, forest plot of arm differences.

Drawn on `Figure` objects without pyplot, so nothing global is touched; text becomes outlines, so a class may
have any name and the page needs no font.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.metric.classification import confusion_matrix
from cxr.report.difference import Difference
from cxr.report.runs import Arm
from cxr.report.save import STYLE
from cxr.report.spec import arm_name
from cxr.report.table import PERCENT, metric_title, percent_points

__all__ = [
    "COLOURS",
    "FAINT",
    "INK",
    "OTHERS",
    "arm_colour",
    "confusion_figure",
    "curve_figure",
    "forest_figure",
    "short_name",
]

BEHIND: Any = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # keeps text apart from a line under it
INK, FAINT = "#1d1d1b", "#b9b9b4"
COLOURS = {
    "real_only": "#4b4b48",
    "synthetic": "#0f6a8c",
    "duplicate_real": "#c26a2c",
    "synthetic_only": "#7b5ea7",
    "undersample": "#5b8c3e",
    "augmented": "#a33b56",
}
OTHERS = (
    *("#8a7a2f", "#3d5a98", "#5b8c3e", "#a33b56", "#2f8a83", "#7b5ea7"),
    *("#c26a2c", "#5f6b76", "#b08bb5", "#97b36b"),
)


def confusion_figure(arms: Sequence[Arm]) -> Figure | None:
    """Confusion matrices of the arms of one model: mean count over seeds and share of the true class."""
    shown = [arm for arm in arms if not arm.protocol["multi_label"]]
    if not shown:
        return None
    n_classes = len(shown[0].classes)
    names = ["\n".join(textwrap.wrap(name, 14)) or name for name in shown[0].classes]
    label = 0.06 * max(len(line) for name in names for line in name.split("\n"))  # inches that a name needs
    side = 0.6 * n_classes + (0.9 if n_classes < 3 else max(0.9, label))
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(max(3.0, side * len(shown) + 0.4 * (n_classes > 2)), side + 0.35), layout="constrained"
        )
        panels: list[Axes] = list(figure.subplots(1, len(shown), squeeze=False)[0])
        for i, (axes, arm) in enumerate(zip(panels, shown, strict=True)):
            threshold = float(arm.protocol["threshold"])
            found = [confusion_matrix(r.target, r.prob, threshold=threshold) for r in arm.runs]
            counts = np.sum(found, axis=0) / arm.n_seeds  # all folds of a seed together
            share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            axes.imshow(share, cmap="Greys", vmin=0, vmax=1.25)
            for y in range(n_classes):
                for x in range(n_classes):
                    text = f"{counts[y, x]:.0f}" if arm.n_seeds == 1 else f"{counts[y, x]:.1f}"
                    axes.text(
                        x, y, f"{text}\n{100 * share[y, x]:.1f} %", ha="center", va="center", fontsize=8.5,
                        color="white" if share[y, x] > 0.6 else INK,
                    )  # fmt: skip
            slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
            axes.set_xticks(range(n_classes), names, **(slanted if n_classes > 2 else {}))
            upright = 90 if n_classes < 3 else 0
            axes.set_yticks(
                range(n_classes), names if i == 0 else [""] * n_classes, rotation=upright, va="center"
            )
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.set_title(short_name(arm.arm), color=INK)
            axes.set_xlabel("predicted")
            if i == 0:
                axes.set_ylabel("true")
        return figure


def forest_figure(differences: Sequence[Difference]) -> Figure | None:
    """Arm differences: point, thick line over patients, thin line over patients and seeds, dots per seed.

    Names stand above their lines, so that the figure stays narrow enough for a phone.
    """
    shown = [d for d in differences if d.ours.value is not None and d.ours.low is not None]
    if not shown:
        return None
    scale = 100 if shown[0].metric in PERCENT else 1
    models = list(dict.fromkeys(d.model for d in shown))
    several = len(models) > 1
    with mpl.rc_context(STYLE):
        rows = len(shown) + (0.75 * len(models) if several else 0)
        figure = Figure(figsize=(5.2, 0.7 + 0.56 * rows), layout="constrained")
        axes = figure.subplots()
        above: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "color": INK}
        y = 0.0
        for i, d in enumerate(shown):
            if several and (i == 0 or d.model != shown[i - 1].model):
                axes.annotate(
                    d.model_name, (0, y + 0.1), fontsize=9.5, fontweight="bold", bbox=BEHIND, **above
                )
                y -= 0.75
            colour = arm_colour(d.arm, i)
            low, high = d.interval
            told = f"{arm_name(d.arm)} − {arm_name(d.reference)}"
            axes.annotate(told, (0, y + 0.36), fontsize=8.5, bbox=BEHIND, **above)
            axes.annotate(percent_points(d.metric, d.ours.value), (1.02, y), fontsize=9, **above)
            if low is not None and high is not None:
                axes.plot([scale * low, scale * high], [y, y], color=colour, lw=1.0, solid_capstyle="butt")
            assert d.ours.low is not None and d.ours.high is not None and d.ours.value is not None
            over = [scale * d.ours.low, scale * d.ours.high]
            axes.plot(over, [y, y], color=colour, lw=3.6, solid_capstyle="butt")
            seeds = [scale * v for v in d.ours.per_seed]
            axes.plot(seeds, [y - 0.2] * len(seeds), ".", color=colour, ms=3.5)
            axes.plot(scale * d.ours.value, y, "o", color="white", mec=colour, mew=1.4, ms=6.5, zorder=4)
            if d.published is not None:
                axes.plot(scale * d.published, y, "D", color="none", mec=INK, mew=0.9, ms=5.5, zorder=5)
            y -= 1.0
        axes.axvline(0, color=INK, lw=0.8, zorder=0)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(y + 0.55, 0.6)
        unit = " (percentage points)" if scale == 100 else ""
        axes.set_xlabel(f"{metric_title(shown[0].metric).removesuffix(' (%)')}: difference{unit}")
        return figure


def curve_figure(curves: Mapping[str, pd.DataFrame]) -> Figure | None:
    """Training curves: one panel per quantity (`loss` of train/loss, val/loss), one line per run and part."""
    quantities = dict.fromkeys(
        c.rpartition("/")[2]
        for frame in curves.values()
        for c in frame.columns
        if c not in ("epoch", "step")
        and pd.api.types.is_numeric_dtype(frame[c])
        and frame[c].notna().sum() > 1
    )
    order = sorted(quantities, key=lambda q: ("loss" not in q, "acc" not in q, "lr" in q))[:4]
    if not order:
        return None
    columns = min(2, len(order))
    rows = math.ceil(len(order) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * columns, 2.5 * rows), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes in panels[len(order) :]:
            axes.set_visible(False)
        for axes, quantity in zip(panels, order, strict=False):
            styles: dict[str, str] = {}
            for i, (run, frame) in enumerate(curves.items()):
                x_name = "epoch" if "epoch" in frame.columns else "step"
                for column in (c for c in frame.columns if c.rpartition("/")[2] == quantity):
                    kept = frame[[x_name, column]].dropna() if x_name in frame else frame[[column]].dropna()
                    if kept.empty:
                        continue
                    kept = kept.groupby(x_name).mean() if x_name in kept else kept
                    part = column.rpartition("/")[0]
                    styles.setdefault(part, ("-", (0, (3, 2)), ":")[min(len(styles), 2)])  # type: ignore[arg-type]
                    axes.plot(
                        kept.index, kept[column], ls=styles[part], lw=1.2,
                        color=arm_colour(run.split(" · ")[0], i), alpha=0.85,
                    )  # fmt: skip
            axes.set_title(quantity, color=INK)
            axes.set_xlabel("epoch")
            named = {part: style for part, style in styles.items() if part}
            if len(named) > 1:
                for part, style in named.items():
                    axes.plot([], [], color=INK, ls=style, lw=1.2, label=part)
            groups = list(dict.fromkeys(run.split(" · ")[0] for run in curves))
            if axes is panels[0] and len(groups) > 1:
                for i, group in enumerate(groups):
                    axes.plot([], [], color=arm_colour(group, i), lw=2.5, label=short_name(group))
            if axes.get_legend_handles_labels()[1]:
                axes.legend()
        return figure


def arm_colour(arm: str, i: int) -> str:
    """Return the colour of an arm in every figure; one without a colour of its own takes the i-th other."""
    return COLOURS.get(arm) or OTHERS[i % len(OTHERS)]


def short_name(arm: str) -> str:
    """Return an arm in two words, for panels and legends."""
    return {"real_only": "real only", "synthetic": "GAN images", "duplicate_real": "real repeated"}.get(
        arm, arm.replace("_", " ")
    )
