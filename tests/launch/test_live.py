"""GPU slots, live lines, the table and its last line, without any process."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from cxr.errors import UserError
from cxr.files import write_json
from cxr.launch.job import OPENED, Job, error_line
from cxr.launch.live import LiveLines, show
from cxr.launch.processes import ProcessLauncher
from cxr.launch.slots import Slots, gpus_wanted, listed_devices, visible_devices
from cxr.launch.table import closing, print_table
from cxr.run.progress import Progress, write_progress

LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
  MIG 3g.20gb     Device  0: (UUID: MIG-a9f1b6f0-1111-5a3b-8d0c-0123456789ab)
  MIG 3g.20gb     Device  1: (UUID: MIG-b2c3d4e5-2222-5a3b-8d0c-0123456789ab)
GPU 1: NVIDIA H200 (UUID: GPU-70c0b1aa-61ab-3d3e-4dd4-2d2c1d9b7e11)
"""


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("0,1", ["0", "1"]),
        (" 2 , GPU-5c89,MIG-GPU-5c89/1/0 ", ["2", "GPU-5c89", "MIG-GPU-5c89/1/0"]),
        ("0,-1,1", ["0"]),  # CUDA stops reading at the first that is none
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(variable: str, expected: list[str]) -> None:
    assert visible_devices({"CUDA_VISIBLE_DEVICES": variable}) == expected


def test_a_device_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match="names 1 twice"):
        visible_devices({"CUDA_VISIBLE_DEVICES": "1,0,1"})


def test_nvidia_smi_lists_instances_of_divided_gpus_instead_of_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [
        "MIG-a9f1b6f0-1111-5a3b-8d0c-0123456789ab",
        "MIG-b2c3d4e5-2222-5a3b-8d0c-0123456789ab",
        "GPU-70c0b1aa-61ab-3d3e-4dd4-2d2c1d9b7e11",
    ]
    assert listed_devices(LISTED) == expected
    assert listed_devices("No devices found.\n") == []
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'EOF'\n{LISTED}EOF\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert visible_devices({}) == expected
    program.write_text("#!/bin/sh\nexit 9\n")
    assert visible_devices({}) == []
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_devices({}) == []


def test_slots_give_none_twice_and_again_what_came_back() -> None:
    slots = Slots(["a", "b", "c", "d"])
    first, second = slots.take(2), slots.take(2)
    assert (first, second) == (["a", "b"], ["c", "d"])
    with pytest.raises(RuntimeError, match="2 devices are asked for and 0 are free"):
        slots.take(2)
    slots.give(first)
    assert slots.take(2) == ["a", "b"]
    assert slots.take(0) == []


@pytest.mark.parametrize(
    ("accelerator", "devices", "visible", "expected"),
    [
        *(("cpu", 8, 2, 0), ("gpu", 2, 1, 2), ("gpu", [0, 2], 1, 3), ("gpu", "auto", 2, 2)),
        *(("gpu", "auto", 0, 1), ("auto", 2, 1, 2), ("auto", 2, 0, 0), ("auto", "auto", 3, 3)),
    ],
)
def test_gpus_a_trainer_asks_for(accelerator: str, devices: object, visible: int, expected: int) -> None:
    assert gpus_wanted({"accelerator": accelerator, "devices": devices}, visible) == expected


def launcher(**values: Any) -> ProcessLauncher:
    return ProcessLauncher(
        **{"n_jobs": 1, "threads": None, "gpus_per_job": None, "grace_s": 1.0, "warm": False, **values}
    )


def job(number: int = 0, folder: Path = Path(), **trainer: Any) -> Job:
    config = OmegaConf.create({"trainer": {"accelerator": "gpu", "devices": 1, "num_nodes": 1, **trainer}})
    return Job(number, [f"seed={number}"], folder / str(number), config)


def test_a_job_that_does_not_fit_here_is_told() -> None:
    assert launcher().problem_of(job(devices=4)) == ""
    assert launcher(gpus_per_job=2).problem_of(job(devices=2)) == ""
    assert launcher(gpus_per_job=1).problem_of(job(devices=2)) == (
        "trainer.devices: needs 2 GPUs, and a job gets hydra.launcher.gpus_per_job=1; set trainer.devices=1 or "
        "hydra.launcher.gpus_per_job=2"
    )
    assert "gpus_per_job=0 hides all" in launcher(gpus_per_job=0).problem_of(job())
    assert launcher(gpus_per_job=0).problem_of(job(accelerator="auto")) == ""
    assert launcher().problem_of(job(num_nodes=2)).startswith("trainer.num_nodes: 2 machines")
    assert launcher(gpus_per_job=0).problem_of(Job(0, [], Path(), OmegaConf.create({}))) == ""


def test_threads_of_a_job_are_divided_among_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_NUM_THREADS", "64")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")

    def threads(devices: int, **values: Any) -> tuple[str | None, bool]:
        one = launcher(**values)
        one.folder = Path("sweep")
        found = one._environment(job(accelerator="cpu", devices=devices), [])
        return found.get("OMP_NUM_THREADS"), "MKL_NUM_THREADS" in found

    assert threads(2, threads=6) == ("3", False)  # MKL would not look at OMP_NUM_THREADS
    assert threads(4, threads=2) == ("1", False)
    assert threads(1, n_jobs=2) == ("7", True)  # as the shell has it
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    assert threads(1, n_jobs=4) == ("4", False)
    assert threads(2, n_jobs=4) == ("2", False)
    assert threads(2) == (None, True)  # one at a time: PyTorch and Lightning share the cores out


def test_live_lines_show_how_far_running_jobs_are(tmp_path: Path) -> None:
    out = io.StringIO()
    jobs = [job(number, tmp_path) for number in range(4)]
    now = time.time()
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
        run = tmp_path / f"run{number}"
        run.mkdir()
        write_json(jobs[number].folder / OPENED, {"run": str(run), "state": "new"})
    half = Progress("training", 2, 4, 0, 10, None, {"val/accuracy": 0.9125}, now, 0.0, now + 100, 1)
    write_progress(tmp_path / "run0", half)
    write_progress(tmp_path / "run1", Progress("training", 3, 4, 0, 10, None, {}, 5.0, 0.0, 9.0, 1))

    def console() -> Console:
        return Console(file=out, force_terminal=True, width=110, _environ={"TERM": "xterm"})

    with show(jobs, console) as lines:
        assert isinstance(lines, LiveLines)
        for number in (0, 1):
            jobs[number].state = "running"
            lines.started(jobs[number])
        picture = " ".join(out.getvalue().split())
        line = picture.rpartition("job 0")[2]
        assert (
            "seed=0 epoch 3/4 50 % 0:00:00 0:03:20 left val/accuracy 0.9125" in line
        )  # 100 s, and 100 s ahead
        assert "seed=1 starting" in line  # what lies there is an earlier attempt's
        assert "2 waiting, 0 of 4 ended" in line
        jobs[0].state, jobs[0].wall_s, jobs[0].metric = "finished", 61.0, {"val/accuracy": 0.95}
        lines.ended(jobs[0])
        assert "job 0 finished after 0:01:01: seed=0 val/accuracy 0.95" in " ".join(out.getvalue().split())
        assert "2 waiting, 1 of 4 ended" in out.getvalue()


def test_no_terminal_no_moving_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    jobs = [job(number, tmp_path) for number in range(2)]
    with show(jobs, lambda: Console(file=io.StringIO())) as lines:
        lines.started(jobs[0])
        lines.refresh()
        jobs[0].state, jobs[0].error = "failed", "ValueError: no"
        lines.ended(jobs[0])
    log = f"{tmp_path}/0/output.log"
    assert capsys.readouterr().out == (
        f"job 0 started: seed=0  (output: {log})\njob 0 failed after 0:00:00: seed=0  ValueError: no\n"
    )


def test_the_last_line_counts_and_tells_what_to_do() -> None:
    jobs = [job(n) for n in range(4)]
    for one, state, code in zip(
        jobs, ("finished", "finished", "failed", "not started"), (0, 0, 1, None), strict=True
    ):
        one.state, one.exit_code = state, code
    line = "4 jobs: 2 finished, 1 failed, 1 not started"
    assert closing(jobs) == f"{line}; the same command again goes on with what is left"
    assert closing(jobs, hint=False) == line
    assert closing(jobs[:2]) == "2 jobs: 2 finished"


def test_time_is_that_of_all_attempts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = job(0, tmp_path), job(1, tmp_path)
    one.state, one.wall_s, one.earlier_s, one.run = "finished", 12.0, 60.0, tmp_path
    write_json(tmp_path / "status.json", {"attempts": 3, "wall_s": 70.0})
    print_table([one, other])
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if "finished" in line).split("│")[5].strip() == "0:01:12 in 3 attempts"
    assert next(line for line in lines if "not started" in line).split("│")[5].strip() == "0:00:00"
    assert any(line.strip().startswith("time: of all attempts") for line in lines)


def test_the_error_of_a_long_log_is_found_at_its_end(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    with log.open("w") as file:
        file.write("error: long ago\n")
        for _ in range(20):
            file.write("é" * 2**19 + "\n")
        file.write("ValueError: lately\nbye\n")
    assert error_line(log) == "ValueError: lately"
