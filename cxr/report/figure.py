"""Figures of a report as SVG bytes: ROC, confusion matrices, training curves, forest plot of arm differences.

Drawn on `Figure` objects without pyplot, so nothing global is touched; text becomes outlines, so a class may
have any name and the page needs no font.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.metric.classification import confusion_matrix, roc_points
from cxr.report.difference import Difference
from cxr.report.runs import Arm, measure
from cxr.report.spec import arm_name
from cxr.report.table import percent_points

__all__ = [
    "COLOURS",
    "INK",
    "OTHERS",
    "STYLE",
    "confusion_figure",
    "curve_figure",
    "forest_figure",
    "roc_figure",
    "svg",
]

STYLE: Any = {  # matplotlib lists every key in its type, which changes with its version
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.edgecolor": "#6b6b6b",
    "axes.labelcolor": "#333333",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.parse_math": False,  # a class name may hold a $
    "svg.fonttype": "path",
    "svg.hashsalt": "cxr",
    "figure.facecolor": "white",
}
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


def roc_figure(arms: Sequence[Arm], class_name: str) -> bytes | None:
    """ROC of one class for all arms of one model: thin lines are seeds, the thick one their vertical mean."""
    metric = f"auroc/{class_name}"
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 4.1), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=FAINT, lw=0.8, ls=(0, (2, 3)))
        grid, drawn = np.linspace(0, 1, 501), 0
        for i, arm in enumerate(arms):
            c = arm.classes.index(class_name)
            curves = []
            for run in arm.runs:
                known = ~np.isnan(run.target[:, c])
                points = roc_points(run.target[known, c], run.prob[known, c])
                if points is None:
                    continue
                axes.plot(*points, color=_colour(arm.arm, i), lw=0.6, alpha=0.4)
                curves.append(np.interp(grid, *points))
            if not curves:
                continue
            area = measure(arm, [metric])[metric]
            told = f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]" if area.low is not None else "n/a"
            mean = np.r_[0.0, np.mean(curves, axis=0)]
            axes.plot(
                np.r_[0.0, grid],
                mean,
                color=_colour(arm.arm, i),
                lw=1.8,
                label=f"{arm_name(arm.arm)}\n{told}",
            )
            drawn += 1
        if not drawn:
            return None
        axes.set(
            xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal"
        )
        axes.set_title(f"{class_name}: AUROC [95 % interval]", color=INK)
        axes.legend(loc="lower right", labelspacing=0.7, handlelength=1.4)
        return svg(figure)


def confusion_figure(arms: Sequence[Arm]) -> bytes | None:
    """Confusion matrices of the arms of one model: mean count over seeds and share of the true class."""
    shown = [arm for arm in arms if not arm.protocol["multi_label"]]
    if not shown:
        return None
    n_classes = len(shown[0].classes)
    side = 0.9 + 0.6 * n_classes
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(3.0, side * len(shown)), side + 0.35), layout="constrained")
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
            names = list(arm.classes)
            axes.set_xticks(range(n_classes), names, rotation=0 if n_classes < 3 else 30)
            upright = 90 if n_classes < 3 else 0
            axes.set_yticks(
                range(n_classes), names if i == 0 else [""] * n_classes, rotation=upright, va="center"
            )
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.set_title(_short(arm.arm), color=INK)
            axes.set_xlabel("predicted")
            if i == 0:
                axes.set_ylabel("true")
        return svg(figure)


def forest_figure(differences: Sequence[Difference]) -> bytes | None:
    """Arm differences: point, thick line over patients, thin line over patients and seeds, dots per seed."""
    shown = [d for d in differences if d.ours.value is not None and d.ours.low is not None]
    if not shown:
        return None
    scale = 100 if shown[0].metric == "accuracy" else 1
    models = list(dict.fromkeys(d.model for d in shown))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.75 + 0.46 * len(shown) + 0.1 * len(models)), layout="constrained")
        axes = figure.subplots()
        ticks, labels, y = [], [], 0.0
        for i, d in enumerate(shown):
            y -= 0.35 if i and d.model != shown[i - 1].model else 0.0
            colour = _colour(d.arm, i)
            low, high = d.interval
            if low is not None and high is not None:
                axes.plot([scale * low, scale * high], [y, y], color=colour, lw=1.0, solid_capstyle="butt")
            assert d.ours.low is not None and d.ours.high is not None and d.ours.value is not None
            axes.plot(
                [scale * d.ours.low, scale * d.ours.high], [y, y], color=colour, lw=3.6, solid_capstyle="butt"
            )
            axes.plot(
                [scale * v for v in d.ours.per_seed],
                [y - 0.27] * len(d.ours.per_seed),
                ".",
                color=colour,
                ms=3.5,
            )
            axes.plot(scale * d.ours.value, y, "o", color="white", mec=colour, mew=1.4, ms=6.5, zorder=4)
            if d.published is not None:
                axes.plot(scale * d.published, y, "D", color="none", mec=INK, mew=0.9, ms=5.5, zorder=5)
            ticks.append(y)
            head = f"{d.model_name}: " if len(models) > 1 else ""
            labels.append(f"{head}{_short(d.arm)} − {_short(d.reference)}")
            shift = percent_points(d.metric, d.ours.value)
            axes.annotate(
                shift, (1.01, y), xycoords=("axes fraction", "data"), va="center", color=INK, fontsize=9
            )
            y -= 1.0
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_yticks(ticks, labels)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(y + 0.35, 0.5)
        unit = "accuracy, percentage points" if scale == 100 else shown[0].metric
        axes.set_xlabel(f"difference in {unit}")
        return svg(figure)


def curve_figure(curves: Mapping[str, pd.DataFrame]) -> bytes | None:
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
                        color=_colour(run.split(" · ")[0], i), alpha=0.85,
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
                    axes.plot([], [], color=_colour(group, i), lw=2.5, label=_short(group))
            if axes.get_legend_handles_labels()[1]:
                axes.legend()
        return svg(figure)


def _colour(arm: str, i: int) -> str:
    return COLOURS.get(arm) or OTHERS[i % len(OTHERS)]


def _short(arm: str) -> str:
    return {"real_only": "real only", "synthetic": "GAN images", "duplicate_real": "real repeated"}.get(
        arm, arm.replace("_", " ")
    )


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG, the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
