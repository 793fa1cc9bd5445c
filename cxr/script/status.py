"""status: where a sweep stands, while it runs or after it was killed.

Argparse, not Hydra: it has no configuration, is typed often, and must answer at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import timedelta
from pathlib import Path

from cxr.errors import UserError
from cxr.launch.job import near, shown
from cxr.launch.status import JobStatus, SweepStatus, left_over, newest_sweep, summary, sweep_status

__all__ = ["main"]

SWEEPS = Path("runs/sweeps")


def main() -> None:
    """Console script `cxr-status`."""
    parser = argparse.ArgumentParser(
        prog="status", description="Where a sweep stands, while it runs or after it was killed."
    )
    parser.add_argument("sweep", nargs="?", type=Path, help=f"its folder; default: the newest below {SWEEPS}")
    parser.add_argument(
        "--watch", type=float, metavar="SECONDS", help="show it again and again until it ends"
    )
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    options = parser.parse_args()
    if options.watch is not None and not options.watch > 0:
        parser.error(f"--watch: got {options.watch:g}, expected seconds above 0")
    try:
        folder = options.sweep or newest_sweep(SWEEPS)
        while True:
            sweep = sweep_status(folder)
            if options.json:
                print(json.dumps(sweep.as_json(), indent=2))
            else:
                _show(sweep, clear=options.watch is not None)
            if options.watch is None or not sweep.is_at_work:
                return
            sys.stdout.flush()
            time.sleep(options.watch)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _show(sweep: SweepStatus, clear: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    shared = set.intersection(*(set(job.overrides) for job in sweep.jobs)) if len(sweep.jobs) > 1 else set()
    table = Table(title=near(Path(sweep.folder).resolve()), title_justify="left")
    columns = ["job", "overrides", "state", "epoch", "left", "score", "time", "run", "error"]
    slurm = any(job.slurm_id for job in sweep.jobs)
    for column in [*columns, *(["slurm"] if slurm else [])]:
        table.add_column(column, overflow="fold")
    for job in sweep.jobs:
        cells = [str(job.number), shown(job.overrides, shared), *_cells(job)]
        style = "red" if job.state == "failed" else "green" if job.state == "running" else None
        table.add_row(*cells, *([job.slurm_id or ""] if slurm else []), style=style)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=max(160, console.width))
    elif clear:
        console.clear()
    console.print(table)
    print(summary(sweep))
    if left_over(sweep.jobs) and not sweep.is_at_work and sweep.command:
        print(f"goes on by: {sweep.command}")


def _cells(job: JobStatus) -> list[str]:
    epoch = f"{job.epoch}/{job.epochs}" if job.epochs else ""
    score = ", ".join(f"{k} {v:.4g}" if v is not None else f"{k} –" for k, v in job.score.items())
    times = ["" if s is None else str(timedelta(seconds=round(s))) for s in (job.left_s, job.wall_s or None)]
    return [job.state, epoch, times[0], score, times[1], near(Path(job.run)) if job.run else "", job.error]


if __name__ == "__main__":
    main()
