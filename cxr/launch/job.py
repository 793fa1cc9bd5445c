"""One job of a sweep: what was asked, which run it opens, how that stood before, and how it went."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from omegaconf import DictConfig

from cxr.files import read_json
from cxr.run import PlannedRun, State, read_status

__all__ = ["LOG", "OPENED", "Job", "common", "near", "returned", "shown"]

LOG, OPENED = "output.log", "run.json"  # in a job's folder: what it printed, and which run it opened
LOG_END = 1 << 20  # bytes of what it printed that are searched for its error


@dataclass
class Job:
    """One job.

    Attributes:
        number: its place in the sweep, from 0.
        overrides: as typed for this job.
        folder: where its output goes.
        config: composed, without Hydra's node; None where it cannot be.
        plan: the run that it would open; None for programs that open none.
        before: how that run stood when the sweep was composed.
        problem: why it cannot run, as the door says it; "" where it can.
        state: "not started", "running", or how it ended.
        error: the first line of what went wrong.
        wall_s: seconds that its process took, this time.
        earlier_s: seconds of its run's earlier attempts; one that was killed told none.
        variables: what its environment has beside a sweep's own, e.g. its trial of a search.
        slurm_id: its number in SLURM's queue; "" where it has none.
    """

    number: int
    overrides: list[str]
    folder: Path
    config: DictConfig | None = None
    plan: PlannedRun | None = None
    before: State = "new"
    problem: str = ""
    state: str = "not started"
    run: Path | None = None
    metric: dict[str, float | None] = field(default_factory=dict)
    error: str = ""
    wall_s: float = 0.0
    earlier_s: float = 0.0
    exit_code: int | None = None
    variables: dict[str, str] = field(default_factory=dict)
    slurm_id: str = ""

    def skip(self) -> None:
        """Take the metric of a run that was finished before; nothing is started."""
        assert self.plan is not None
        self.state, self.run, self.exit_code = "skipped", self.plan.path, 0
        self._read_metric(read_status(self.plan.path))

    def read_outcome(self, exit_code: int) -> None:
        """Fill in state, metric, run and error from the run that the job opened, else from its exit code."""
        self.exit_code = exit_code
        opened = read_json(self.folder / OPENED) if (self.folder / OPENED).is_file() else {}
        self.run = Path(opened["run"]) if opened else None
        status: dict[str, Any] = {}
        if self.run is not None and (self.run / "status.json").is_file():
            status = read_status(self.run)
        if exit_code == 0:
            self.state = "skipped" if opened.get("state") == "finished" else status.get("state", "finished")
            if str(status.get("error")).startswith("Pruned:"):
                self.state, self.error = "pruned", status["error"]
            self._read_metric(status)
            return
        self.state = {2: "refused", 130: "interrupted", -signal.SIGINT: "interrupted"}.get(
            exit_code, "failed"
        )
        if exit_code < 0 and exit_code != -signal.SIGINT:
            self.state = f"killed ({signal.Signals(-exit_code).name})"
        elif status.get("state") in ("failed", "interrupted"):
            self.state = status["state"]
        self.error = status.get("error") or error_line(self.folder / LOG)
        if exit_code == -signal.SIGKILL and not status.get("error"):
            self.error = (
                "ended from outside: the kernel does that when memory runs out"  # the log tells nothing
            )

    def _read_metric(self, status: dict[str, Any]) -> None:
        headline = status.get("headline")
        self.metric = {headline: status["metric"][headline]} if headline else {}

    @property
    def failed(self) -> bool:
        """Whether it ran and ended otherwise than well."""
        return self.exit_code not in (None, 0)


def error_line(log: Path) -> str:
    """Return the line that tells the error: the last `error: …`, else a traceback's last, else the last."""
    if not log.is_file():
        return "(no output)"
    with log.open("rb") as file:  # its end: a job may print gigabytes
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_END))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error: ")]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)(: |$)", line)]
    return (told or raised or lines or ["(no output)"])[-1]


def shown(overrides: Sequence[str], but: Collection[str] = ()) -> str:
    """Return overrides as they would be typed, Hydra's own and those in `but` left out."""
    return shlex.join(o for o in filter_overrides(overrides) if o not in but) or "no overrides"


def common(jobs: Sequence[Job]) -> set[str]:
    """Return the overrides that all jobs share; none where there is one job."""
    return set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()


def near(path: Path) -> str:
    """Return a path as seen from here."""
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else str(path)


def returned(job: Job) -> JobReturn:
    """Return what a sweeper may want to know: the headline metric, or that there is none."""
    result = JobReturn(
        overrides=job.overrides, cfg=job.config, working_dir=str(job.folder), status=JobStatus.COMPLETED
    )
    if job.failed:
        result.status = JobStatus.FAILED
        result.return_value = RuntimeError(f"job {job.number} {job.state}: {job.error}")
    else:
        result.return_value = next(iter(job.metric.values()), None)
    return result
