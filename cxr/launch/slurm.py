"""The `slurm` launcher: each job of a sweep is a job of a SLURM cluster, requeued when its node is taken, and resumed.

submitit submits; Hydra's plugin for it is not used: its jobs are calls of the task function in the process that
unpickled them, in MULTIRUN mode, from whatever that process has imported. Here a job is the command that one would type
(`cxr.launch.command`), in every task of `srun`, so that it has the rank that SLURM gave it and nothing else of others.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

from omegaconf import OmegaConf

from cxr.config import plain
from cxr.errors import UserError
from cxr.files import read_json, write_json
from cxr.launch.base import JobLauncher, check_values
from cxr.launch.command import command, environment
from cxr.launch.job import LOG, OPENED, Job, near
from cxr.launch.slurm_queue import queue
from cxr.launch.slurm_submit import Shape, shape_of, submit
from cxr.launch.slurm_task import ENDED, SlurmTask
from cxr.launch.slurm_wait import follow
from cxr.run import holder

if TYPE_CHECKING:
    from cxr.launch.live import Lines

__all__ = ["SlurmLauncher"]

SUBMITTED = "slurm.json"  # in a job's folder: its SLURM id and sbatch file
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

    def problem_of(self, job: Job) -> str:
        """See JobLauncher: the trainer does not fit what was given."""
        try:
            self._shape(job)
        except UserError as error:
            return str(error)
        return ""

    def run(self, jobs: Sequence[Job], all_jobs: Sequence[Job]) -> None:
        """Submit the jobs that are not in the queue already, and wait for all."""
        from cxr.launch.live import show  # rich: Hydra imports this module at every start

        with show(all_jobs) as lines:
            ids = self._in_queue(jobs) if jobs else {}
            for job in jobs:
                if job.number in ids:
                    lines.tell(f"job {job.number} is in the queue as {ids[job.number]}: {lines.named(job)}")
            ids |= self._submit([job for job in jobs if job.number not in ids], lines)
            for job in jobs:
                job.state, job.slurm_id = "pending", ids[job.number]
            self.save(all_jobs)
            try:
                follow(jobs, lines, self.given["poll_s"], lambda: self.save(all_jobs))
            except KeyboardInterrupt:
                left = sorted({job.slurm_id.partition("_")[0] for job in jobs if job.exit_code is None})
                lines.tell(
                    f"\nthe jobs stay in the queue: the same command waits for them again, scancel {' '.join(left)} "
                    "ends them"
                )
                raise

    def _in_queue(self, jobs: Sequence[Job]) -> dict[int, str]:
        """Return the ids of jobs that an earlier launcher submitted and SLURM still has, by number."""
        held = queue()
        if held is None:
            raise UserError("squeue does not answer; try it in the shell, then type the same command again")
        ids = {job.number: _submitted(job) for job in jobs}
        ids = {n: i for n, i in ids.items() if i in held and held[i].name == self._job_name}
        for job in jobs:
            if job.number not in ids and job.plan is not None and job.plan.standing()[0] == "running":
                raise UserError(f"{job.plan.path}: in use by {holder(job.plan.path)}; wait for it or stop it")
        return ids

    @property
    def _job_name(self) -> str:
        return str(self.given["name"] or self.folder.name)

    def _shape(self, job: Job) -> Shape:
        assert job.config is not None
        return shape_of(
            job.config, *(self.given[key] for key in ("nodes", "tasks_per_node", "gpus_per_node"))
        )

    def _submit(self, jobs: Sequence[Job], lines: Lines) -> dict[int, str]:
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
                    lines.tell(f"job {job.number} submitted as {number}: {lines.named(job)}")
                lines.tell(f"sbatch file: {near(script)}")
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


def _submitted(job: Job) -> str:
    """Return the id under which an earlier launcher submitted a job; "" where none did, or it has ended."""
    file = job.folder / SUBMITTED
    ended = (job.folder / ENDED).is_file()  # SLURM shows it for a moment more
    return str(read_json(file)["slurm_id"]) if file.is_file() and not ended else ""
