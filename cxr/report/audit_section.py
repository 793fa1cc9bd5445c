"""The section of leaks: what audits of each arm's runs looked for and found, as a table on the page and beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cxr.report.detail_section import section_table
from cxr.report.published import PublishedPaper
from cxr.report.runs import Arm
from cxr.report.spec import arm_name

__all__ = ["audit_grid", "audit_section"]

TOLD = (
    "An audit (python evaluate.py audit=RUN) reads the images, the split, the synthetic sets, their GANs' runs and the "
    "records of a run again. An arm is as clean as its worst run; a run that was evaluated since counts as not audited."
)


def audit_grid(arms: Sequence[Arm], published: PublishedPaper | None) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: of each arm the leaks, what is not known, and how many questions were answered how."""
    head = ["Model", "Arm", "Found", "Runs audited", "Clean", "LEAK", "Not known"]
    body = []
    for arm in arms:
        audited = [run for run in arm.runs if run.audit is not None]
        missing = [run.name for run in arm.runs if run.audit is None]
        kinds = [[v for v in arm.verdicts if v.answer == kind] for kind in ("clean", "LEAK", "not known")]
        found = [f"{v.answer}: {v.question}, {v.told}" for v in (*kinds[1], *kinds[2])]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            found.append(f"not audited: evaluate.py audit={missing[0]}{more}")
        model = published.models.get(arm.model, arm.model) if published else arm.model
        counts = [str(sum(v.answer == kind for run in audited for v in run.audit or ()))
                  for kind in ("clean", "LEAK", "not known")]  # fmt: skip
        body.append([model, arm_name(arm.arm), "; ".join(found) or "no leak", f"{len(audited)} of {len(arm.runs)}",
                     *(counts if audited else ["—"] * 3)])  # fmt: skip
    return head, body


def audit_section(arms: Sequence[Arm], published: PublishedPaper | None, out: Path) -> tuple[str, list[str]]:
    """Return the table as HTML and as Markdown; also left as leaks.csv, .md and .tex."""
    asked = list(dict.fromkeys(v.question for arm in arms for v in arm.verdicts))
    notes = [TOLD, *([f"Asked: {'; '.join(asked)}."] if asked else [])]
    title = "Answers over all audited runs of an arm"
    return section_table(title, audit_grid(arms, published), notes, "leaks", out, texts=3)
