"""The `processes` launcher: each job of a sweep runs in a fresh process, as if typed alone.

Hydra's own launcher runs all jobs in one process, where module globals, ranks, seeds and GPU
memory leak from job to job, and where Lightning's `ddp` children walk the whole sweep again.
Here a job is `python -m <script> <its overrides>` in plain RUN mode, so that neither can happen.

Every job's configuration passes the door before the first job starts. A failed job does not
stop the others; the table at the end has them all, and the exit code is 1 if any failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from cxr.errors import UserError
from cxr.launch.job import Job, common, importable, near, print_table, shown
from cxr.run import POINTER

__all__ = ["ProcessLauncher"]

# What one job must not inherit from another, or from whatever distributed job we are part of.
FOREIGN = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "WANDB_RUN_ID", "WANDB_RUN_NAME", "HYDRA_FULL_ERROR", POINTER),
)
FOREIGN_PREFIXES = ("PL_", "TORCHELASTIC_", "WANDB_SERVICE")
OURS = (
    "hydra.launcher",
    "hydra.sweeper",
    "hydra.sweep.",
    "hydra.mode",
    "hydra.run.",
)  # the sweep's, not a job's


class ProcessLauncher(Launcher):
    """Run `n_jobs` jobs at a time, each in its own process.

    Args:
        n_jobs: how many at a time.
        threads: OMP_NUM_THREADS of each job; None: cores / n_jobs when n_jobs > 1, else as it is.
        grace_s: seconds a job has after Ctrl-C to save what it can.
    """

    def __init__(self, n_jobs: int, threads: int | None, grace_s: float) -> None:
        super().__init__()
        self.n_jobs, self.threads, self.grace_s = n_jobs, threads, grace_s

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Check all jobs, run all jobs, show all jobs; exits with 1 if any failed."""
        setup_globals()
        self._check_own_values()
        sweep_dir = Path(str(self.config.hydra.sweep.dir)).resolve()
        jobs = self._checked_jobs(job_overrides, initial_job_idx, sweep_dir)
        try:
            self._run(jobs)
        finally:
            print_table(jobs)
        if any(job.failed for job in jobs):
            sys.exit(1)
        return [_returned(job) for job in jobs]

    def _check_own_values(self) -> None:
        """Hydra builds launchers without looking at types, and hides what their constructors raise."""
        from cxr.signature import check_value

        for key, kind in (("n_jobs", int), ("threads", int | None), ("grace_s", float)):
            if problem := check_value(getattr(self, key), kind):
                raise UserError(f"hydra.launcher.{key}: {problem}; set hydra.launcher.{key}=…")
        for key, least in (("n_jobs", 1), ("threads", 1), ("grace_s", 0)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise UserError(
                    f"hydra.launcher.{key}: got {value}, expected {least} or more; set hydra.launcher.{key}=…"
                )

    def _checked_jobs(self, job_overrides: Sequence[Sequence[str]], first: int, sweep_dir: Path) -> list[Job]:
        """Compose and check every job; all that is wrong is told, one line each, before any job starts."""
        from cxr.config import check_config, explain

        jobs, refused, outer = [], 0, HydraConfig.instance().cfg
        for number, overrides in enumerate(job_overrides, first):
            folder = sweep_dir / str(number)
            try:
                config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
                with open_dict(config):
                    config.hydra.job.id, config.hydra.job.num = str(number), number
                    config.hydra.runtime.output_dir = str(folder)
                HydraConfig.instance().set_config(config)
                with open_dict(config):
                    del config["hydra"]
                check_config(config)
            except Exception as error:
                if (message := explain(error)) is None:
                    raise
                print(f"error: job {number} ({shown(overrides)}): {message}", file=sys.stderr)
                refused += 1
            else:
                jobs.append(Job(number, list(overrides), config, folder))
            finally:
                HydraConfig.instance().cfg = outer
        if refused:
            raise UserError(f"{refused} of {len(job_overrides)} jobs cannot run; none was started")
        return jobs

    def _run(self, jobs: Sequence[Job]) -> None:
        """Run `n_jobs` at a time until all have ended; on Ctrl-C or SIGTERM end those that run."""
        waiting, running = list(jobs), list[Job]()
        shared = common(jobs)
        with _sigterm_as_ctrl_c():
            try:
                while waiting or running:
                    while waiting and len(running) < self.n_jobs:
                        job = waiting.pop(0)
                        running.append(job)
                        self._start(job)
                        log = near(job.folder / "output.log")
                        print(
                            f"job {job.number} started: {shown(job.overrides, shared)}  (output: {log})",
                            flush=True,
                        )
                    time.sleep(0.05)
                    for job in [j for j in running if j.process is not None and j.process.poll() is not None]:
                        running.remove(job)
                        job.read_outcome()
                        print(
                            f"job {job.number} {job.state}: {shown(job.overrides, shared)}  {job.error}".rstrip(),
                            flush=True,
                        )
            except BaseException:
                _stop([j for j in running if j.process is not None], self.grace_s)
                raise

    def _start(self, job: Job) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "run.json").unlink(missing_ok=True)
        with (job.folder / "output.log").open("wb") as log:
            job.began = time.monotonic()
            job.process = subprocess.Popen(
                self._command(job),
                env=self._environment(job),
                cwd=self.config.hydra.runtime.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its own group: its ranks and workers are ended with it
            )

    def _command(self, job: Job) -> list[str]:
        hydra = self.config.hydra
        extra = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
        passed_on = [
            o for o in hydra.overrides.hydra if not o.lstrip("+~").replace("/", ".").startswith(OURS)
        ]
        run_dir = str(job.folder).replace("'", "\\'")
        return [
            *_program(self.task_function),
            *(f"--config-dir={path}" for path in extra),
            f"--config-name={hydra.job.config_name}",
            *job.overrides,
            *passed_on,
            "hydra.mode=RUN",
            f"hydra.run.dir='{run_dir}'",
        ]

    def _environment(self, job: Job) -> dict[str, str]:
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in FOREIGN and not key.startswith(FOREIGN_PREFIXES)
        }
        environment |= {"PYTHONUNBUFFERED": "1", POINTER: str(job.folder / "run.json")}
        if self.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        elif self.n_jobs > 1:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // self.n_jobs)))
        return importable(environment)


def _program(task_function: TaskFunction) -> list[str]:
    """Return the command that starts the script of a task function in a new interpreter."""
    module = task_function.__module__
    if module == "__main__":
        spec = sys.modules["__main__"].__spec__
        if spec is None:
            return [sys.executable, str(Path(sys.argv[0]).resolve())]
        module = spec.name
    return [sys.executable, "-m", module]


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Take SIGTERM (a scheduler's, a service manager's) for Ctrl-C, so that no child is left behind."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(jobs: Sequence[Job], grace_s: float) -> None:
    """End process groups: Ctrl-C first, then SIGTERM, then SIGKILL; a second Ctrl-C goes on to the next."""
    for number, patience_s in ((signal.SIGINT, grace_s), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        for job in jobs:
            assert job.process is not None
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(job.process.pid, number)
        with suppress(KeyboardInterrupt):
            deadline = time.monotonic() + patience_s
            while time.monotonic() < deadline and any(
                j.process is not None and j.process.poll() is None for j in jobs
            ):
                time.sleep(0.05)
    for job in jobs:
        job.read_outcome()


def _returned(job: Job) -> JobReturn:
    """Return what a sweeper may want to know: the headline metric."""
    result = JobReturn(
        overrides=job.overrides, cfg=job.config, working_dir=str(job.folder), status=JobStatus.COMPLETED
    )
    result.return_value = next(iter(job.metric.values()), None)
    return result
