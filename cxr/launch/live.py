"""What a sweep shows while it runs: live lines on a terminal, a line for each start and end elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cxr.files import read_json
from cxr.launch.job import LOG, OPENED, Job, common, near, shown
from cxr.launch.table import duration
from cxr.run.progress import Progress, read_progress

__all__ = ["Lines", "show"]

REFRESH_S = 0.5


@dataclass
class Lines:
    """One line for each job that starts or ends; what a log file, a pipe or a test wants.

    Attributes:
        jobs: all of the sweep, those that are not run now too.
    """

    jobs: Sequence[Job]
    shared: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.shared = common(self.jobs)

    def started(self, job: Job) -> None:
        """Say that a job runs, and where its output goes."""
        self.tell(f"job {job.number} started: {self.named(job)}  (output: {near(job.folder / LOG)})")

    def ended(self, job: Job) -> None:
        """Say how a job ended."""
        score = "".join(f"  {k} {v:.4g}" for k, v in job.metric.items() if v is not None)
        text = f"job {job.number} {job.state} after {duration(job.wall_s)}: {self.named(job)}{score}  {job.error}"
        self.tell(text.rstrip())

    def tell(self, line: str) -> None:
        """Print a line."""
        print(line, flush=True)

    def named(self, job: Job) -> str:
        """Return the overrides that tell this job from the others."""
        return shown(job.overrides, self.shared)

    def refresh(self) -> None:
        """Show how far the running jobs are, if it is time."""


@dataclass
class LiveLines(Lines):
    """Below the lines of the jobs that have ended: one for each that runs, and how many wait.

    Drawn from the caller's own thread: a process that forks should have no other.
    """

    live: Live
    _began: dict[int, tuple[float, float]] = field(default_factory=dict)  # Unix time, monotonic
    _drawn: float = float("-inf")

    def started(self, job: Job) -> None:
        self._began[job.number] = (time.time(), time.monotonic())
        self.refresh(now=True)

    def ended(self, job: Job) -> None:
        super().ended(job)
        self.refresh(now=True)

    def tell(self, line: str) -> None:
        self.live.console.print(Text(line), soft_wrap=True)

    def refresh(self, now: bool = False) -> None:
        if now or time.monotonic() - self._drawn >= REFRESH_S:
            self.live.update(self._picture(), refresh=True)
            self._drawn = time.monotonic()

    def _picture(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)  # gives way where the terminal is narrow
        for _ in range(5):
            table.add_column(no_wrap=True)
        for job in self.jobs:
            if job.state == "running":
                began, clock = self._began[job.number]
                cells = _cells(_progress(job, began), time.monotonic() - clock)
                table.add_row(f"job {job.number}", Text(self.named(job)), *cells)
        waiting = sum(job.state in ("not started", "pending") for job in self.jobs)
        if not waiting:
            return table
        ended = sum(job.state not in ("not started", "pending", "running") for job in self.jobs)
        return Group(table, Text(f"{waiting} waiting, {ended} of {len(self.jobs)} ended", style="dim"))


def _progress(job: Job, since: float) -> Progress | None:
    """Return how far the training of a running job is; None before it has begun, and where it opens no run."""
    opened = job.folder / OPENED
    if not opened.is_file():
        return None
    found = read_progress(Path(read_json(opened)["run"]))
    return found if found is not None and found.updated >= since else None  # else an earlier attempt's


def _cells(progress: Progress | None, wall_s: float) -> list[str]:
    """Return epoch, percent, elapsed time, time left and score of a running job."""
    if progress is None:
        return ["starting", "", duration(wall_s), "", ""]
    left_s, headline = progress.left_s(time.time()), progress.headline()
    score = "" if headline is None or headline[1] is None else f"{headline[0]} {headline[1]:.4g}"
    percent, left = f"{100 * progress.done:.0f} %", "" if left_s is None else f"{duration(left_s)} left"
    return [f"epoch {progress.epoch}/{progress.epochs}", percent, duration(wall_s), left, score]


@contextmanager
def show(jobs: Sequence[Job], make_console: Callable[[], Console] = Console) -> Iterator[Lines]:
    """Yield what shows the jobs: live on a terminal that can move its cursor."""
    console = make_console()
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(jobs)
        return
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
        yield LiveLines(jobs, live)
