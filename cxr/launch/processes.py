"""The `processes` launcher: each job of a sweep runs in a fresh process on this machine, as if typed alone.

A failed job does not stop the others; the table at the end has them all, and the exit code is 1 if any failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import ClassVar

from cxr.launch.base import JobLauncher, check_values
from cxr.launch.command import clean, command, environment
from cxr.launch.job import LOG, OPENED, Job, common, near, shown

__all__ = ["ProcessLauncher"]


class ProcessLauncher(JobLauncher):
    """Run `n_jobs` jobs at a time, each in its own process.

    Args:
        n_jobs: how many at a time.
        threads: OMP_NUM_THREADS of each job; None: cores / n_jobs when n_jobs > 1, else as it is.
        grace_s: seconds a job has after Ctrl-C to save what it can.
    """

    name: ClassVar[str] = "processes"

    def __init__(self, n_jobs: int, threads: int | None, grace_s: float) -> None:
        super().__init__()
        self.n_jobs, self.threads, self.grace_s = n_jobs, threads, grace_s

    def check_own_values(self) -> None:
        """See JobLauncher."""
        check_values(
            self,
            {"n_jobs": int, "threads": int | None, "grace_s": float},
            {"n_jobs": 1, "threads": 1, "grace_s": 0},
        )

    def run(self, jobs: Sequence[Job], all_jobs: Sequence[Job]) -> None:
        """Run `n_jobs` at a time until all have ended; on Ctrl-C or SIGTERM end those that run."""
        waiting, running = list(jobs), list[_Running]()
        shared = common(all_jobs)
        with _sigterm_as_ctrl_c():
            try:
                while waiting or running:
                    while waiting and len(running) < self.n_jobs:
                        job = waiting.pop(0)
                        running.append(self._start(job))
                        self.save(all_jobs)
                        log = near(job.folder / LOG)
                        print(
                            f"job {job.number} started: {shown(job.overrides, shared)}  (output: {log})",
                            flush=True,
                        )
                    time.sleep(0.05)
                    for ended in [one for one in running if one.process.poll() is not None]:
                        running.remove(ended)
                        ended.end()
                        self.save(all_jobs)
                        job = ended.job
                        print(
                            f"job {job.number} {job.state}: {shown(job.overrides, shared)}  {job.error}".rstrip(),
                            flush=True,
                        )
            except BaseException:
                _stop(running, self.grace_s)
                raise

    def _start(self, job: Job) -> _Running:
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / OPENED).unlink(missing_ok=True)
        job.state = "running"
        with (job.folder / LOG).open("wb") as log:
            began = time.monotonic()
            process = subprocess.Popen(
                command(job, self.config, self.task_function),
                env=self._environment(job),
                cwd=self.config.hydra.runtime.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its own group: its ranks and workers are ended with it
            )
        return _Running(job, process, began)

    def _environment(self, job: Job) -> dict[str, str]:
        variables = clean(os.environ) | environment(job, self.folder.name)
        if self.threads is not None:
            variables["OMP_NUM_THREADS"] = str(self.threads)
        elif self.n_jobs > 1:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            variables.setdefault("OMP_NUM_THREADS", str(max(1, cores // self.n_jobs)))
        return variables


@dataclass(frozen=True)
class _Running:
    """A job and its process."""

    job: Job
    process: subprocess.Popen[bytes]
    began: float

    def end(self) -> None:
        """Fill in how the job went; the process has ended."""
        assert self.process.returncode is not None
        self.job.wall_s = time.monotonic() - self.began
        self.job.read_outcome(self.process.returncode)


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


def _stop(running: Sequence[_Running], grace_s: float) -> None:
    """End process groups: Ctrl-C first, then SIGTERM, then SIGKILL; a second Ctrl-C goes on to the next."""
    for number, patience_s in ((signal.SIGINT, grace_s), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        for one in running:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(one.process.pid, number)
        with suppress(KeyboardInterrupt):
            deadline = time.monotonic() + patience_s
            while time.monotonic() < deadline and any(one.process.poll() is None for one in running):
                time.sleep(0.05)
    for one in running:
        one.process.wait()
        one.end()
