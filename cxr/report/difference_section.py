"""The section of paired differences: of the lead score with its forest plot, and of AUROC class by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cxr.files import write_text
from cxr.report import export, html
from cxr.report.difference import Difference
from cxr.report.export_difference import differences_csv, differences_grid, told_of_tests
from cxr.report.figure import forest_figure
from cxr.report.notes import difference_notes
from cxr.report.save import save_figure
from cxr.report.table import metric_title

__all__ = ["difference_section"]

TEXT_COLUMNS = ("Model", "Arms", "Score", "The interval")
FOREST = (
    "Circle: mean over seeds; thick line: 95 % interval over patients; thin line: over patients and seeds; dots "
    "below: single seeds; diamond: the paper's difference, measured on two test sets."
)


def difference_section(
    differences: Sequence[Difference], by_class: Sequence[Difference], out: Path
) -> tuple[str, list[str]]:
    """Return the section as HTML and as Markdown; leaves differences{,-by-class}.{csv,md,tex} and the forest plot."""
    score = metric_title(differences[0].metric).replace(" (%)", ", percentage points")
    forest = save_figure(out, "differences", forest_figure(differences))
    picture = html.picture(forest, "svg+xml", FOREST) if forest else ""
    title = f"Paired differences between arms: {score}"
    shown, markdown = _table(title, differences, "differences", out)
    text, told = html.heading(title) + picture + shown, [markdown]
    others = [d for d in by_class if d.metric != differences[0].metric]
    if others:
        title = "Paired differences between arms: AUROC by class"
        shown, markdown = _table(title, others, "differences-by-class", out)
        text, told = text + html.heading(title) + shown, [*told, markdown]
    return text, told


def _table(title: str, differences: Sequence[Difference], name: str, out: Path) -> tuple[str, str]:
    head, body = differences_grid(differences)
    notes = told_of_tests(differences)
    alone = [*notes, *difference_notes(differences)]
    write_text(out / f"{name}.csv", differences_csv(differences))
    write_text(out / f"{name}.md", export.to_markdown(title, head, body, alone))
    write_text(out / f"{name}.tex", export.to_latex(title, head, body, alone))
    short, rows = differences_grid(differences, per_seed=False)
    numbers = [i for i, column in enumerate(short) if column not in TEXT_COLUMNS]
    table = html.grid_table(short, rows, numbers=numbers)
    below = "".join(html.note(n) for n in [*notes, f"Beside this page as {name}.csv, .md and .tex."])
    return table + below, export.to_markdown(title, head, body, notes)
