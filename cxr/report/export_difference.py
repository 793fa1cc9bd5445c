"""Paired differences between arms as a grid of text and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from cxr.report.difference import Difference, more_digits, verdict
from cxr.report.export import csv_safe
from cxr.report.mark import NO_PATIENTS, Mark, tags
from cxr.report.spec import arm_name
from cxr.report.table import metric_title, percent_points

__all__ = ["P_TOLD", "differences_csv", "differences_grid", "p_text", "told_of_tests"]

COLUMNS = (
    "model", "arm", "reference", "metric", "difference", "low", "high", "low_patients_and_seeds",
    "high_patients_and_seeds", "seed_values", "n_seeds_arm", "n_seeds_reference", "n_images", "n_patients",
    "published_difference", "p", "p_holm", "test", "test_p", "test_told", "one_class_model", "marks",
)  # fmt: skip
P_TOLD = (
    "p belongs to the interval (below 0.05 where it excludes zero), in brackets p adjusted by Holm for all differences "
    "of the model in this table."
)
TESTS = {
    "McNemar": "McNemar's test applies to accuracy: it asks whether both arms are right equally often",
    "DeLong": "DeLong's test applies to an AUROC where every test image is its own patient",
}


def differences_grid(
    differences: Sequence[Difference], *, per_seed: bool = True
) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of text; columns that would be empty in every row are left out.

    `per_seed`: also the difference of each seed (the forest plot shows them on the page).
    """
    tests = list(
        dict.fromkeys(d.test.name for d in differences if d.test is not None and d.test.p is not None)
    )
    columns = {
        "Model": True,
        "Arms": True,
        "Score": len({d.metric for d in differences}) > 1,
        "Difference": True,
        "95 % over patients": True,
        "95 % over patients and seeds": any(d.ours.low_seeds is not None for d in differences),
        "Per seed": per_seed,
        "Paper†": any(d.published is not None for d in differences),
        "p (Holm)": True,
        " / ".join(tests): bool(tests),
        "Images (patients)": True,
        "Seeds": True,
        "The interval": True,
    }
    shown = [i for i, wanted in enumerate(columns.values()) if wanted]
    common = common_marks(differences)
    lines = [_line(d, common) for d in differences]
    return [list(columns)[i] for i in shown], [[line[i] for i in shown] for line in lines]


def common_marks(differences: Sequence[Difference]) -> list[Mark]:
    """Return the marks that all rows of a table of several share: they are said once, below it."""
    if len(differences) < 2:
        return []
    return [mark for mark in differences[0].marks if all(mark in d.marks for d in differences)]


def differences_csv(differences: Sequence[Difference]) -> str:
    """One line per difference; fractions, empty where not defined."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for d in differences:
        o = d.ours
        values = [o.value, o.low, o.high, o.low_seeds, o.high_seeds, " ".join(f"{v:.6g}" for v in o.per_seed)]
        names = [csv_safe(v) for v in (d.model, d.arm, d.reference, d.metric)]
        test = [None] * 3 if d.test is None else [d.test.name, d.test.p, d.test.told]
        line = [*names, *values, *d.n_seeds, o.n, o.n_patients, d.published, d.p, d.p_holm, *test]
        writer.writerow([*line, d.degenerate, tags(d.marks)])
    return buffer.getvalue()


def p_text(p: float | None) -> str:
    """Return a p to three decimals; "<0.001" below what they show."""
    if p is None:
        return "n/a"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def told_of_tests(differences: Sequence[Difference]) -> list[str]:
    """Return which tests stand in a table, why they apply, and what each was made of, or why it is not offered."""
    made: dict[str, dict[str, None]] = {}
    for d in differences:
        if d.test is not None:
            told = "; ".join(part for part in d.test.told.split("; ") if not part.startswith("exact p"))
            made.setdefault(d.test.name, {})[told] = None
    notes = [P_TOLD]
    if common := common_marks(differences):
        notes.append(f"All rows: {tags(common)}.")
    for name, how in made.items():
        told = " / ".join(filter(None, how))
        notes.append(f"{TESTS.get(name.split(',')[0], name)} ({name}{'; ' if told else ''}{told}).")
    return notes


def _line(d: Difference, common: Sequence[Mark]) -> list[str]:
    more = more_digits(d)

    def shown(value: float | None) -> str:
        return percent_points(d.metric, value, more=more)

    unknown = NO_PATIENTS in {mark.tag for mark in d.marks}
    o, own = d.ours, [mark for mark in d.marks if mark not in common]
    return [
        d.model_name,
        f"{arm_name(d.arm)} − {arm_name(d.reference)}",
        metric_title(d.metric),
        shown(o.value),
        f"{shown(o.low)} to {shown(o.high)}",
        f"{shown(o.low_seeds)} to {shown(o.high_seeds)}" if o.low_seeds is not None else "—",
        ", ".join(shown(v) for v in o.per_seed) or "—",
        shown(d.published) if d.published is not None else "—",
        f"{p_text(d.p)} ({p_text(d.p_holm)})",
        "—" if d.test is None or d.test.p is None else p_text(d.test.p),
        f"{o.n:,} ({'unknown' if unknown else f'{o.n_patients:,}'})",
        " / ".join(str(n) for n in d.n_seeds),
        " · ".join([verdict(d), *([tags(own)] if own else [])]),
    ]
