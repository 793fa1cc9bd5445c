"""The `processes` launcher: each job of a sweep runs in a fresh process on this machine, as if typed alone.

A failed job does not stop the others; the table at the end has them all, and the exit code is 1 if any failed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.core.utils import JobReturn

from cxr.config import plain
from cxr.errors import UserError
from cxr.launch.base import JobLauncher, check_values
from cxr.launch.children import Child, StopSignals, start, stop
from cxr.launch.command import clean, command, environment
from cxr.launch.job import LOG, OPENED, Job
from cxr.launch.slots import VISIBLE, Slots, gpus_wanted, threads_of_job, visible_devices
from cxr.launch.starter import Command, Starter
from cxr.launch.warm import modules_of
from cxr.run import POINTER

if TYPE_CHECKING:
    from cxr.launch.live import Lines

__all__ = ["ProcessLauncher"]

# They go before OMP_NUM_THREADS in the libraries that read them; unset, those read OMP_NUM_THREADS too.
OTHER_THREADS = ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
TICK_S = 0.05


class ProcessLauncher(JobLauncher):
    """Run `n_jobs` jobs at a time, each in its own process.

    Args:
        n_jobs: how many at a time.
        threads: CPU threads of each job, divided among its processes (trainer.devices on a CPU); None: cores / n_jobs
            unless OMP_NUM_THREADS is set, and as it is where one job runs at a time.
        gpus_per_job: GPUs of each job, its own while it runs; 0: it sees none; None: it sees what is here.
        grace_s: seconds a job has after Ctrl-C to save.
        warm: fork jobs of one process from a parent that has imported what they need, else each is a new interpreter.
    """

    name: ClassVar[str] = "processes"

    def __init__(
        self, n_jobs: int, threads: int | None, gpus_per_job: int | None, grace_s: float, warm: bool
    ) -> None:
        super().__init__()
        self.n_jobs, self.threads, self.gpus_per_job, self.grace_s = n_jobs, threads, gpus_per_job, grace_s
        self.warm = warm
        self._devices: list[str] = []
        self._starter: Starter | None = None

    def check_own_values(self) -> None:
        """See JobLauncher; also refuse more GPUs at a time than there are, rather than run fewer jobs than asked."""
        check_values(
            self,
            {
                "n_jobs": int,
                "threads": int | None,
                "gpus_per_job": int | None,
                "grace_s": float,
                "warm": bool,
            },
            {"n_jobs": 1, "threads": 1, "gpus_per_job": 0, "grace_s": 0},
        )
        if not self.gpus_per_job:
            return
        self._devices = visible_devices(os.environ)
        here, each = len(self._devices), self.gpus_per_job
        seen = f"{here} {'is' if here == 1 else 'are'} visible" + f" ({','.join(self._devices)})" * (here > 0)
        if each > here:
            mend = f"set hydra.launcher.gpus_per_job={here or 'null'}"
            raise UserError(f"hydra.launcher.gpus_per_job: got {each}, and {seen}; {mend}")
        if self.n_jobs * each > here:
            raise UserError(
                f"hydra.launcher.n_jobs: {self.n_jobs} jobs at a time x {each} GPUs = {self.n_jobs * each}, and {seen}; "
                f"set hydra.launcher.n_jobs={here // each}"
            )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """See JobLauncher; a search, which has batches of jobs, does not come here and keeps its warm parent."""
        try:
            return super().launch(job_overrides, initial_job_idx)
        finally:
            if self._starter is not None:
                self._starter.close()

    def problem_of(self, job: Job) -> str:
        """Return why a job cannot run here: more machines than this one, or more GPUs than it gets."""
        trainer = _trainer(job)
        nodes = trainer.get("num_nodes", 1)
        if nodes != 1:
            return (f"trainer.num_nodes: {nodes} machines, and hydra/launcher=processes has this one; "
                    "set trainer.num_nodes=1 or hydra/launcher=slurm")  # fmt: skip
        each = self.gpus_per_job
        if each is None or not trainer or (wanted := gpus_wanted(trainer, each)) <= each:
            return ""
        if each == 0:
            return "trainer.accelerator: gpu, and hydra.launcher.gpus_per_job=0 hides all; set trainer=cpu"
        mend = f"set trainer.devices={each} or hydra.launcher.gpus_per_job={wanted}"
        return (
            f"trainer.devices: needs {wanted} GPUs, and a job gets hydra.launcher.gpus_per_job={each}; {mend}"
        )

    def run(self, jobs: Sequence[Job], all_jobs: Sequence[Job]) -> None:
        """Run `n_jobs` at a time until all have ended; on Ctrl-C, SIGTERM or SIGHUP end those that run.

        Raises:
            KeyboardInterrupt: after a signal, when all have ended.
        """
        from cxr.launch.live import show  # rich: Hydra imports this module at every start

        if self.gpus_per_job is None and self.n_jobs > 1 and any(_needs_gpu(job) for job in jobs):
            print(f"warning: {self.n_jobs} jobs at a time see the same GPUs; hydra.launcher.gpus_per_job=1 gives "
                  "each its own")  # fmt: skip
        slots, waiting, running = Slots(self._devices), list(jobs), list[_Running]()
        with StopSignals() as signals, show(all_jobs) as lines:
            self._warm_up(
                jobs, all_jobs
            )  # within StopSignals, so that jobs inherit no signal that is ignored
            try:
                while (waiting or running) and not signals.count:
                    while waiting and len(running) < self.n_jobs and self._ready():
                        self._start(waiting.pop(0), slots, running, lines)
                        self.save(all_jobs)
                    time.sleep(TICK_S)
                    if self._reap(running, slots, lines):
                        self.save(all_jobs)
                    lines.refresh()
            finally:
                stop([one.child for one in running], self.grace_s, signals, lines.tell)
                self._reap(running, slots, lines)
        if signals.count:
            raise KeyboardInterrupt(f"stopped by {signals.name}")

    def _warm_up(self, jobs: Sequence[Job], all_jobs: Sequence[Job]) -> None:
        """Have a parent import what the jobs need, once: a sweep of one job, and one of ranks, has no use for it."""
        alone = [job for job in jobs if _is_alone(job)]
        if not self.warm or self._starter is not None or len(all_jobs) < 2 or not alone:
            return
        configs = [plain(job.config) if job.plan is None else job.plan.config for job in alone if job.config]
        modules = modules_of(self.task_function.__module__, configs)
        self._starter = Starter(self._command(alone[0], ()), modules, self.folder)

    def _ready(self) -> bool:
        return self._starter is None or self._starter.ready()

    def _command(self, job: Job, devices: Sequence[str]) -> Command:
        own = {VISIBLE, POINTER, *job.variables}
        words, variables = command(job, self.config, self.task_function), self._environment(job, devices)
        return Command(words, variables, self.config.hydra.runtime.cwd, job.folder / LOG, own, _is_alone(job))

    def _start(self, job: Job, slots: Slots, running: list[_Running], lines: Lines) -> None:
        """Start a job; one that cannot be started has failed, the others go on."""
        devices = slots.take(self.gpus_per_job or 0)
        job.state = "running"
        try:
            job.folder.mkdir(parents=True, exist_ok=True)
            (job.folder / OPENED).unlink(missing_ok=True)
            what = self._command(job, devices)
            if self._starter is None:
                child = Child(start(what.words, what.environment, what.cwd, what.log))
            else:
                child = Child(self._starter.start(what, lines.tell))
        except OSError as error:
            slots.give(devices)
            job.state, job.exit_code, job.error = "failed", 1, f"could not be started: {error}"
            lines.ended(job)
            return
        running.append(_Running(job, child, devices))
        lines.started(job)

    def _reap(self, running: list[_Running], slots: Slots, lines: Lines) -> bool:
        """Fill in how jobs went that have ended and free their slots; return whether there are any."""
        ended = [one for one in running if one.child.has_ended()]
        for one in ended:
            running.remove(one)
            slots.give(one.devices)
            assert one.child.exit_code is not None
            one.job.wall_s = one.child.wall_s
            one.job.read_outcome(one.child.exit_code)
            lines.ended(one.job)
        return bool(ended)

    def _environment(self, job: Job, devices: Sequence[str]) -> dict[str, str]:
        variables = clean(os.environ) | environment(job, self.folder.name)
        if self.gpus_per_job is not None:
            variables[VISIBLE] = ",".join(devices)
        threads = threads_of_job(self.threads, self.n_jobs, variables)
        if threads is not None:
            for name in OTHER_THREADS:
                variables.pop(name, None)
            variables["OMP_NUM_THREADS"] = str(max(1, threads // _processes(job)))
        return variables


@dataclass(frozen=True)
class _Running:
    """A job, its process and its GPUs."""

    job: Job
    child: Child
    devices: Sequence[str]


def _trainer(job: Job) -> Mapping[str, Any]:
    """Return the job's node of conf/trainer; {} for a program without one."""
    found = {} if job.config is None else plain(job.config).get("trainer")
    return found if isinstance(found, dict) else {}


def _needs_gpu(job: Job) -> bool:
    return _trainer(job).get("accelerator") == "gpu"


def _is_alone(job: Job) -> bool:
    """Say whether a job is surely one process; `auto` may be several GPUs."""
    trainer = _trainer(job)
    devices = trainer.get("devices", 1)
    one = devices == 1 or (isinstance(devices, list) and len(devices) == 1)
    return one and not str(trainer.get("strategy")).startswith("ddp")


def _processes(job: Job) -> int:
    """Return how many processes a job has on the CPU, or to feed its GPUs."""
    devices = _trainer(job).get("devices", 1)
    return max(1, len(devices) if isinstance(devices, list) else devices if isinstance(devices, int) else 1)
