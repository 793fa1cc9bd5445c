"""Where a sweep stands now, while it runs or after it was killed: read from files, started by nobody's leave.

The sweep's record says which jobs there are; how a run stands is its own status.json and nothing else, since the
launcher that wrote the record may be gone. Nothing is written, and a look takes no lock that a job would miss.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr.errors import UserError
from cxr.launch.record import is_held, read_record
from cxr.run import read_status
from cxr.run.progress import Progress, read_progress

__all__ = ["JobStatus", "SweepStatus", "newest_sweep", "sweep_status"]

ALIVE = ("running", "pending", "starting")


@dataclass(frozen=True)
class JobStatus:
    """One job as it stands.

    Attributes:
        state: finished, running, failed, interrupted, … of its run; `starting` and `not started` before it has one.
        epoch, epochs: the one under way, or the last, from 1, and how many there are to be; None: not known.
        left_s: seconds until a running one ends at its mean speed.
        score: headline score: of a finished run its result, of a running one the last that it logged.
        wall_s: seconds of training, all attempts that told their time, and the one that runs.
    """

    number: int
    overrides: list[str]
    state: str
    run: str | None
    epoch: int | None
    epochs: int | None
    left_s: float | None
    score: dict[str, float | None]
    wall_s: float
    error: str
    slurm_id: str | None


@dataclass(frozen=True)
class SweepStatus:
    """A sweep as it stands.

    Attributes:
        alive: whether its launcher works now.
        ended: whether its launcher left by itself; neither: it was killed.
    """

    name: str
    folder: str
    launcher: str
    process: str
    alive: bool
    ended: bool
    command: str
    jobs: list[JobStatus]

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        return dict(Counter(job.state for job in self.jobs))

    @property
    def is_at_work(self) -> bool:
        """Whether anything may still change by itself."""
        return self.alive or any(job.state in ALIVE for job in self.jobs)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain containers."""
        return {"schema": 1, **asdict(self), "counts": self.counts}


def newest_sweep(sweeps: Path) -> Path:
    """Return the folder below `sweeps` whose record is the newest.

    Raises:
        UserError: there is no sweep.
    """
    records = list(sweeps.glob("*/sweep.json"))
    if not records:
        raise UserError(
            f"{sweeps}: no sweep here; give the folder of one, below its runs_dir: runs/sweeps/NAME"
        )
    return max(records, key=lambda path: path.stat().st_mtime).parent


def sweep_status(folder: Path) -> SweepStatus:
    """Return how the sweep in `folder` stands now.

    Raises:
        UserError: there is no sweep, or its record is of another version.
    """
    record, alive = read_record(folder), is_held(folder)
    try:
        jobs = [_job_status(row, alive) for row in record["jobs"]]
        return SweepStatus(
            name=record["name"],
            folder=str(folder),
            launcher=record["launcher"],
            process=f"process {record['pid']} on {record['host']}",
            alive=alive,
            ended=record["ended"] and not alive,
            command=record.get("command", ""),
            jobs=jobs,
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: its record is of another version of cxr (no {error}); run the sweep again"
        ) from None


def _job_status(row: Mapping[str, Any], alive: bool) -> JobStatus:
    run = Path(row["run"]) if row["run"] else None
    status: dict[str, Any] = {}
    if run is not None and (run / "status.json").is_file():
        status = read_status(run)
    progress = read_progress(run) if run is not None and status else None
    state = _state(row, status, alive)
    running = state == "running" and progress is not None
    now = time.time()
    return JobStatus(
        number=row["number"],
        overrides=row["overrides"],
        state=state,
        run=row["run"],
        epoch=progress.epoch if progress else None,
        epochs=progress.epochs if progress else None,
        left_s=progress.left_s(now) if running and progress else None,
        score=_score(status, progress),
        wall_s=float(status.get("wall_s") or 0.0)
        + (max(0.0, now - progress.began) if running and progress else 0.0),
        error=("" if state in ("finished", *ALIVE) else status.get("error") or row["error"]) or "",
        slurm_id=row.get("slurm_id"),
    )


def _state(row: Mapping[str, Any], status: Mapping[str, Any], alive: bool) -> str:
    at_work = alive and row["state"] in ("running", "pending")
    if str(status.get("error")).startswith("Pruned:"):
        return "pruned"
    if status and not (at_work and status["state"] in ("failed", "interrupted")):
        return str(status["state"])  # the truth, whatever the record says
    if row["state"] == "pending":
        return "pending"
    if row["state"] == "running":  # its run is not open yet, or it opens none
        return "starting" if at_work and row["run"] else "running" if at_work else "interrupted"
    return str(row["state"])


def _score(status: Mapping[str, Any], progress: Progress | None) -> dict[str, float | None]:
    if headline := status.get("headline"):
        return {headline: status["metric"][headline]}
    found = progress.headline() if progress else None
    return {found[0]: found[1]} if found else {}


def summary(sweep: SweepStatus) -> str:
    """Return the line that tells it all: how many jobs stand how, and who works."""
    counts = ", ".join(f"{n} {state}" for state, n in sweep.counts.items())
    if sweep.alive:
        who = f"{sweep.launcher} launcher: {sweep.process}"
    elif sweep.ended:
        who = "the launcher has ended"
    else:
        who = f"the launcher was killed ({sweep.process})"
    return f"{len(sweep.jobs)} jobs: {counts}; {who}"


def left_over(jobs: Sequence[JobStatus]) -> int:
    """Return how many jobs the same command would run."""
    return sum(job.state not in ("finished", "skipped", "pruned") for job in jobs)
