"""A table as CSV (long, every number), Markdown and LaTeX (booktabs), from the same cells as the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from cxr.metric.bootstrap import Estimate
from cxr.report.mark import NO_PATIENTS, tags
from cxr.report.spec import arm_name
from cxr.report.table import TRAINING, Cell, Row, Table, metric_title, percent_points, printed, show

__all__ = [
    "csv_safe",
    "interval",
    "markdown_text",
    "seed_spread",
    "tested_on",
    "to_csv",
    "to_grid",
    "to_latex",
    "to_markdown",
]

CSV_COLUMNS = (
    "table", "model", "arm", "metric", "published", "published_unit", "published_source", "ours", "low",
    "high", "low_patients_and_seeds", "high_patients_and_seeds", "seed_std", "seed_values",
    "n_seeds", "n_images", "n_patients", "difference", "interval", "threshold", "split", "split_fingerprint",
    "runs", "marks", "marks_told",
)  # fmt: skip
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "−": "$-$", "→": r"$\rightarrow$", "†": r"$^\dagger$", "–": "--", "·": r"$\cdot$", "—": "---", "×": r"$\times$",
    "≥": r"$\geq$", "…": r"\dots{}",
}  # fmt: skip


def interval(metric: str, score: Estimate) -> str:
    """Return "[low, high]" in the units of the score; "no interval" where a score that has one has none here."""
    if score.low is None or score.high is None:
        return "" if score.value is None or metric in (*TRAINING, "wall_s") else "no interval"
    return f"[{show(metric, score.low)}, {show(metric, score.high)}]"


def seed_spread(row: Row, lead: str) -> str:
    """Return the standard deviation over seeds of the lead score (else the first), "" with one seed."""
    cells = sorted((c for c in row.cells if c.ours is not None), key=lambda c: c.metric != lead)
    spread = cells[0].ours.seed_std if cells and cells[0].ours is not None else None
    return "" if spread is None else f"SD {show(cells[0].metric, spread)}"


def tested_on(row: Row) -> tuple[str, str]:
    """Return the images behind a row and of what they are; training images where it holds no test score."""
    cells = [c for c in row.cells if c.ours is not None]
    score = min(cells, key=lambda c: c.metric in TRAINING, default=None)
    if score is None or score.ours is None:
        return "—", ""
    if score.metric in TRAINING:
        return f"{score.ours.n:,}", "training images"
    known = score.ours.n_patients and NO_PATIENTS not in {mark.tag for mark in row.marks}
    return f"{score.ours.n:,}", f"{score.ours.n_patients:,} patients" if known else "images"


def to_csv(table: Table) -> str:
    """One line per model, arm and score: fractions; n/a where our test set does not define one, empty if not run."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in table.rows:
        for cell in row.cells:
            writer.writerow(
                [csv_safe(v) for v in (table.name, row.model, row.arm, cell.metric, *_csv_cell(row, cell))]
            )
    return buffer.getvalue()


def to_grid(table: Table) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of text: per score published† and ours with interval; n, seeds, notes."""
    published = {
        m: any(c.published is not None for r in table.rows for c in r.cells if c.column == m)
        for m in table.metrics
    }
    several_arms = len({row.arm for row in table.rows}) > 1
    by_class = any(row.class_name is not None for row in table.rows)
    head = ["Model", *(["Arm"] if several_arms else []), *(["Class"] if by_class else [])]
    for metric in table.metrics:
        head += [f"{metric_title(metric)}, paper†"] if published[metric] else []
        head.append(f"{metric_title(metric)}, ours" if published[metric] else metric_title(metric))
        head += ["Difference"] if metric == table.lead and published[metric] else []
    head += ["Images (patients)", "Seeds", "Notes"]
    body = []
    for row in table.rows:
        line = [row.model_name, *([arm_name(row.arm)] if several_arms else [])]
        line += [row.class_name or ""] if by_class else []
        for cell in row.cells:
            line += [printed(cell)] if published[cell.column] else []
            line.append(_ours(cell))
            if cell.column == table.lead and published[cell.column]:
                line.append("—" if cell.difference is None else percent_points(cell.metric, cell.difference))
        body.append([*line, *_tail(row, table.lead)])
    return head, body


def to_markdown(title: str, head: Sequence[str], body: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """Return a Markdown table with its title and notes."""
    lines = [
        f"### {markdown_text(title)}",
        "",
        _bar(head),
        "|" + "---|" * len(head),
        *(_bar(row) for row in body),
    ]
    return "\n".join([*lines, "", *(f"{markdown_text(note)}\n" for note in notes)])


def to_latex(title: str, head: Sequence[str], body: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """Return a LaTeX table (needs booktabs and graphicx), every string escaped."""
    lines = [r"\begin{table}", r"  \centering", f"  \\caption{{{_latex(title)}}}"]
    lines += [r"  \resizebox{\linewidth}{!}{%", f"  \\begin{{tabular}}{{{'l' * len(head)}}}", r"    \toprule"]
    lines += [f"    {' & '.join(_latex(h) for h in head)} \\\\", r"    \midrule"]
    lines += [f"    {' & '.join(_latex(c) for c in row)} \\\\" for row in body]
    lines += [r"    \bottomrule", r"  \end{tabular}}", *(f"  \\par\\footnotesize {_latex(n)}" for n in notes)]
    return "\n".join([*lines, r"\end{table}", ""])


def _csv_cell(row: Row, cell: Cell) -> list[object]:
    p, o, arm = cell.published, cell.ours, row.arm_runs
    values: list[object] = [f"{p.bound}{p.text}", p.unit, p.source] if p else [None, None, None]
    if o is None:
        return [*values, *[None] * (len(CSV_COLUMNS) - 9), *_csv_marks(row)]
    protocol = arm.protocol if arm is not None and cell.metric not in TRAINING else {}
    values += [
        "n/a" if o.value is None else o.value,
        o.low,
        o.high,
        o.low_seeds,
        o.high_seeds,
        o.seed_std,
        " ".join(f"{v:.6g}" for v in o.per_seed),
    ]
    values += [
        o.n_seeds,
        o.n,
        o.n_patients or None,
        cell.difference,
        None if o.low is None else protocol.get("interval"),
    ]
    values += [protocol.get("threshold"), *(arm.split if arm is not None else (None, None))]
    return [
        *values,
        " ".join(run.name for run in arm.runs) if arm is not None else None,
        *_csv_marks(row),
    ]


def _csv_marks(row: Row) -> list[str]:
    return [tags(row.marks), "; ".join(mark.told for mark in row.marks)]


def _ours(cell: Cell) -> str:
    if cell.ours is None:
        return "—"
    return f"{show(cell.metric, cell.ours.value)} {interval(cell.metric, cell.ours)}".strip()


def _tail(row: Row, lead: str) -> list[str]:
    score = next((cell.ours for cell in row.cells if cell.ours is not None), None)
    if score is None:
        state = "not run" if row.arm_runs is None else "not recorded by our runs"
        return ["—", "—", " · ".join([state, *([tags(row.marks)] if row.marks else [])])]
    n, of = tested_on(row)
    images = f"{n} ({of.removesuffix(' patients')})" if of.endswith("patients") else f"{n} {of}"
    spread = seed_spread(row, lead)
    seeds = f"{score.n_seeds} ({spread})" if spread else str(score.n_seeds)
    return [images, seeds, tags(row.marks)]


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(markdown_text(c) for c in cells) + " |"


def markdown_text(text: str) -> str:
    """Return text that Markdown shows as it is."""
    safe = (
        text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace("|", "\\|")
        .replace("`", "\\`")
        .replace("*", "\\*")
    )
    return safe.replace("_", "\\_").replace("\n", " ")


def _latex(text: str) -> str:
    return "".join(LATEX.get(c, c) for c in text.replace("\n", " "))


def csv_safe(value: object) -> object:
    """A name that a spreadsheet would run as a formula is kept as text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "@") else value
