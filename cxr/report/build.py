"""Builds a report folder: report.html and report.md, its tables as CSV, Markdown and LaTeX, its figures as SVG and PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cxr.errors import UserError
from cxr.files import write_text
from cxr.report import export, html, notes
from cxr.report.audit_section import audit_section
from cxr.report.bars import counts_figure, scores_figure
from cxr.report.detail_section import groups_section, points_section
from cxr.report.difference import compare_arms, compare_classes, unpaired
from cxr.report.difference_section import difference_section
from cxr.report.document import bullets, document
from cxr.report.gallery import gallery
from cxr.report.generative import beside_published, scores_of, scores_section
from cxr.report.html_result import result_table
from cxr.report.model_section import model_sections
from cxr.report.nearest import nearest_section
from cxr.report.provenance import counts_grid, run_entry, runs_grid
from cxr.report.published import PublishedPaper, load_published, published_papers
from cxr.report.runs import Arm, group_runs, load_run
from cxr.report.save import save_figure
from cxr.report.spec import ReportSpec, generic_spec
from cxr.report.summary import summary
from cxr.report.synthetic import synthetic_entry, synthetic_sets
from cxr.report.table import Table, build_table
from cxr.share import ShareIds, clean, clean_page

__all__ = ["build_report"]

METHOD = """
Every score is the mean over seeds of the score on all test images. Its 95 % interval resamples patients
(all images of a drawn patient together, the same draws for every seed and arm), is Student's t with the standard
error of the resamples (on the logit scale for a score, on its own for a difference), and holds for these trained
models. SD is the standard deviation over seeds. Bands of curves are percentiles of the resampled curves.

In a cross-validation the score of a seed is the mean over its folds of the score on the fold's test images;
patients are drawn within each fold. The interval does not cover that the folds share training images, nor
another partition into folds. A score that some folds do not define is the mean over the others, and the row
says so. n is all tested images.

Differences between arms are paired: both arms of a resample see the same patients. Where both arms have
several seeds, a second interval adds how much training varies, by the variance over seeds; with two or three
seeds it is wide, since so little is known.

Precision, recall and F1 are unweighted means over the classes; a class that is never predicted has precision
0. AUPRC is the average precision. A score that a test set does not define is n/a.

Training accuracy and loss are those of the last epoch: running means over its batches while the network still
learns, drop-out and augmentation included, as Keras prints them, whichever checkpoint was tested. With several
labels per image, accuracy is correct labels over labels times images. Their n is training images; they have no
interval.

The test images are real, held out, and the same in every arm of a model: ids, labels, patients, split
fingerprint and evaluation protocol were compared before anything was averaged. GAN images and repeated images
enter the training part only.
"""


def build_report(
    runs: list[Path],
    synthetic: list[Path],
    out: Path,
    paper: str,
    spec: ReportSpec | None = None,
    share_ids: ShareIds = "hashed",
) -> Path:
    """Write the report of evaluated runs into the folder `out` and return the path of its page.

    Args:
        runs: folders with result.json and predictions.parquet.
        synthetic: synthetic sets whose sample grids, and scores by score.py, to show.
        paper: key of the published values, or any name.
        spec: what to show; one table of everything found when None.
        share_ids: names of images, which hold patient ids: as an HMAC, or plain. See cxr.share.

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
    scores = scores_of(synthetic)
    extra = beside_published(scores, published, spec.lead_model)
    tables = [
        t for s in spec.tables if (t := build_table(s, arms, published, spec.lead_metric, extra)) is not None
    ]
    differences = compare_arms(arms, spec.comparisons, spec.lead_metric, published)
    results, results_md = _results(tables, published, out)
    sections, sections_md = [("Results", results)], [("Results", results_md)]
    if differences:
        by_class = compare_classes(arms, spec.comparisons, published)
        shown, shown_md = difference_section(differences, by_class, out)
        sections.append(("Differences between arms", shown))
        sections_md.append(("Differences between arms", shown_md))
    sections.append(("Curves and errors", model_sections(arms, published, out)))
    for title, (shown, shown_md) in (
        ("Operating points", points_section(arms, published, out)),
        ("Views and sources", groups_section(arms, published, spec.lead_metric, out)),
        ("Leaks looked for", audit_section(arms, published, out)),
    ):
        if shown:
            sections.append((title, shown))
            sections_md.append((title, shown_md))
    if maps := gallery(loaded, share_ids):
        sections.append(("Where the models look", maps))
    sections.append(("Images used", _images_used(arms, published, out)))
    sets = synthetic_sets(synthetic)
    if sets:
        sections.append(("GAN images", "".join(synthetic_entry(one, out) for one in sets)))
    if scored := scores_section(scores, out):
        sections.append(("Scores of synthetic images", scored))
    if copied := nearest_section(synthetic):
        sections.append(("Copies of training images", copied))
    sections.append(("How it was measured", _method(published)))
    sections.append(("Provenance", "".join(run_entry(one) for one in sorted(loaded, key=lambda r: r.name))))
    byline = (
        f"Beside {published.authors}: {published.title}"
        if published
        else f"Runs of {', '.join(dict.fromkeys(arm.model for arm in arms))}"
    )
    lead, facts = summary(spec, differences, len(arms)), notes.facts(arms)
    care = [*notes.care(arms, published), *unpaired(arms, spec.comparisons)]
    top = html.facts(facts) + html.alarm("Read these rows with care", care)
    target = out / "report.html"
    page = html.page(spec.title, f"cxr report · {paper}", byline, lead, top, sections)
    write_text(target, clean_page(page))  # a run's configuration and warnings hold paths
    told = document(spec.title, byline, lead, facts, care, sections_md, runs_grid(loaded))
    write_text(out / "report.md", str(clean(told)))
    return target


def _results(tables: Sequence[Table], published: PublishedPaper | None, out: Path) -> tuple[str, list[str]]:
    """Return the tables as HTML and as Markdown; each is also left as files, which say all by themselves."""
    parts, markdown = [], []
    for table in tables:
        below, alone = notes.table_notes(table, published), notes.file_notes(table, published)
        head, body = export.to_grid(table)
        write_text(out / f"{table.name}.csv", export.to_csv(table))
        write_text(out / f"{table.name}.md", export.to_markdown(table.title, head, body, alone))
        write_text(out / f"{table.name}.tex", export.to_latex(table.title, head, body, alone))
        markdown.append(export.to_markdown(table.title, head, body, below))
        parts.append(html.heading(table.title) + result_table(table) + "".join(html.note(n) for n in below))
        bars = save_figure(out, f"scores-{table.name}", scores_figure(table))
        if bars is not None:
            paper = "; diamonds are the paper's values" if table.has_published else ""
            told = f"{table.title}: ours with 95 % intervals{paper}."
            parts.append(html.picture(bars, "svg+xml", told))
        parts.append(html.note(f"Beside this page as {table.name}.csv, .md and .tex."))
    lists = [("How ours were trained and tested", notes.ours(tables))]
    lists.append(("About the published values", list(published.notes) if published is not None else []))
    for title, items in lists:
        if items:
            parts.append(html.heading(title) + html.bullets(items))
            markdown += [f"### {title}", bullets(items)]
    return "".join(parts), markdown


def _images_used(arms: Sequence[Arm], published: PublishedPaper | None, out: Path) -> str:
    figure = save_figure(out, "images", counts_figure(arms))
    told = "Training images of each class by arm, from left to right, and by where they come from."
    picture = html.picture(figure, "svg+xml", told) if figure else ""
    folds = "Training and validation: mean over the folds; test: all folds together."
    below = html.note(folds) if any(arm.folds for arm in arms) else ""
    head, body = counts_grid(arms, published)
    return picture + html.grid_table(head, body, numbers=range(3, len(head))) + below


def _method(published: PublishedPaper | None) -> str:
    text = html.bullets(" ".join(p.split()) for p in METHOD.strip().split("\n\n"))
    return text + (html.note(f"The paper's protocol: {published.protocol}.") if published else "")
