"""Builds a report folder: report.html, its tables as CSV, Markdown and LaTeX, its figures as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxr.errors import UserError
from cxr.files import write_text
from cxr.report import export, html
from cxr.report.difference import Difference, compare_arms, summary
from cxr.report.figure import confusion_figure, curve_figure, forest_figure, roc_figure
from cxr.report.provenance import counts_grid, run_entry, synthetic_entry, synthetic_sets
from cxr.report.published import PublishedPaper, load_published, published_papers
from cxr.report.runs import Arm, group_runs, load_run
from cxr.report.spec import ReportSpec, arm_name, generic_spec
from cxr.report.table import Table, build_table, metric_title

__all__ = ["build_report"]

METHOD = """
Every score is the mean over seeds of the score on all test images. Its 95 % interval resamples patients
(all images of a drawn patient together, the same draws for every seed and arm), takes percentiles, and holds
for these trained models. SD is the standard deviation over seeds.

Differences between arms are paired: both arms of a resample see the same patients. Where both arms have
several seeds, a second interval draws seeds as well as patients; with few seeds it is still too narrow.

Precision, recall and F1 are unweighted means over the classes; a class that is never predicted has precision
0. AUPRC is the average precision. A score that a test set does not define is n/a.

The test images are real, held out, and the same in every arm of a model: ids, labels, patients, split
fingerprint and evaluation protocol were compared before anything was averaged. GAN images and repeated images
enter the training part only.
"""


def build_report(
    runs: list[Path], synthetic: list[Path], out: Path, paper: str, spec: ReportSpec | None = None
) -> Path:
    """Write the report of evaluated runs into the folder `out` and return the path of its page.

    Args:
        runs: folders with result.json and predictions.parquet.
        synthetic: synthetic sets whose sample grids to show.
        paper: key of the published values, or any name.
        spec: what to show; one table of everything found when None.

    Raises:
        UserError: no runs, one that was not evaluated, runs that cannot be averaged or compared.
    """
    if not runs:
        raise UserError("no runs to report; expected folders of evaluated runs, e.g. runs=[runs/a,runs/b]")
    spec = spec or generic_spec(paper)
    if spec.paper != paper:
        raise UserError(f"report={spec.paper} does not fit paper={paper}; expected the same name")
    published = load_published(paper) if paper in published_papers() else None
    loaded = [load_run(path) for path in runs]
    for one in loaded:
        if published is not None and one.result["paper"] not in (paper, None):
            raise UserError(
                f"run {one.name} is of paper {one.result['paper']!r}, expected {paper!r}; leave it out"
            )
    arms = group_runs(loaded)
    tables = [t for s in spec.tables if (t := build_table(s, arms, published, spec.lead_metric)) is not None]
    differences = compare_arms(arms, spec.comparisons, spec.lead_metric, published)
    sections = [("Results", _results(tables, published, out))]
    if differences:
        sections.append(("Differences between arms", _differences(differences, out)))
    sections.append(("Curves and errors", _figures(arms, published, out)))
    sections.append(("Images used", html.grid_table(*counts_grid(arms, published), numbers=(3, 4, 5, 6, 7))))
    sets = synthetic_sets(synthetic)
    if sets:
        sections.append(("GAN images", "".join(synthetic_entry(one, out) for one in sets)))
    sections.append(("How it was measured", _method(published)))
    sections.append(("Provenance", "".join(run_entry(one) for one in sorted(loaded, key=lambda r: r.name))))
    byline = (
        f"Beside {published.authors}: {published.title}"
        if published
        else f"{len(arms)} model and arm combinations"
    )
    text = html.page(
        spec.title,
        f"cxr report · {paper}",
        byline,
        summary(spec, differences, len(arms)),
        _top(arms, published),
        sections,
    )
    target = out / "report.html"
    write_text(target, text)
    return target


def _top(arms: Sequence[Arm], published: PublishedPaper | None) -> str:
    """Facts that hold for the whole report, and what a reader must know before the tables."""
    runs = [run for arm in arms for run in arm.runs]
    tests = sorted({(len(run.image_ids), _patients(run.patients)) for run in runs})
    names = published.models if published else {}
    marks = [
        f"{names.get(arm.model, arm.model)}, {arm_name(arm.arm)}: {m}" for arm in arms for m in arm.marks
    ]
    return html.facts(
        [
            ("Runs", str(len(runs))),
            ("Models", str(len({arm.model for arm in arms}))),
            ("Arms", ", ".join(dict.fromkeys(arm_name(arm.arm) for arm in arms))),
            ("Test images (patients)", ", ".join(f"{n:,} ({k:,})" for n, k in tests)),
            ("Split", ", ".join(sorted({run.result["split_name"] for run in runs}))),
            ("Interval", ", ".join(sorted({run.result["protocol"]["interval"] for run in runs}))),
        ]
    ) + html.alarm("Read these rows with care", marks)


def _patients(patients: Sequence[str | None]) -> int:
    known = {p for p in patients if p is not None}
    return len(known) + sum(p is None for p in patients)


def _results(tables: Sequence[Table], published: PublishedPaper | None, out: Path) -> str:
    parts = []
    for table in tables:
        notes = []
        if table.has_published and published is not None:
            notes.append(f"† Printed by the paper, measured under another protocol: {published.protocol}.")
        head, body = export.to_grid(table)
        write_text(out / f"{table.name}.csv", export.to_csv(table))
        write_text(out / f"{table.name}.md", export.to_markdown(table.title, head, body, notes))
        write_text(out / f"{table.name}.tex", export.to_latex(table.title, head, body, notes))
        parts.append(
            html.heading(table.title) + html.result_table(table) + "".join(html.note(n) for n in notes)
        )
        parts.append(html.note(f"Beside this page as {table.name}.csv, .md and .tex."))
    caveats = published.notes if published is not None else ()
    return "".join(parts) + (
        html.heading("About the published values") + html.bullets(caveats) if caveats else ""
    )


def _differences(differences: Sequence[Difference], out: Path) -> str:
    head, body = export.differences_grid(differences)
    score = metric_title(differences[0].metric).replace(" (%)", ", percentage points")
    title = f"Paired differences between arms: {score}"
    write_text(out / "differences.csv", export.differences_csv(differences))
    write_text(out / "differences.md", export.to_markdown(title, head, body, []))
    write_text(out / "differences.tex", export.to_latex(title, head, body, []))
    forest = _saved(out, "differences", forest_figure(differences))
    caption = (
        "Circle: mean over seeds; thick line: 95 % interval over patients; thin line: over patients and "
        "seeds; dots below: single seeds; diamond: the paper's difference, measured on two test sets."
    )
    picture = html.picture(forest, "svg+xml", caption) if forest else ""
    below = html.note("Beside this page as differences.csv, .md and .tex.")
    return html.heading(title) + picture + html.grid_table(head, body, numbers=(2, 3, 4, 6, 7, 8)) + below


def _figures(arms: Sequence[Arm], published: PublishedPaper | None, out: Path) -> str:
    parts = []
    for model in dict.fromkeys(arm.model for arm in arms):
        mine = [arm for arm in arms if arm.model == model]
        name = published.models.get(model, model) if published else model
        parts.append(html.heading(name))
        n, k = len(mine[0].runs[0].image_ids), _patients(mine[0].runs[0].patients)
        on = f"{n:,} test images of {k:,} patients"
        classes = mine[0].classes
        single = len(classes) == 2 and not mine[0].protocol["multi_label"]
        pictures = []
        for class_name in classes[1:] if single else classes:
            roc = _saved(out, f"roc-{model}-{class_name}", roc_figure(mine, class_name))
            if roc is not None:
                told = f"ROC of {class_name} on {on}; thin lines are seeds, thick lines their vertical mean."
                pictures.append(html.picture(roc, "svg+xml", told))
        confusion = _saved(out, f"confusion-{model}", confusion_figure(mine))
        if confusion is not None:
            told = (
                f"Test images by true and predicted class ({on}): mean over seeds, share of the true class."
            )
            pictures.append(html.picture(confusion, "svg+xml", told))
        curves = {
            f"{arm.arm} · seed {run.result['seed']}": pd.read_csv(run.path / "metrics.csv")
            for arm in mine
            for run in arm.runs
            if (run.path / "metrics.csv").is_file() and (run.path / "metrics.csv").stat().st_size
        }
        training = _saved(out, f"training-{model}", curve_figure(curves))
        if training is not None:
            told = "Training, one line per seed: " + ", ".join(arm_name(a.arm) for a in mine) + "."
            pictures.append(html.picture(training, "svg+xml", told))
        parts.append(html.pair(pictures))
    return "".join(parts)


def _method(published: PublishedPaper | None) -> str:
    text = html.bullets(" ".join(p.split()) for p in METHOD.strip().split("\n\n"))
    return text + (html.note(f"The paper's protocol: {published.protocol}.") if published else "")


def _saved(out: Path, name: str, svg: bytes | None) -> bytes | None:
    """Also leave the figure as a file; characters that a file name cannot hold become "-"."""
    if svg is not None:
        safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
        write_text(out / "figures" / f"{safe}.svg", svg.decode())
    return svg
