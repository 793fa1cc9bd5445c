"""The section of operating points and of scores by view and by source, as tables on the page and beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cxr.files import write_text
from cxr.metric.bootstrap import Estimate
from cxr.metric.operating_point import YOUDEN, point_labels
from cxr.report import export, html
from cxr.report.detail import FEWEST_IMAGES, operating_points, scores_by
from cxr.report.published import PublishedPaper
from cxr.report.runs import Arm
from cxr.report.spec import arm_name
from cxr.report.table import metric_title, show

__all__ = ["groups_grid", "groups_section", "points_grid", "points_section", "section_table"]

Grid = tuple[list[str], list[list[str]]]
POINTS = (
    "Each run chooses its thresholds on its validation images, never on test images: Youden's has the largest sensitivity "
    "+ specificity − 1, specificity ≥ s the largest sensitivity among thresholds with that specificity. On test images "
    "the specificity may fall short of s. [95 % interval over patients]."
)
GROUPS = (
    f"Groups of at least {FEWEST_IMAGES} test images; 95 % intervals over the patients of the group, in brackets. Groups "
    "differ in more than their name (who is imaged lying down, who goes where), so they say where a model is weak, not "
    "why."
)
MOST_SCORES = 3  # classes whose AUROC stands in a table by view


def points_grid(arms: Sequence[Arm], published: PublishedPaper | None) -> Grid:
    """Return headings and rows of the operating points that every run of an arm has."""
    head = ["Model", "Arm", "Class", "Rule", "Threshold", "Validation: sensitivity", "specificity"]
    head += ["images (with it)", "Test: sensitivity", "specificity", "precision", "images (patients)"]
    body = []
    for arm in arms:
        for point in operating_points(arm):
            low, high = min(point.thresholds), max(point.thresholds)
            cut = f"{low:.3f}" if f"{low:.3f}" == f"{high:.3f}" else f"{low:.3f} to {high:.3f}"
            val = [f"{point.val_sensitivity:.3f}", f"{point.val_specificity:.3f}"]
            line = [_name(arm, published), arm_name(arm.arm), point.label, _rule(point.rule), cut, *val]
            line.append(f"{point.n_val:,} ({point.n_val_positive:,})")
            line += [_with_interval("", point.test[k]) for k in ("sensitivity", "specificity", "precision")]
            body.append(
                [*line, _images(arm, point.test["sensitivity"].n, point.test["sensitivity"].n_patients)]
            )
    return head, body


def groups_grid(
    arms: Sequence[Arm], published: PublishedPaper | None, column: Literal["view", "source"], lead: str
) -> Grid:
    """Return headings and rows of the lead score and AUROC in each view, or each source, of the test images."""
    names = _scores(arms, lead)
    head = ["Model", "Arm", column.capitalize(), *(metric_title(m) for m in names), "Images (patients)"]
    body = []
    for arm in arms:
        wanted = [m for m in names if "/" not in m or m.partition("/")[2] in arm.classes]
        for group in scores_by(arm, column, wanted):
            line = [_name(arm, published), arm_name(arm.arm), group.group]
            line += [_with_interval(m, group.scores[m]) if m in group.scores else "—" for m in names]
            body.append([*line, _images(arm, group.n_images, group.n_patients)])
    return head, body


def points_section(arms: Sequence[Arm], published: PublishedPaper | None, out: Path) -> tuple[str, list[str]]:
    """Return the operating points as HTML and as Markdown; "" and [] where no run has any."""
    grid = points_grid(arms, published)
    return section_table(
        "Thresholds chosen on validation images", grid, [POINTS], "operating-points", out, texts=4
    )


def groups_section(
    arms: Sequence[Arm], published: PublishedPaper | None, lead: str, out: Path
) -> tuple[str, list[str]]:
    """Return the scores by view and by source as HTML and as Markdown; "" and [] where the images have one of each."""
    text = ""
    markdown: list[str] = []
    columns: tuple[Literal["view", "source"], ...] = ("view", "source")
    for column in columns:
        grid = groups_grid(arms, published, column, lead)
        shown, told = section_table(f"Scores by {column}", grid, [GROUPS], f"by-{column}", out, texts=3)
        text, markdown = text + shown, [*markdown, *told]
    return text, markdown


def section_table(
    title: str, grid: Grid, notes: Sequence[str], name: str, out: Path, *, texts: int
) -> tuple[str, list[str]]:
    """Return a table with its notes; also left as files. `texts`: columns before the first number."""
    head, body = grid
    if not body:
        return "", []
    markdown = export.to_markdown(title, head, body, notes)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(
        [head, *([export.csv_safe(c) for c in row] for row in body)]
    )
    write_text(out / f"{name}.csv", buffer.getvalue())
    write_text(out / f"{name}.md", markdown)
    write_text(out / f"{name}.tex", export.to_latex(title, head, body, notes))
    below = "".join(html.note(n) for n in [*notes, f"Beside this page as {name}.csv, .md and .tex."])
    table = html.grid_table(head, body, numbers=range(texts, len(head)))
    return html.heading(title) + table + below, [markdown]


def _scores(arms: Sequence[Arm], lead: str) -> list[str]:
    """Return the lead score and the AUROC of each class where there are few, else their mean."""
    labels = list(
        dict.fromkeys(
            label
            for arm in arms
            for label in point_labels(arm.classes, multi_label=bool(arm.protocol["multi_label"]))
        )
    )
    ranking = [f"auroc/{c}" for c in labels] if len(labels) <= MOST_SCORES else ["auroc_macro"]
    return list(dict.fromkeys([lead, *ranking]))


def _rule(rule: str) -> str:
    return "Youden" if rule == YOUDEN else rule.replace(">=", " ≥ ")


def _with_interval(metric: str, score: Estimate) -> str:
    bounds = "" if score.low is None else f" [{show(metric, score.low)}, {show(metric, score.high)}]"
    return f"{show(metric, score.value)}{bounds}"


def _images(arm: Arm, n: int, n_patients: int) -> str:
    return f"{n:,} ({f'{n_patients:,}' if arm.knows_patients else 'unknown'})"


def _name(arm: Arm, published: PublishedPaper | None) -> str:
    return published.models.get(arm.model, arm.model) if published else arm.model
