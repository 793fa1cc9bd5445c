"""The `slurm` launcher: each job of a sweep is a job of a SLURM cluster, requeued when its node is taken, and resumed.

submitit submits; Hydra's plugin for it is not used: its jobs are calls of the task function in the process that
unpickled them, in MULTIRUN mode, from whatever that process has imported. Here a job is the command that one would type
(`cxr.launch.command`), in every task of `srun`, so that it has the rank that SLURM gave it and nothing else of others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, get_type_hints

from omegaconf import OmegaConf

from cxr.config import plain
from cxr.errors import UserError
from cxr.files import read_json, write_json
from cxr.launch.base import JobLauncher, check_values
from cxr.launch.command import command, environment
from cxr.launch.job import LOG, OPENED, Job, common, near, shown
from cxr.launch.slurm_queue import Queued, left, queue
from cxr.launch.slurm_submit import Shape, shape_of, submit
from cxr.launch.slurm_task import ENDED, SlurmTask

__all__ = ["SlurmLauncher"]

SUBMITTED = "slurm.json"  # in a job's folder: its SLURM id and sbatch file
LOOK_S = 0.5  # between looks at the files that jobs leave
LAG_S = 30.0  # until a file that a node wrote is seen here (NFS)
# How SLURM says that it ended a job, and what may help; the others end by themselves and leave a file.
BY_SLURM = {
    "CANCELLED": (130, ""),
    "TIMEOUT": (130, "; it was not saved in time: set hydra.launcher.signal_delay_s higher"),
    "PREEMPTED": (130, ""),
    "NODE_FAIL": (130, ""),
    "BOOT_FAIL": (130, ""),
    "DEADLINE": (130, ""),
    "OUT_OF_MEMORY": (1, "; set hydra.launcher.mem_gb higher"),
}
LEAST = {
    "timeout_min": 1,
    "nodes": 1,
    "tasks_per_node": 1,
    "gpus_per_node": 0,
    "cpus_per_task": 1,
    "mem_gb": 0.001,
    "array_parallelism": 1,
    "signal_delay_s": 1,
    "max_num_timeout": 0,
    "max_requeues": 0,
    "poll_s": 0.1,
}


class SlurmLauncher(JobLauncher):
    """Submit all jobs, those of one shape as an array, and wait for them. Ctrl-C leaves them in the queue.

    Null means: not given, the cluster's default.

    Args:
        partition, qos, account, constraint, exclude, comment: sbatch's.
        timeout_min: time limit of an attempt, minutes; the job is saved and requeued before it ends.
        nodes: of each job; None: its trainer.num_nodes.
        tasks_per_node: processes on each node; None: the job's trainer.devices.
        gpus_per_node: None: the job's trainer.devices where trainer.accelerator=gpu, none elsewhere.
        cpus_per_task: cores of each process, its data workers included.
        mem_gb: of each node.
        array_parallelism: jobs at a time, of each array.
        signal_delay_s: seconds before the end of the time limit in which a job saves and is requeued.
        max_num_timeout: requeues after time-outs (submitit takes a preemption in the last 20 % or 10 min for one).
        max_requeues: requeues for any reason.
        setup: shell lines before the job, e.g. `module load cuda`.
        srun_args: words for srun.
        additional_parameters: of sbatch, by their long names, e.g. `{reservation: night}`.
        name: the jobs' name in the queue; None: the sweep's.
        poll_s: seconds between two looks at the queue.
    """

    name: ClassVar[str] = "slurm"
    joins_running: ClassVar[bool] = True

    def __init__(
        self,
        partition: str | None,
        qos: str | None,
        account: str | None,
        timeout_min: int,
        nodes: int | None,
        tasks_per_node: int | None,
        gpus_per_node: int | None,
        cpus_per_task: int | None,
        mem_gb: float | None,
        constraint: str | None,
        exclude: str | None,
        comment: str | None,
        array_parallelism: int,
        signal_delay_s: int,
        max_num_timeout: int | None,
        max_requeues: int | None,
        setup: list[str],
        srun_args: list[str],
        additional_parameters: dict[str, Any],
        name: str | None,
        poll_s: float,
    ) -> None:
        super().__init__()
        given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        self.given: dict[str, Any] = plain(OmegaConf.create(given))

    def check_own_values(self) -> None:
        """See JobLauncher; refuses a machine without SLURM too."""
        given = SimpleNamespace(**self.given)
        kinds = get_type_hints(SlurmLauncher.__init__)
        check_values(given, {key: kinds[key] for key in self.given}, LEAST)
        if given.name in ("bash", "interactive"):
            raise UserError(
                f"hydra.launcher.name: got {given.name}, by which Lightning knows a shell; set another hydra.launcher.name=…"
            )
        if missing := [
            program for program in ("sbatch", "squeue", "scontrol") if shutil.which(program) is None
        ]:
            raise UserError(
                f"hydra/launcher=slurm: there is no {missing[0]} on the PATH; type this on a login node of the cluster, "
                "or set hydra/launcher=processes"
            )

    def compose(self, job_overrides: Mapping[int, Sequence[str]]) -> list[Job]:
        """See JobLauncher; a job whose trainer does not fit what was given carries its problem."""
        jobs = super().compose(job_overrides)
        for job in jobs:
            if not job.problem:
                try:
                    self._shape(job)
                except UserError as error:
                    job.problem = str(error)
        return jobs

    def run(self, jobs: Sequence[Job], all_jobs: Sequence[Job]) -> None:
        """Submit the jobs that are not in the queue already, and wait for all."""
        held = queue()
        if held is None:
            raise UserError("squeue does not answer; try it in the shell, then type the same command again")
        ids = {job.number: _submitted(job) for job in jobs}
        ids = {n: i for n, i in ids.items() if i in held and held[i].name == self._job_name}
        shared = common(all_jobs)
        for job in jobs:
            if job.number in ids:
                print(
                    f"job {job.number} is in the queue as {ids[job.number]}: {shown(job.overrides, shared)}"
                )
        ids |= self._submit([job for job in jobs if job.number not in ids], shared)
        for job in jobs:
            job.state, job.slurm_id = "pending", ids[job.number]
        self.save(all_jobs)
        if jobs:
            print(f"output of job N: {near(self.folder)}/N/{LOG}", flush=True)
        try:
            self._wait(jobs, all_jobs)
        except KeyboardInterrupt:
            numbers = " ".join(
                sorted({job.slurm_id.partition("_")[0] for job in jobs if job.exit_code is None})
            )
            print(
                f"\nthe jobs stay in the queue: the same command waits for them again, scancel {numbers} ends them",
                flush=True,
            )
            raise

    @property
    def _job_name(self) -> str:
        return str(self.given["name"] or self.folder.name)

    def _shape(self, job: Job) -> Shape:
        assert job.config is not None
        return shape_of(
            job.config, *(self.given[key] for key in ("nodes", "tasks_per_node", "gpus_per_node"))
        )

    def _submit(self, jobs: Sequence[Job], shared: set[str]) -> dict[int, str]:
        """Submit jobs, an array for each shape; all or none. Returns their SLURM ids by number."""
        ids: dict[int, str] = {}
        shapes = dict.fromkeys(self._shape(job) for job in jobs)
        try:
            for shape in shapes:
                alike = [job for job in jobs if self._shape(job) == shape]
                tasks = [self._task(job) for job in alike]
                given = {**self.given, "name": self._job_name}
                numbers, script = submit(tasks, shape, self.folder / "slurm", given)
                for job, number in zip(alike, numbers, strict=True):
                    ids[job.number] = number
                    write_json(job.folder / SUBMITTED, {"slurm_id": number, "script": str(script)})
                    print(f"job {job.number} submitted as {number}: {shown(job.overrides, shared)}")
                print(f"sbatch file: {near(script)}", flush=True)
        except BaseException:
            if ids:
                subprocess.run(["scancel", *ids.values()], check=False)
            raise
        return ids

    def _task(self, job: Job) -> SlurmTask:
        """Return what a node runs for a job, its folder made ready."""
        job.folder.mkdir(parents=True, exist_ok=True)
        for name in (OPENED, ENDED, *(path.name for path in job.folder.glob("output*.log"))):
            (job.folder / name).unlink(missing_ok=True)
        return SlurmTask(
            words=command(job, self.config, self.task_function),
            variables=environment(job, self.folder.name),
            cwd=str(self.config.hydra.runtime.cwd),
            folder=str(job.folder),
            log=LOG,
            opened=OPENED,
            max_requeues=self.given["max_requeues"],
        )

    def _wait(self, jobs: Sequence[Job], all_jobs: Sequence[Job]) -> None:
        """Follow the jobs to their ends, a line for each change."""
        looked, missing = 0.0, dict[int, float]()
        shared = common(all_jobs)
        held: dict[str, Queued] | None = None
        while waiting := [job for job in jobs if job.exit_code is None]:
            if asked := time.monotonic() - looked >= self.given["poll_s"]:
                held, looked = queue(), time.monotonic()
            for job in waiting:
                before = job.state
                if not _read_end(job) and asked and held is not None:
                    if job.slurm_id in held:
                        missing.pop(job.number, None)
                        job.state = str(held[job.slurm_id])
                    else:
                        since = missing.setdefault(job.number, time.monotonic())
                        _take_word(job, time.monotonic() - since > LAG_S)
                if job.state != before:
                    again = before.startswith(("running", "completing")) and job.state.startswith("pending")
                    note = "requeued, goes on from its last checkpoint; " if again else ""
                    print(
                        f"job {job.number} {note}{job.state}: {shown(job.overrides, shared)}  {job.error}".rstrip(),
                        flush=True,
                    )
                    self.save(all_jobs)
            time.sleep(min(LOOK_S, self.given["poll_s"]))


def _submitted(job: Job) -> str:
    """Return the id under which an earlier launcher submitted a job; "" where none did."""
    file = job.folder / SUBMITTED
    return str(read_json(file)["slurm_id"]) if file.is_file() else ""


def _read_end(job: Job) -> bool:
    """Take what the job's first task has left about its end; False: it has left nothing yet."""
    os.scandir(job.folder).close()  # NFS looks anew
    if not (job.folder / ENDED).is_file():
        return False
    ended = read_json(job.folder / ENDED)
    job.wall_s = ended["wall_s"]
    job.read_outcome(ended["exit_code"])
    job.error = ended["error"] or job.error
    return True


def _take_word(job: Job, late: bool) -> None:
    """Take SLURM's word for how a job ended that has left the queue and no file, once none can still come."""
    ended = left(job.slurm_id)
    if ended is not None and ended.state in BY_SLURM:
        code, advice = BY_SLURM[ended.state]
        job.read_outcome(code)
        job.error = f"SLURM: {ended.state}{advice}"
    elif late:
        job.read_outcome((ended and ended.exit_code) or 1)
        state = ended.state if ended else "not in the queue any more"
        job.error = f"SLURM: {state}; {job.error}"
