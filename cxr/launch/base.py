"""What all launchers of cxr share: every job composed and checked first, then run, then shown.

Hydra's own launcher runs all jobs in one process, where module globals, ranks, seeds and GPU
memory leak from job to job, and where Lightning's `ddp` children walk the whole sweep again.
Here a job is a command of its own in plain RUN mode (`cxr.launch.command`), so that neither can happen.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from cxr.errors import UserError
from cxr.launch.compose import compose_jobs, refuse_problems, sweep_folder
from cxr.launch.job import Job, returned
from cxr.launch.record import hold, write_record
from cxr.launch.table import print_table
from cxr.run import read_status

__all__ = ["JobLauncher"]


class JobLauncher(Launcher):
    """Checks all jobs, skips those whose run is finished, runs the others, shows all.

    Attributes:
        exit_on_failure: end the process with 1 when a job failed; a sweeper that goes on without it sets this to False
            and finds the failure in the job's return.
        joins_running: whether a run at work may be a job that it started before and waits for again.
        starts_jobs: False for a launcher that only shows what it would start.
    """

    name: ClassVar[str]  # in conf/hydra/launcher
    starts_jobs: ClassVar[bool] = True
    joins_running: ClassVar[bool] = False
    exit_on_failure = True

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Check all jobs, run all jobs, show all jobs; exits with 1 if any failed."""
        setup_globals()
        jobs = self.compose(dict(enumerate(job_overrides, initial_job_idx)))
        refuse_problems(jobs, self.joins_running)
        with hold(self.folder):
            try:
                self.work(jobs)
            except BaseException:  # whoever catches a Ctrl-C says how to go on
                print_table(jobs, hint=False)
                raise
        print_table(jobs)
        if self.exit_on_failure and any(job.failed for job in jobs):
            sys.exit(1)
        return [returned(job) for job in jobs]

    def compose(self, job_overrides: Mapping[int, Sequence[str]]) -> list[Job]:
        """Return jobs by their numbers, composed and checked; one that cannot run carries its `problem`."""
        self.check_own_values()
        loader, self.folder = self.hydra_context.config_loader, sweep_folder(self.config)
        jobs = compose_jobs(loader, self.config, job_overrides)
        for job in jobs:
            if not job.problem and job.before != "finished":
                job.problem = self.problem_of(job)
        return jobs

    def work(self, jobs: Sequence[Job], others: Sequence[Job] = ()) -> None:
        """Skip the finished jobs, run the rest; whoever calls holds the sweep's folder.

        Args:
            others: jobs of the sweep that are not to be run now, for a sweeper that starts its jobs in batches:
                they are in the record too.
        """
        everything = sorted([*others, *jobs], key=lambda job: job.number)
        for job in jobs:
            if job.plan is not None and job.before != "new":
                job.earlier_s = float(read_status(job.plan.path).get("wall_s") or 0.0)
            if job.before == "finished":
                job.skip()
        self.save(everything)
        try:
            self.run([job for job in jobs if job.state == "not started"], everything)
        finally:
            write_record(self.folder, self.name, everything, ended=True)

    def save(self, jobs: Sequence[Job]) -> None:
        """Write the sweep's record as things stand."""
        write_record(self.folder, self.name, jobs)

    @abstractmethod
    def check_own_values(self) -> None:
        """Refuse wrong values: Hydra builds launchers without looking at types, and hides what constructors raise."""

    def problem_of(self, job: Job) -> str:
        """Return why this launcher cannot run a job that passed the checks, in one line; "" where it can."""
        return ""

    @abstractmethod
    def run(self, jobs: Sequence[Job], all_jobs: Sequence[Job]) -> None:
        """Run `jobs`, those of `all_jobs` that are not finished; each ends with `read_outcome` called."""


def check_values(launcher: object, kinds: Mapping[str, Any], least: Mapping[str, float]) -> None:
    """Refuse an attribute of another type than `kinds` says or below `least`, naming the override."""
    from cxr.signature import check_value

    for key, kind in kinds.items():
        if problem := check_value(getattr(launcher, key), kind):
            raise UserError(f"hydra.launcher.{key}: {problem}; set hydra.launcher.{key}=…")
    for key, lowest in least.items():
        value = getattr(launcher, key)
        if value is not None and value < lowest:
            raise UserError(
                f"hydra.launcher.{key}: got {value}, expected {lowest} or more; set hydra.launcher.{key}=…"
            )
