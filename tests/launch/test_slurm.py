"""The `slurm` launcher where no cluster is needed: shapes, what SLURM prints, and what a node's task decides."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from cxr.errors import UserError
from cxr.launch.slurm_queue import Left, Queued, parse_left, parse_queue
from cxr.launch.slurm_submit import Shape, _parameters, _refusal, shape_of

CPU, GPU = (
    {"devices": 2, "num_nodes": 1, "accelerator": "cpu"},
    {"devices": [0, 3], "num_nodes": 2, "accelerator": "gpu"},
)


@pytest.mark.parametrize(
    ("trainer", "given", "shape"),
    [
        (CPU, (None, None, None), Shape(1, 2, None)),
        (CPU, (1, 2, None), Shape(1, 2, None)),
        (GPU, (None, None, None), Shape(2, 2, 2)),
        (GPU, (None, None, 0), Shape(2, 2, 0)),
        (None, (None, None, None), Shape(1, 1, None)),  # generate, evaluate: one process
    ],
)
def test_a_job_asks_for_what_its_trainer_uses(trainer: Any, given: tuple[Any, ...], shape: Shape) -> None:
    config = OmegaConf.create({} if trainer is None else {"trainer": trainer})
    assert shape_of(config, *given) == shape


@pytest.mark.parametrize(
    ("trainer", "given", "told"),
    [
        (CPU, (2, None, None), ("hydra.launcher.nodes: got 2, and this job's trainer.num_nodes is 1; "
         "set hydra.launcher.nodes=null (takes trainer.num_nodes) or trainer.num_nodes=2")),
        (GPU, (None, 4, None), ("hydra.launcher.tasks_per_node: got 4, and this job's trainer.devices is 2; "
         "set hydra.launcher.tasks_per_node=null (takes trainer.devices) or trainer.devices=4")),
        ({**CPU, "devices": "auto"}, (None, None, None),
         "trainer.devices: got 'auto', and SLURM must know how many; set trainer.devices=1"),
    ],
)  # fmt: skip
def test_what_contradicts_the_trainer_is_refused(trainer: Any, given: tuple[Any, ...], told: str) -> None:
    with pytest.raises(UserError) as error:
        shape_of(OmegaConf.create({"trainer": trainer}), *given)
    assert str(error.value) == told


def test_sbatch_gets_what_was_given_and_nothing_else(repository: Path) -> None:
    given = OmegaConf.to_container(OmegaConf.load(repository / "conf" / "hydra" / "launcher" / "slurm.yaml"))
    assert isinstance(given, dict)
    asked = _parameters(Shape(1, 2, None), {**given, "cpus_per_task": 3, "mem_gb": 1.5, "name": "one"})
    asked.pop("setup")  # finds cxr: tested on a cluster
    assert asked == {
        "job_name": "one", "time": 240, "mem": "1536M", "nodes": 1, "ntasks_per_node": 2, "cpus_per_task": 3,
        "srun_args": ["--kill-on-bad-exit=1", "--cpus-per-task=3"], "array_parallelism": 256, "signal_delay_s": 120,
        "additional_parameters": {"requeue": True}, "wckey": None,
    }  # fmt: skip


def test_the_queue_is_read() -> None:
    lines = ("12_0|one|RUNNING|None|n1", "12_1|one|PENDING|Priority|", "13|two|PENDING|PartitionTimeLimit|", "",
             "14_2|x|COMPLETING|None|n[1-2]")  # fmt: skip
    shown = "\n".join(lines)
    jobs = parse_queue(shown)
    assert jobs["12_0"] == Queued("one", "running", "None", "n1")
    assert [job.waits for job in jobs.values()] == [False, True, True, False]
    assert [job.waits_for_ever for job in jobs.values()] == [False, False, True, False]
    assert [str(job) for job in jobs.values()] == [
        "running on n1",
        "pending (Priority)",
        (
            "pending (PartitionTimeLimit: scancel it and set hydra.launcher.timeout_min lower, or another "
            "hydra.launcher.partition)"
        ),
        "completing on n[1-2]",
    ]


def test_the_end_of_a_job_is_read() -> None:
    line = "JobId=13 ArrayJobId=12 JobName=one JobState={} Reason=None Requeue=1 ExitCode={} RunTime=00:01:00"
    assert parse_left(line.format("CANCELLED", "0:15")) == Left("CANCELLED", 143)
    assert parse_left(line.format("FAILED", "130:0")) == Left("FAILED", 130)
    assert parse_left("nothing") is None


@pytest.mark.parametrize(
    ("reason", "key"),
    [
        ("sbatch: error: invalid partition specified: gpu", "partition"),
        ("sbatch: error: Memory specification can not be satisfied", "mem_gb"),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
         "timeout_min"),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified", "account"),
    ],
)  # fmt: skip
def test_a_refusal_of_sbatch_names_the_parameter(reason: str, key: str) -> None:
    told = _refusal(f"some trace\n{reason}\n")
    assert told.startswith(f"sbatch refused: {reason.removeprefix('sbatch: error: ')}")
    assert f"; set hydra.launcher.{key}=…" in told


def test_without_slurm_one_line_says_what_to_do(
    tmp_path: Path, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "bin").mkdir()
    done = cli("train", "-m", "hydra/launcher=slurm", "seed=0,1", env={"PATH": str(tmp_path / "bin")})
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        (
            "error: hydra/launcher=slurm: there is no sbatch on the PATH; type this on a login node of the cluster, "
            "or set hydra/launcher=processes"
        )
    ]


# A task as a node calls it, under a handler that stands for submitit's; the child saves if it is told to.
TASK = """
import json, os, signal, sys
from cxr.launch.slurm_task import SlurmTask
def requeue(number, frame):
    again = task.checkpoint().function
    print("requeued", again.idle)
    sys.exit(255)
signal.signal(signal.SIGUSR2, requeue)
folder, child, limit, idle = sys.argv[1:]
task = SlurmTask([sys.executable, "-c", child], {"FOLDER": folder}, folder, folder, "output.log", "run.json",
                 json.loads(limit), int(idle))
task()
"""
STOPPED = """
import json, os, pathlib, signal, sys
folder = pathlib.Path(os.environ["FOLDER"])
def stop(*_):
    if {saves}:
        (folder / "run" / "checkpoints").mkdir(parents=True)
        (folder / "run" / "checkpoints" / "last.ckpt").touch()
    sys.exit(130)
signal.signal(signal.SIGUSR2, stop)
signal.signal(signal.SIGTERM, stop)
(folder / "run.json").write_text(json.dumps({{"run": str(folder / "run")}}))
os.kill(os.getppid(), {number})
signal.pause()
"""


@pytest.mark.parametrize(
    ("rank", "number", "saves", "limit", "idle", "restarts", "code", "told", "error"),
    [
        (0, "signal.SIGUSR2", True, None, 2, 5, 255, "requeued 0", None),
        (0, "signal.SIGUSR2", False, None, 1, 5, 255, "requeued 2", None),
        (0, "signal.SIGUSR2", False, None, 2, 5, 130, "", "3 attempts in a row saved no checkpoint"),
        (0, "signal.SIGUSR2", True, 5, 0, 5, 130, "", "requeued 5 times, the limit"),
        (0, "signal.SIGTERM", True, None, 0, 0, 130, "", None),  # scancel: SLURM's to tell
        (1, "signal.SIGUSR2", True, None, 0, 0, 0, "", None),  # rank 0 requeues
    ],
)  # fmt: skip
def test_a_stopped_task_is_requeued_or_says_why_not(
    rank: int, number: str, saves: bool, limit: int | None, idle: int, restarts: int, code: int, told: str,
    error: str | None, tmp_path: Path, repository: Path,
) -> None:  # fmt: skip
    child = STOPPED.format(saves=saves, number=number)
    done = subprocess.run(
        [sys.executable, "-c", TASK, str(tmp_path), child, json.dumps(limit), str(idle)], cwd=repository,
        env={**os.environ, "SLURM_PROCID": str(rank), "SLURM_RESTART_COUNT": str(restarts)},
        text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (code, told), done.stderr
    if error is None:
        assert not (tmp_path / "ended.json").exists()
    else:
        ended = json.loads((tmp_path / "ended.json").read_text())
        assert ended["exit_code"] == 130 and ended["attempts"] == restarts + 1
        assert ended["error"].startswith(error)


@pytest.mark.parametrize(("code", "shell"), [(0, 0), (2, 2), (-signal.SIGKILL, 137)])
def test_a_task_that_ended_by_itself_tells_how(
    code: int, shell: int, tmp_path: Path, repository: Path
) -> None:
    child = (
        f"import os, signal; {f'os.kill(os.getpid(), {-code})' if code < 0 else f'raise SystemExit({code})'}"
    )
    done = subprocess.run(
        [sys.executable, "-c", TASK, str(tmp_path), child, "null", "0"],
        cwd=repository,
        check=False,
        timeout=60,
    )
    assert done.returncode == shell
    assert json.loads((tmp_path / "ended.json").read_text())["exit_code"] == code
