"""Figures of each model: ROC with bands, reliability, confusion, training curves; all its arms side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from cxr.report import html
from cxr.report.figure import confusion_figure, curve_figure
from cxr.report.figure_labels import label_figures
from cxr.report.published import PublishedPaper
from cxr.report.reliability import RELIABILITY_TOLD, arms_reliability, labels_reliability
from cxr.report.roc import BAND_TOLD, roc_figure
from cxr.report.runs import Arm
from cxr.report.save import save_figure
from cxr.report.spec import arm_name

__all__ = ["model_sections"]

MOST_PANELS = 4  # labels that have a ROC figure each beside that of all labels

Named = tuple[str, Figure | None, str]  # file name, figure, caption


def model_sections(arms: Sequence[Arm], published: PublishedPaper | None, out: Path) -> str:
    """Return the figures of all models, each model under its heading; they are also left as files in `out`."""
    parts = []
    for model in dict.fromkeys(arm.model for arm in arms):
        mine = [arm for arm in arms if arm.model == model]
        name = published.models.get(model, model) if published else model
        figures = [*_curves(mine, name), *_reliability(mine, name), _confusion(mine), _training(mine)]
        pictures = [
            html.picture(svg, "svg+xml", told)
            for file, figure, told in figures
            if (svg := save_figure(out, file, figure)) is not None
        ]
        parts.append(html.heading(name) + html.pair(pictures))
    return "".join(parts)


def _curves(arms: Sequence[Arm], name: str) -> Iterator[Named]:
    """Yield ROC figures: of all labels together, and of each class where there are few."""
    yield from label_figures(arms, name)
    first = arms[0]
    classes = first.classes
    if first.protocol["multi_label"] and len(classes) > MOST_PANELS:
        return  # the figure of all labels has them
    lines = "seeds and folds" if any(arm.folds for arm in arms) else "seeds"
    thin = f"thin lines are {lines}, thick lines their vertical mean. " if _several(arms) else ""
    for class_name in classes[1:] if len(classes) == 2 and not first.protocol["multi_label"] else classes:
        told = f"ROC of {class_name} on {_tested_on(arms)}; {thin}{BAND_TOLD}"
        yield f"roc-{first.model}-{class_name}", roc_figure(arms, class_name), told


def _reliability(arms: Sequence[Arm], name: str) -> Iterator[Named]:
    model = arms[0].model
    told = f"Reliability on {_tested_on(arms)}. "
    told += RELIABILITY_TOLD.format(confidence="the most probable class's probability")
    yield f"reliability-{model}", arms_reliability(arms), told
    for arm in arms:
        told = RELIABILITY_TOLD.format(confidence="the label's probability")
        told = f"Reliability of each label, {name}, {arm_name(arm.arm)}, on {_tested_on([arm])}. {told}"
        yield f"reliability-{model}-{arm.arm}", labels_reliability(arm), told


def _confusion(arms: Sequence[Arm]) -> Named:
    mean = "mean over seeds" if any(arm.n_seeds > 1 for arm in arms) else "count"
    told = f"Test images by true and predicted class ({_tested_on(arms)}): {mean}, share of the true class."
    return f"confusion-{arms[0].model}", confusion_figure(arms), told


def _training(arms: Sequence[Arm]) -> Named:
    curves = {
        f"{arm.arm} · seed {run.result['seed']} · fold {run.fold}": pd.read_csv(run.path / "metrics.csv")
        for arm in arms
        for run in arm.runs
        if (run.path / "metrics.csv").is_file() and (run.path / "metrics.csv").stat().st_size
    }
    each = "seed and fold" if any(arm.folds for arm in arms) else "seed"
    told = f"Training, one line per {each}: " + ", ".join(arm_name(a.arm) for a in arms) + "."
    return f"training-{arms[0].model}", curve_figure(curves), told


def _several(arms: Sequence[Arm]) -> bool:
    return any(len(arm.runs) > 1 for arm in arms)


def _tested_on(arms: Sequence[Arm]) -> str:
    """Return on what the arms were tested: "1,171 test images of 685 patients"."""
    return " / ".join(
        dict.fromkeys(
            f"{arm.n_images:,} test images"
            + (f" of {arm.n_patients:,} patients" if arm.knows_patients else "")
            for arm in arms
        )
    )
