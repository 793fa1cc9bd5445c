"""The table of all jobs of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from cxr.launch.job import Job, common, near, shown

__all__ = ["print_table"]


def print_table(jobs: Sequence[Job]) -> None:
    """Print the table of all jobs; overrides that all jobs share are left out."""
    from rich.console import Console
    from rich.table import Table

    shared = common(jobs)
    table = Table(title=f"{len(jobs)} jobs", title_justify="left")
    for column in ("job", "overrides", "state", "metric", "time", "run", "error"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        metric = ", ".join(f"{k} {v:.4g}" if v is not None else f"{k} –" for k, v in job.metric.items())
        took = str(timedelta(seconds=round(job.wall_s)))
        overrides = shown(job.overrides, shared)
        cells = (str(job.number), overrides, job.state, metric, took, near(job.run) if job.run else "")
        table.add_row(*cells, job.error, style="red" if job.failed else None)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=max(160, console.width))
    console.print(table)
