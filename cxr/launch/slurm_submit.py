"""Jobs handed to SLURM: those that need the same machines as one array, through submitit's executor.

submitit writes the sbatch file, its signal and its requeueing; `cxr.launch.slurm_task` is what it runs.
"""

from __future__ import annotations

import io
import logging
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cxr.errors import UserError
from cxr.launch.command import clean, importable
from cxr.launch.slurm_task import SlurmTask

__all__ = ["Shape", "shape_of", "submit"]

NO_LIMIT = 2**31
# parameters of submitit that are called as ours
SAME = (
    *("partition", "qos", "account", "cpus_per_task", "constraint", "exclude", "comment"),
    *("array_parallelism", "signal_delay_s"),
)


@dataclass(frozen=True)
class Shape:
    """The machines that a job needs; jobs of one shape share an array."""

    nodes: int
    tasks_per_node: int
    gpus_per_node: int | None


def shape_of(
    config: DictConfig, nodes: int | None, tasks_per_node: int | None, gpus_per_node: int | None
) -> Shape:
    """Return the shape of a job from its trainer (a program without one is one process); given values must agree.

    Raises:
        UserError: they do not, or the trainer gives no number.
    """
    trainer = config.get("trainer") or {}
    devices, num_nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    if isinstance(devices, str):
        raise UserError(
            f"trainer.devices: got {devices!r}, and SLURM must know how many; set trainer.devices=1"
        )
    processes = devices if isinstance(devices, int) else len(devices)
    for key, given, wanted, source in (
        ("nodes", nodes, num_nodes, "trainer.num_nodes"),
        ("tasks_per_node", tasks_per_node, processes, "trainer.devices"),
    ):
        if given is not None and given != wanted:
            raise UserError(
                f"hydra.launcher.{key}: got {given}, and this job's {source} is {wanted}; "
                f"set hydra.launcher.{key}=null (takes {source}) or {source}={given}"
            )
    if gpus_per_node is None and trainer.get("accelerator") == "gpu":
        gpus_per_node = processes
    return Shape(num_nodes, processes, gpus_per_node)


def submit(
    tasks: Sequence[SlurmTask], shape: Shape, folder: Path, given: Mapping[str, Any]
) -> tuple[list[str], Path]:
    """Submit jobs of one shape, several as an array; return their SLURM ids, in order, and the sbatch file.

    Args:
        folder: for submitit's files; every node must see it.
        given: the launcher's parameters (conf/hydra/launcher/slurm.yaml).

    Raises:
        UserError: sbatch refused, in its words.
    """
    with _submitting():
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError

        limit = given["max_num_timeout"]
        executor = SlurmExecutor(folder, max_num_timeout=NO_LIMIT if limit is None else limit)
        executor.update_parameters(**_parameters(shape, given))
        try:
            with executor.batch():
                jobs = [executor.submit(task) for task in tasks]
            return [job.job_id for job in jobs], jobs[0].paths.submission_file
        except (FailedJobError, subprocess.CalledProcessError) as error:
            raise UserError(_refusal(str(error))) from None


def _parameters(shape: Shape, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what submitit's executor takes; what is not given is left to the cluster."""
    memory, cores = given["mem_gb"], given["cpus_per_task"]
    asked = {key: given[key] for key in SAME}
    asked |= {
        "job_name": given["name"],
        "time": given["timeout_min"],
        "mem": None if memory is None else f"{round(1024 * memory)}M",
        "nodes": shape.nodes,
        "ntasks_per_node": shape.tasks_per_node,
        "gpus_per_node": shape.gpus_per_node,
        "setup": [*_finds_cxr(), *given["setup"]],
        # When one task fails all end; and srun does not take its cores from sbatch (since SLURM 22.05).
        "srun_args": [
            "--kill-on-bad-exit=1",
            *([] if cores is None else [f"--cpus-per-task={cores}"]),
            *given["srun_args"],
        ],
        # Whether a job may be requeued is otherwise the cluster's choice (JobRequeue).
        "additional_parameters": {"requeue": True, **given["additional_parameters"]},
    }
    # wckey: submitit gives one, `submitit`, which a cluster that counts by them refuses.
    return {key: value for key, value in asked.items() if value is not None} | {"wckey": None}


def _finds_cxr() -> list[str]:
    """Return shell lines with which a node's Python finds this cxr, wherever the sweep was typed."""
    path = importable({}).get("PYTHONPATH")
    return [f'export PYTHONPATH={shlex.quote(path)}"${{PYTHONPATH:+:$PYTHONPATH}}"'] if path else []


@contextmanager
def _submitting() -> Iterator[None]:
    """Submit from an environment without another job's variables, and with submitit's remarks off the screen.

    sbatch gives the environment to the job: that of a shell inside an allocation would break its srun.
    """
    before, logger = dict(os.environ), logging.getLogger("submitit")
    kept = {k: v for k, v in clean(before).items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}
    if "PYTHONPATH" in before:
        kept["PYTHONPATH"] = before["PYTHONPATH"]  # what a checkout adds comes by `_finds_cxr`
    else:
        kept.pop("PYTHONPATH", None)
    logger.disabled = True
    os.environ.clear()
    os.environ.update(kept)
    try:
        with redirect_stderr(io.StringIO()):  # submitit prints what sbatch says, and raises it too
            yield
    finally:
        logger.disabled = False
        os.environ.clear()
        os.environ.update(before)


def _refusal(text: str) -> str:
    """Return sbatch's reasons in one line, with the parameter that each is about, where it is known."""
    lines = [line.partition("error:")[2].strip() for line in text.splitlines() if "sbatch: error:" in line]
    reasons = [line for line in lines if not line.startswith("Batch job submission failed")] or lines
    said = "; ".join(dict.fromkeys(lines)) or text.strip().splitlines()[-1]
    about = " ".join(reasons).lower()
    for word, key, where in (
        ("account", "account", "sacctmgr show associations user=$USER lists them"),
        ("partition", "partition", "sinfo -s lists them"),
        ("qos", "qos", "sacctmgr show qos lists them"),
        ("time limit", "timeout_min", "sinfo -o '%P %l' tells each partition's limit"),
        ("memory", "mem_gb", "sinfo -o '%N %m' tells each node's"),
        ("gres", "gpus_per_node", "sinfo -o '%N %G' tells each node's"),
        ("node count", "nodes", "sinfo -s tells how many there are"),
        ("node configuration", "cpus_per_task", "sinfo -o '%N %c %m %G' tells what nodes have"),
    ):
        if word in about:
            return f"sbatch refused: {said}; set hydra.launcher.{key}=… ({where})"
    return f"sbatch refused: {said}; hydra.launcher.… has what it was given"
