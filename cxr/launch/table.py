"""The table of all jobs of a sweep, and the line below it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from cxr.files import read_json
from cxr.launch.job import Job, common, near, shown

__all__ = ["duration", "print_table"]


def print_table(jobs: Sequence[Job], hint: bool = True) -> None:
    """Print the table of all jobs; overrides that all jobs share are left out.

    Args:
        hint: say that the same command goes on, where anything is left.
    """
    from rich.console import Console
    from rich.table import Table

    shared = common(jobs)
    table = Table(title=f"{len(jobs)} jobs", title_justify="left", caption_justify="left")
    for column in ("job", "overrides", "state", "metric", "time", "run", "error"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        metric = ", ".join(f"{k} {v:.4g}" if v is not None else f"{k} –" for k, v in job.metric.items())
        attempts = attempts_of(job)
        took = duration(job.earlier_s + job.wall_s) + f" in {attempts} attempts" * (attempts > 1)
        if attempts > 1:
            table.caption = "time: of all attempts; of earlier ones without the start of the process, and none of those killed"
        overrides = shown(job.overrides, shared)
        cells = (str(job.number), overrides, job.state, metric, took, near(job.run) if job.run else "")
        table.add_row(*cells, job.error, style="red" if job.failed else None)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=max(160, console.width))
    console.print(table)
    console.print(closing(jobs, hint), soft_wrap=True)


def closing(jobs: Sequence[Job], hint: bool = True) -> str:
    """Return `12 jobs: 8 finished, 3 failed, 1 not started; the same command again goes on`."""
    counts = Counter(job.state for job in jobs)
    line = f"{len(jobs)} jobs: " + ", ".join(f"{n} {state}" for state, n in counts.items())
    left = any(job.failed or job.state == "not started" for job in jobs)
    return f"{line}; the same command again goes on with what is left" if left and hint else line


def attempts_of(job: Job) -> int:
    """Return how many attempts the run of a job took; 0 where it opened none."""
    if job.run is None or job.state == "not started" or not (job.run / "status.json").is_file():
        return 0
    return int(read_json(job.run / "status.json").get("attempts", 1))


def duration(seconds: float) -> str:
    """Return seconds as H:MM:SS."""
    return str(timedelta(seconds=round(seconds)))
