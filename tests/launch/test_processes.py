"""A sweep by the `processes` launcher, on a tiny application of our own in real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

CONFIG = """
hydra:
  searchpath: ["file://{conf}"]
  output_subdir: null
  run: {{dir: .}}
  sweep: {{dir: sweeps/one}}
defaults: [_self_, {{override hydra/launcher: processes}}, {{override hydra/job_logging: none}}]
do: ok
seed: 0
"""

# The door is replaced by a rule of this application's own; the launcher imports it by name.
APP = """
import json, os, signal, sys, time
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
            "run_dir": hydra_config.runtime.output_dir, "torch": "torch" in sys.modules}))
        if config.do == "fail":
            raise ValueError("the loss is not a number\\nmore")
        if config.do == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if config.do == "wait":
            time.sleep(60)
        run.finish({"f1": 0.5 + config.seed / 10, "auroc": None})

if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
"""


@pytest.fixture
def app(tmp_path: Path, repository: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start `python app.py …` in tmp_path, as part of somebody's distributed job."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "app.yaml").write_text(CONFIG.format(conf=repository / "conf"))
    (tmp_path / "app.py").write_text(APP)
    environment = {**os.environ, "PYTHONPATH": str(repository), "COLUMNS": "300", "HYDRA_FULL_ERROR": "1"}
    environment |= {"PL_GLOBAL_SEED": "9", "MASTER_PORT": "1", "WORLD_SIZE": "1"}

    def start(*overrides: str) -> subprocess.Popen[str]:
        command = [sys.executable, "app.py", *overrides]
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


def seen(tmp_path: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((tmp_path / "runs" / name / "seen.json").read_text())
    return found


def test_every_job_is_a_process_and_none_stops_the_others(
    tmp_path: Path, app: Callable[..., subprocess.Popen[str]]
) -> None:
    process = app("-m", "do=ok,fail,kill", "seed=1,2", "hydra.launcher.n_jobs=2")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    table = {tuple(cell.strip() for cell in re.split("[│┃]", line)[1:-1]) for line in output.splitlines()}
    rows = {row[1]: row for row in table if len(row) == 7}
    assert rows["do=ok seed=2"][2:4] == ("finished", "f1 0.7")
    assert rows["do=ok seed=2"][5] == "runs/app_do-ok_seed-2"
    assert rows["do=fail seed=1"][2] == "failed"
    assert rows["do=fail seed=1"][6] == "ValueError: the loss is not a number"
    assert rows["do=kill seed=1"][2] == "killed (SIGKILL)"

    jobs = [seen(tmp_path, f"app_do-{do}_seed-{seed}") for do in ("ok", "fail", "kill") for seed in (1, 2)]
    assert len({job["pid"] for job in jobs} | {process.pid}) == 7
    for number, job in enumerate(jobs):
        assert job["mode"] == "RUN"
        assert job["run_dir"] == str(tmp_path / "sweeps" / "one" / str(number))
        environment = job["environment"]
        assert isinstance(environment, dict)
        assert not {"PL_GLOBAL_SEED", "MASTER_PORT", "WORLD_SIZE", "HYDRA_FULL_ERROR"} & environment.keys()
        assert "OMP_NUM_THREADS" in environment

    again = app("-m", "do=ok", "seed=1,2,3")
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert [line.count("skipped") for line in output.splitlines() if "│" in line] == [1, 1, 0]


def test_all_bad_jobs_are_told_before_any_starts(
    tmp_path: Path, app: Callable[..., subprocess.Popen[str]]
) -> None:
    process = app("-m", "seed=-1,0,-2")
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "error: job 0 (seed=-1): seed: got -1, expected 0 or more; set seed=…" in errors.splitlines()
    assert "error: job 2 (seed=-2): seed: got -2, expected 0 or more; set seed=…" in errors.splitlines()
    assert "2 of 3 jobs cannot run; none was started" in errors
    assert not (tmp_path / "runs").exists()


def test_a_job_that_never_opened_its_run_shows_its_error_line(
    tmp_path: Path, app: Callable[..., subprocess.Popen[str]]
) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    process = app("-m", "seed=1,2")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len([line for line in output.splitlines() if "│" in line and "Error: [Errno" in line]) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_children(
    tmp_path: Path, app: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = app("-m", "do=wait", "seed=1,2,3", "hydra.launcher.n_jobs=2")
    deadline = time.monotonic() + 60
    names = ["app_do-wait_seed-1", "app_do-wait_seed-2"]
    while (
        not all((tmp_path / "runs" / n / "seen.json").exists() for n in names) and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    time.sleep(0.1)  # the file is written before the sleep it announces
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    for name in names:
        assert json.loads((tmp_path / "runs" / name / "status.json").read_text())["state"] == "interrupted"
        with pytest.raises(ProcessLookupError):
            os.kill(int(str(seen(tmp_path, name)["pid"])), 0)
    assert not (tmp_path / "runs" / "app_do-wait_seed-3").exists()
    assert output.count("interrupted") == 2
    assert "not started" in output


def test_preview_of_one_job_needs_no_launcher(
    app: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
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
def test_its_own_values_are_checked(
    app: Callable[..., subprocess.Popen[str]], override: str, told: str
) -> None:
    process = app("-m", "seed=1,2", override)
    assert told in process.communicate(timeout=60)[1]
    assert process.returncode != 0
