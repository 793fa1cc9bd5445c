"""What stands around the tables of a report, for the page and for its files alike."""

from __future__ import annotations

from collections.abc import Sequence

from cxr.report.difference import Difference
from cxr.report.export import interval
from cxr.report.mark import cautions
from cxr.report.provenance import protocol_lines
from cxr.report.published import PublishedPaper
from cxr.report.runs import Arm
from cxr.report.spec import arm_name, arm_rank
from cxr.report.table import OF_IMAGES, TRAINING, Row, Table

__all__ = ["care", "difference_notes", "facts", "file_notes", "ours", "table_notes"]


def facts(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """Return what holds for the whole report, as labelled values."""
    runs = [run for arm in arms for run in arm.runs]
    tests = sorted(
        {(arm.n_images, f"{arm.n_patients:,}" if arm.knows_patients else "unknown") for arm in arms}
    )
    return [
        ("Runs", str(len(runs))),
        ("Models", str(len({arm.model for arm in arms}))),
        (
            "Arms",
            ", ".join(
                arm_name(arm) for arm in sorted({one.arm for one in arms}, key=lambda a: (arm_rank(a), a))
            ),
        ),
        ("Test images (patients)", ", ".join(f"{n:,} ({k})" for n, k in tests)),
        ("Split", ", ".join(sorted({arm.split[0] for arm in arms}))),
        ("Interval", ", ".join(sorted({run.result["protocol"]["interval"] for run in runs}))),
    ]


def care(arms: Sequence[Arm], published: PublishedPaper | None) -> list[str]:
    """Return the marks of all arms, each once, with the models and arms that it holds for."""
    names = published.models if published else {}
    return cautions([(names.get(arm.model, arm.model), arm_name(arm.arm), None, arm.marks) for arm in arms])


def table_notes(table: Table, published: PublishedPaper | None) -> list[str]:
    """Return what a table needs below it where the report says the rest once (`care` and `ours`)."""
    notes = []
    if table.has_published and published is not None:
        notes.append(f"† Printed by the paper, measured under another protocol: {published.protocol}.")
    if any(c.metric in TRAINING and c.ours is not None for row in table.rows for c in row.cells):
        notes.append("Training accuracy and loss: last epoch, on training images, no interval.")
    cells = [c for row in table.rows for c in row.cells if c.metric not in OF_IMAGES and c.ours is not None]
    if any(interval(c.metric, c.ours) == "no interval" for c in cells if c.ours is not None):
        notes.append("No interval: fewer than two patients, of a class say, decide the score.")
    return notes + cautions(
        [(r.model_name, arm_name(r.arm), r.class_name, r.own_marks) for r in table.rows if _is_ours(r)]
    )


def file_notes(table: Table, published: PublishedPaper | None) -> list[str]:
    """Return all that a table needs below it where it stands alone."""
    marks = [
        (r.model_name, arm_name(r.arm), r.class_name, [m for m in r.marks if m not in r.own_marks])
        for r in table.rows
        if _is_ours(r)
    ]
    return [*table_notes(table, published), *cautions(marks), *ours([table])]


def ours(tables: Sequence[Table]) -> list[str]:
    """Return how the runs in tables were trained and tested; rows alike in that share a line."""
    pairs = {(r.model, r.arm): (r.arm_runs, r.model_name) for t in tables for r in t.rows if r.arm_runs}
    models = list(dict.fromkeys(model for model, _ in pairs))
    ordered = sorted(pairs, key=lambda key: (models.index(key[0]), arm_rank(key[1])))
    return protocol_lines([pairs[key] for key in ordered])


def difference_notes(differences: Sequence[Difference]) -> list[str]:
    """Return the sentences of the marks that differences carry, for where they stand alone."""
    return cautions(
        [(d.model_name, f"{arm_name(d.arm)} − {arm_name(d.reference)}", None, d.marks) for d in differences]
    )


def _is_ours(row: Row) -> bool:
    """Whether a row holds anything of ours."""
    return row.arm_runs is not None or bool(row.marks)
