"""The `plan` launcher: what a sweep would run, how each run stands, what the door says of it and what it will cost.

It starts no job and writes nothing, no folder either; `probe=true` alone trains for some seconds, elsewhere.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from hydra.core.utils import JobReturn, setup_globals

from cxr.launch.base import JobLauncher, check_values
from cxr.launch.compose import mark_conflicts
from cxr.launch.cost import Estimate, Finished, duration, estimate, finished_runs, kind, makespan
from cxr.launch.job import Job, common, near, returned, shown
from cxr.launch.probe import probe
from cxr.launch.record import is_held
from cxr.launch.slots import threads_of_job
from cxr.run import holder
from cxr.run.progress import read_progress

__all__ = ["PlanLauncher", "stands"]

# How a job is counted at the end, by the state of its run.
COUNTED = {"interrupted": "resumable", "failed": "to retry"}
ORDER = ("finished", "running", "resumable", "to retry", "new", "refused")


class PlanLauncher(JobLauncher):
    """Show the jobs of a sweep; exits with 2 where one would be refused.

    Args:
        n_jobs: how many will run at a time, as `processes` has it: the time of all depends on it.
        threads: OMP_NUM_THREADS of a probe; None: as `processes` would set it.
        probe: where no finished run tells the cost, train for `probe_seconds`, once for each kind of job.
        probe_seconds: of training.
    """

    name: ClassVar[str] = "plan"
    starts_jobs: ClassVar[bool] = False

    def __init__(self, n_jobs: int, threads: int | None, probe: bool, probe_seconds: int) -> None:
        super().__init__()
        self.n_jobs, self.threads = n_jobs, threads
        self.probe, self.probe_seconds = probe, probe_seconds

    def check_own_values(self) -> None:
        """See JobLauncher."""
        check_values(
            self,
            {"n_jobs": int, "threads": int | None, "probe": bool, "probe_seconds": int},
            {"n_jobs": 1, "threads": 1, "probe_seconds": 1},
        )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose and check all jobs, and show them."""
        setup_globals()
        jobs = self.compose(dict(enumerate(job_overrides, initial_job_idx)))
        mark_conflicts(jobs)
        costs = self._costs(jobs)
        _print_plan(jobs, costs)
        for basis in dict.fromkeys(cost.basis for cost in costs.values()):
            print(f"cost: {basis}")
        print(_summary(jobs, costs, self.n_jobs))
        if is_held(self.folder):
            print(f"{near(self.folder)}: a launcher works on this sweep now")
        if bad := sum(bool(job.problem) for job in jobs):
            print(f"error: {bad} of {len(jobs)} jobs cannot run", file=sys.stderr)
            sys.exit(2)
        return [returned(job) for job in jobs]

    def run(self, jobs: Sequence[Job], all_jobs: Sequence[Job]) -> None:
        """Start nothing."""

    def _costs(self, jobs: Sequence[Job]) -> dict[int, Estimate]:
        """Return what is left to pay for each job, by number, where it is known."""
        records: dict[Path, list[Finished]] = {}
        probed: dict[str, Estimate | str] = {}
        found = {}
        threads = threads_of_job(self.threads, self.n_jobs, os.environ)
        for job in jobs:
            if job.plan is None or job.problem or job.before in ("finished", "running"):
                continue
            where, config = job.plan.runs_dir, job.plan.config
            if where not in records:
                records[where] = finished_runs(where)
            cost: Estimate | str | None = estimate(config, records[where])
            if cost is None and self.probe:
                key = kind(config)
                if key not in probed:
                    print(f"probe: job {job.number} trains for {self.probe_seconds} s", flush=True)
                    probed[key] = probe(job, self.config, self.task_function, self.probe_seconds, threads)
                    if isinstance(answer := probed[key], str):
                        print(f"probe: {answer}")
                cost = probed[key]
            if isinstance(cost, Estimate):
                found[job.number] = cost.times(1.0 - _done(job))
        return found


def _resumes(job: Job) -> bool:
    """Say whether the run has a checkpoint to go on from."""
    return job.plan is not None and (job.plan.path / "checkpoints" / "last.ckpt").is_file()


def _done(job: Job) -> float:
    """Return the share of the job's training that its checkpoints keep, whole epochs, 0 to 1."""
    progress = read_progress(job.plan.path) if job.plan is not None and _resumes(job) else None
    return min(1.0, progress.epochs_done / progress.epochs) if progress and progress.epochs else 0.0


def stands(job: Job) -> str:
    """Say in words how the job's run stands."""
    if job.plan is None or job.before == "new":
        return "new"
    if job.before == "running":
        return f"running: {holder(job.plan.path)}"
    if job.before == "finished":
        return "finished"
    progress = read_progress(job.plan.path)
    if not _resumes(job):
        where = "begins again"
    elif progress is None:
        where = "resumable"
    else:
        where = f"resumable at epoch {progress.epoch} of {progress.epochs}"
    if job.before == "failed":
        _, status = job.plan.standing()
        return f"failed: {status.get('error')}; {where}"
    return where if _resumes(job) else f"interrupted before its first checkpoint; {where}"


def _print_plan(jobs: Sequence[Job], costs: Mapping[int, Estimate]) -> None:
    from rich.console import Console
    from rich.table import Table

    shared = common(jobs)
    table = Table(title=f"{len(jobs)} jobs", title_justify="left")
    for column in ("job", "overrides", "state", "run", "check", "cost"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        state = "" if job.problem and job.before == "new" else stands(job)
        run, cost = near(job.run) if job.run else "", costs.get(job.number)
        cells = (str(job.number), shown(job.overrides, shared), state, run, job.problem or "ok")
        table.add_row(*cells, str(cost) if cost else "", style="red" if job.problem else None)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=max(160, console.width))
    console.print(table)
    if shared:
        print(f"all jobs: {shown(sorted(shared, key=jobs[0].overrides.index))}")


def _summary(jobs: Sequence[Job], costs: Mapping[int, Estimate], n_jobs: int) -> str:
    counts: Counter[str] = Counter(
        "refused" if job.problem else COUNTED.get(job.before, job.before) for job in jobs
    )
    text = f"{len(jobs)} jobs: " + ", ".join(f"{counts[word]} {word}" for word in ORDER if counts[word])
    waiting = [job for job in jobs if job.plan is not None and not job.problem and job.before != "finished"]
    known = [costs[job.number] for job in waiting if job.number in costs]
    if known:
        low, middle, high = (
            duration(makespan([getattr(cost, key) for cost in known], n_jobs))
            for key in ("low", "seconds", "high")
        )
        spread = "" if low == high else f" ({low} to {high})"
        text += f"; about {middle}{spread} with n_jobs={n_jobs}"
    if missing := len(waiting) - len(known):
        some = f" of {missing} more" if known else ""
        text += f"; cost{some} unknown: no finished run of their kind; hydra.launcher.probe=true measures"
    return text
