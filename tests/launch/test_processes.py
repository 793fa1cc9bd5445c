"""A sweep by the `processes` launcher, on a tiny application of our own in real processes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cxr.launch.record import read_record
from cxr.run import read_status

CONFIG = """
hydra:
  searchpath: ["file://{conf}"]
  output_subdir: null
  run: {{dir: .}}
  sweep: {{dir: sweeps/one}}
defaults: [_self_, {{override hydra/launcher: processes}}, {{override hydra/job_logging: none}}]
do: ok
seed: 0
trainer: {{accelerator: cpu, devices: 1, num_nodes: 1}}
"""

# The door is replaced by a rule of this application's own; the launcher imports it by name.
APP = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
import cxr.config
from cxr.errors import UserError
from cxr.run import default_name, identity, open_run

def check(config):
    if config.seed < 0:
        raise UserError(f"seed: got {config.seed}, expected 0 or more; set seed=…")

cxr.config.check_config = check

@hydra.main(version_base="1.3", config_path="conf", config_name="app")
def main(config):
    hydra_config = HydraConfig.get()
    values = {"do": config.do, "seed": config.seed}
    name = default_name("app", list(hydra_config.overrides.task))
    with open_run(Path("runs"), name, values, identity(values)) as run:
        if run.state == "finished":
            return
        run.start()
        (run.path / "seen.json").write_text(json.dumps({
            "pid": os.getpid(), "environment": dict(os.environ), "mode": hydra_config.mode.name,
            "run_dir": hydra_config.runtime.output_dir, "began": time.time()}))
        if config.do == "fail":
            raise ValueError("the loss is not a number\\nmore")
        if config.do == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if config.do == "flood":
            for _ in range(50):
                print("x" * 2**20)
            raise ValueError("too much")
        if config.do == "leave":
            subprocess.Popen(["sleep", "600"])
        if config.do == "wait" and run.status["attempts"] == 1:
            time.sleep(60)
        if config.do == "deaf":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            (run.path / "deaf").touch()
            time.sleep(60)
        run.finish({"f1": 0.5 + config.seed / 10, "auroc": None})

if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
"""


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def app(tmp_path: Path, repository: Path) -> Start:
    """Start `python app.py …` in tmp_path, as part of somebody's distributed job."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "app.yaml").write_text(CONFIG.format(conf=repository / "conf"))
    (tmp_path / "app.py").write_text(APP)
    environment = {**os.environ, "PYTHONPATH": str(repository), "COLUMNS": "300", "HYDRA_FULL_ERROR": "1"}
    environment |= {"PL_GLOBAL_SEED": "9", "MASTER_PORT": "1", "WORLD_SIZE": "1"}

    def start(
        *overrides: str, before: tuple[str, ...] = (), **variables: str | None
    ) -> subprocess.Popen[str]:
        command = [*before, sys.executable, "app.py", *overrides]
        there = {k: v for k, v in {**environment, **variables}.items() if v is not None}
        return subprocess.Popen(
            command, cwd=tmp_path, env=there, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


def state(tmp_path: Path, name: str) -> str:
    return str(read_status(tmp_path / "runs" / name)["state"])


def living(pids: Iterable[object], groups: bool = False) -> list[int]:
    """Return those of the processes (or their groups) that live; a container's first process may not reap the dead."""
    wanted, found = {int(str(pid)) for pid in pids}, []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            state, _, group = file.read_text().rpartition(")")[2].split()[:3]
            own = int(file.parent.name)
            if (int(group) if groups else own) in wanted and state not in "ZX":
                found.append(own)
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def table(output: str) -> dict[str, tuple[str, ...]]:
    """Return the cells of the last table by overrides: job, overrides, state, metric, time, run, error."""
    lines = [tuple(c.strip() for c in re.split("[│┃]", line)[1:-1]) for line in output.splitlines()]
    return {line[1]: line for line in lines if len(line) == 7}


def seen(tmp_path: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "runs" / name / "seen.json").read_text())
    return found


def test_every_job_is_a_process_and_none_stops_the_others(tmp_path: Path, app: Start) -> None:
    process = app("-m", "do=ok,fail,kill", "seed=1,2", "hydra.launcher.n_jobs=2", OMP_NUM_THREADS=None)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    rows = table(output)
    assert rows["do=ok seed=2"][2:4] == ("finished", "f1 0.7")
    assert rows["do=ok seed=2"][5] == "runs/app_do-ok_seed-2"
    assert rows["do=fail seed=1"][2] == "failed"
    assert rows["do=fail seed=1"][6] == "ValueError: the loss is not a number"
    assert rows["do=kill seed=1"][2] == "killed (SIGKILL)"
    told = (
        "6 jobs: 2 finished, 2 failed, 2 killed (SIGKILL); the same command again goes on with what is left"
    )
    assert output.splitlines()[-1] == told

    jobs = [seen(tmp_path, f"app_do-{do}_seed-{seed}") for do in ("ok", "fail", "kill") for seed in (1, 2)]
    assert len({job["pid"] for job in jobs} | {process.pid}) == 7
    for number, job in enumerate(jobs):
        assert job["mode"] == "RUN"
        assert job["run_dir"] == str(tmp_path / "sweeps" / "one" / str(number))
        environment = job["environment"]
        assert isinstance(environment, dict)
        assert not {"PL_GLOBAL_SEED", "MASTER_PORT", "WORLD_SIZE", "HYDRA_FULL_ERROR"} & environment.keys()
        assert environment["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 2))

    again = app("-m", "do=ok", "seed=1,2,3")
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert [line.count("skipped") for line in output.splitlines() if "│" in line] == [1, 1, 0]
    assert output.splitlines()[-1] == "3 jobs: 2 skipped, 1 finished"


def test_a_flood_of_output_and_a_child_left_behind_stop_nobody(tmp_path: Path, app: Start) -> None:
    process = app("-m", "do=flood,leave,ok")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    rows = table(output)
    assert rows["do=flood"][2::4] == ("failed", "ValueError: too much")
    assert (rows["do=leave"][2], rows["do=ok"][2]) == ("finished", "finished")
    assert (tmp_path / "sweeps" / "one" / "0" / "output.log").stat().st_size > 50 * 2**20
    leaver = seen(tmp_path, "app_do-leave")["pid"]
    assert not living([leaver], groups=True)  # so was the slot when the next job began


def test_each_job_sees_gpus_that_no_other_has_at_that_time(tmp_path: Path, app: Start) -> None:
    gpus = "3,GPU-abc,MIG-GPU-def/1/0,7"
    process = app("-m", "seed=1,2,3,4,5", "hydra.launcher.n_jobs=2", "hydra.launcher.gpus_per_job=2",
                  CUDA_VISIBLE_DEVICES=gpus)  # fmt: skip
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    jobs = [seen(tmp_path, f"app_seed-{seed}") for seed in range(1, 6)]
    given = [job["environment"]["CUDA_VISIBLE_DEVICES"] for job in jobs]
    assert set(given) == {"3,GPU-abc", "MIG-GPU-def/1/0,7"}  # freed, they are given again
    ends = [(tmp_path / "runs" / f"app_seed-{seed}" / "status.json").stat().st_mtime for seed in range(1, 6)]
    for one in range(5):
        for other in range(one):
            if given[one] == given[other]:
                assert jobs[one]["began"] > ends[other] or jobs[other]["began"] > ends[one]


def test_more_gpus_than_there_are_are_refused_before_any_start(tmp_path: Path, app: Start) -> None:
    process = app("-m", "seed=1,2", "hydra.launcher.n_jobs=3", "hydra.launcher.gpus_per_job=2",
                  CUDA_VISIBLE_DEVICES="0,1,2,3")  # fmt: skip
    told = ("hydra.launcher.n_jobs: 3 jobs at a time x 2 GPUs = 6, and 4 are visible (0,1,2,3); "
            "set hydra.launcher.n_jobs=2")  # fmt: skip
    assert told in process.communicate(timeout=60)[1]
    process = app("-m", "seed=1,2", "trainer.devices=2", "trainer.accelerator=gpu,cpu", "hydra.launcher.gpus_per_job=1",
                  CUDA_VISIBLE_DEVICES="0,1")  # fmt: skip
    told = "trainer.devices: needs 2 GPUs, and a job gets hydra.launcher.gpus_per_job=1"
    errors = process.communicate(timeout=60)[1]
    assert errors.count(told) == 2
    assert "2 of 4 jobs cannot run; none was started" in errors
    assert not (tmp_path / "runs").exists()


def test_all_bad_jobs_are_told_before_any_starts(tmp_path: Path, app: Start) -> None:
    process = app("-m", "seed=-1,0,-2")
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "error: job 0 (seed=-1): seed: got -1, expected 0 or more; set seed=…" in errors.splitlines()
    assert "error: job 2 (seed=-2): seed: got -2, expected 0 or more; set seed=…" in errors.splitlines()
    assert "2 of 3 jobs cannot run; none was started" in errors
    assert not (tmp_path / "runs").exists()


def test_a_job_that_never_opened_its_run_shows_its_error_line(tmp_path: Path, app: Start) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    process = app("-m", "seed=1,2")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len([line for line in output.splitlines() if "│" in line and "Error: [Errno" in line]) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_children_gently(tmp_path: Path, app: Start, number: signal.Signals) -> None:
    process = app("-m", "do=wait", "seed=1,2,3", "hydra.launcher.n_jobs=2")
    names = ["app_do-wait_seed-1", "app_do-wait_seed-2"]
    wait_for(lambda: all((tmp_path / "runs" / name / "seen.json").exists() for name in names))
    time.sleep(0.1)  # the file is written before the sleep it announces
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    for name in names:
        assert state(tmp_path, name) == "interrupted"
        assert not living([seen(tmp_path, name)["pid"]], groups=True)
    assert not (tmp_path / "runs" / "app_do-wait_seed-3").exists()
    assert f"{number.name}: 2 jobs may save for 60 s (Ctrl-C again: ends at once)" in output.splitlines()
    assert output.splitlines()[-1] == "3 jobs: 2 interrupted, 1 not started"
    assert [job["state"] for job in read_record(tmp_path / "sweeps" / "one")["jobs"]] == [
        *("interrupted", "interrupted", "not started")
    ]


def test_in_the_background_of_a_script_children_are_still_ended_gently(tmp_path: Path, app: Start) -> None:
    """There SIGINT is ignored, and what is started inherits that."""
    process = app("-m", "do=wait", "seed=1,2", before=("sh", "-c", 'trap "" INT; exec "$@"', "sh"))
    wait_for(lambda: (tmp_path / "runs" / "app_do-wait_seed-1" / "seen.json").exists())
    process.send_signal(signal.SIGINT)  # of the terminal, for the script's foreground: not for us
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert state(tmp_path, "app_do-wait_seed-1") == "interrupted"
    assert (
        table(output)["seed=1"][6] == "KeyboardInterrupt"
    )  # it heard SIGINT; SIGTERM would have left no word


def test_ctrl_c_again_is_harder(tmp_path: Path, app: Start) -> None:
    process = app("-m", "do=deaf", "seed=1,2")
    wait_for(lambda: (tmp_path / "runs" / "app_do-deaf_seed-1" / "deaf").exists())
    began = time.monotonic()
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 20
    assert table(output)["seed=1"][2] == "killed (SIGKILL)"
    assert state(tmp_path, "app_do-deaf_seed-1") == "interrupted"


@pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel ends children with their parent on Linux only"
)
def test_a_launcher_that_is_killed_leaves_no_orphans_and_can_be_started_again(
    tmp_path: Path, app: Start
) -> None:
    process = app("-m", "do=wait", "seed=1,2", "hydra.launcher.n_jobs=2")
    names = ["app_do-wait_seed-1", "app_do-wait_seed-2"]
    wait_for(lambda: all((tmp_path / "runs" / name / "seen.json").exists() for name in names))
    pids = [seen(tmp_path, name)["pid"] for name in names]
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: not living(pids, groups=True), seconds=10)
    assert [state(tmp_path, name) for name in names] == ["interrupted", "interrupted"]
    again = app("-m", "do=wait", "seed=1,2", "hydra.launcher.n_jobs=2")
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0
    assert table(output)["seed=1"][2] == "finished"
    assert table(output)["seed=1"][4].endswith("in 2 attempts")


def test_a_terminal_shows_lines_that_move_and_its_end_ends_the_sweep(tmp_path: Path, app: Start) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm"}
        words = [sys.executable, "app.py", "-m", "do=wait", "seed=1,2,3,4", "hydra.launcher.n_jobs=2"]
        os.execve(sys.executable, words, environment)
    shown = ""
    while "job 1" not in shown or "2 waiting, 0 of 4 ended" not in shown:
        shown += os.read(terminal, 4096).decode(errors="replace")
    names = ["app_do-wait_seed-1", "app_do-wait_seed-2"]
    wait_for(lambda: all((tmp_path / "runs" / name / "seen.json").exists() for name in names))
    os.close(terminal)  # SIGHUP
    os.waitpid(pid, 0)
    assert [state(tmp_path, name) for name in names] == ["interrupted", "interrupted"]
    assert read_record(tmp_path / "sweeps" / "one")["ended"] is True


def test_preview_of_one_job_needs_no_launcher(app: Start, tmp_path: Path) -> None:
    """Choosing the launcher changes nothing for a single job."""
    process = app("seed=4")
    assert process.wait(timeout=60) == 0
    assert seen(tmp_path, "app_seed-4")["pid"] == process.pid


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "hydra.launcher.n_jobs=0",
            "hydra.launcher.n_jobs: got 0, expected 1 or more; set hydra.launcher.n_jobs=…",
        ),
        ("hydra.launcher.threads=two", "hydra.launcher.threads: got 'two' (str), expected int or null"),
    ],
)
def test_its_own_values_are_checked(app: Start, override: str, told: str) -> None:
    process = app("-m", "seed=1,2", override)
    assert told in process.communicate(timeout=60)[1]
    assert process.returncode != 0
