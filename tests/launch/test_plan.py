"""What a plan shows of the real `train.py`, that it leaves nothing, and that a sweep goes on where its plan says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from cxr.config import plain
from cxr.mistakes import conf_dir
from cxr.run import PlannedRun, open_run, planned_run
from cxr.run.progress import Progress, write_progress

Cli = Callable[..., subprocess.CompletedProcess[str]]
PLAN = ["-m", "hydra/launcher=plan"]


def planned(folder: Path, *overrides: str) -> PlannedRun:
    """Return the run of `train.py` with these overrides, started in `folder`."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("train", list(overrides), run_mode=RunMode.RUN)
    choices = config.hydra.runtime.choices
    with open_dict(config):
        del config["hydra"]
    plan = planned_run(plain(config), choices, overrides, [])
    assert plan is not None
    return PlannedRun(folder / plan.runs_dir, plan.name, plan.config, plan.identity)


def leave(plan: PlannedRun, how: str) -> None:
    """Leave a run as an earlier process would have."""
    with open_run(plan.runs_dir, plan.name, plan.config, plan.identity) as run:
        run.start()
        if how == "finished":
            run.finish({"val/accuracy": 0.5})
            return
        run.checkpoints.mkdir()
        (run.checkpoints / "last.ckpt").touch()
        write_progress(run.path, Progress("training", 3, 20, 1, 4, None, {}, 0, 0, 1, 1))
        run.fail(
            KeyboardInterrupt("stopped") if how == "interrupted" else ValueError("the loss is not a number")
        )


def rows(output: str) -> list[list[str]]:
    """Return the cells of a printed table, lines of one row joined."""
    found: list[list[str]] = []
    for line in output.splitlines():
        cells = [cell.strip() for cell in re.split("│", line)[1:-1]]
        if cells and cells[0]:
            found.append(cells)
        elif cells:
            found[-1] = [old + new for old, new in zip(found[-1], cells, strict=True)]
    return found


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.name != ".lock"}


def test_how_every_run_stands_and_what_the_door_says(tmp_path: Path, cli: Cli) -> None:
    for seed, how in enumerate(["finished", "interrupted", "failed"]):
        leave(planned(tmp_path, "optimizer=adam", f"seed={seed}"), how)
    busy = planned(tmp_path, "optimizer=adam", "seed=3")
    with open_run(busy.runs_dir, busy.name, busy.config, busy.identity) as run:
        run.start()
        before = files(tmp_path)
        done = cli("train", *PLAN, "optimizer=adam,adamm", "seed=0,1,2,3,4,x", env={"COLUMNS": "400"})
        assert files(tmp_path) == before, "a plan leaves nothing"
    assert done.returncode == 2
    table = rows(done.stdout)
    assert [row[:1] + row[2:3] for row in table[:3]] == [
        ["0", "finished"],
        ["1", "resumable at epoch 4 of 20"],
        ["2", "failed: ValueError: the loss is not a number; resumable at epoch 4 of 20"],
    ]
    assert f"running: process {os.getpid()}" in table[3][2]
    assert re.search(r"in use by process \d+ .*wait for it or stop it", table[3][4])
    assert table[4][2:5] == ["new", "runs/classifier_optimizer-adam_seed-4", "ok"]
    assert table[5][4] == "seed: got 'x' (str), expected int; set seed=…"
    assert all(row[4] == "optimizer=adamm: no such choice; did you mean 'adam'?" for row in table[6:])
    assert "12 jobs: 1 finished, 1 resumable, 1 to retry, 1 new, 8 refused" in done.stdout
    assert "cost unknown" in done.stdout
    assert done.stderr == "error: 8 of 12 jobs cannot run\n"


def test_finished_runs_need_neither_data_nor_torch(tmp_path: Path, cli: Cli) -> None:
    words = ["experiment=talukdar/cnn", "data.root=gone"]
    for seed in (0, 1):
        leave(planned(tmp_path, *words, f"seed={seed}"), "finished")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch': raise SystemExit('torch was imported')\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    without_torch = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = cli("train", *PLAN, *words, "seed=0,1", env=without_torch)
    assert done.returncode == 0, done.stderr
    assert [row[2:5:2] for row in rows(done.stdout)] == [["finished", "ok"]] * 2
    again = cli("train", "-m", *words, "seed=0,1", env=without_torch)
    assert again.returncode == 0, again.stderr
    assert [row[2:4] for row in rows(again.stdout)] == [["skipped", "val/accuracy 0.5"]] * 2

    (tmp_path / "sitecustomize.py").unlink()
    moved = cli("train", *PLAN, *words, "seed=0,9", "loader.num_workers=2,x")
    verdicts = [row[4] for row in rows(moved.stdout)]
    assert verdicts[0] == "ok"
    assert verdicts[1].startswith("loader.num_workers: got 'x' (str), expected int"), (
        "it did not run with that"
    )
    assert "is not at gone: set data.root=" in verdicts[2]
    assert moved.returncode == 2


def test_without_m_nothing_starts(tmp_path: Path, cli: Cli) -> None:
    done = cli("train", "hydra/launcher=plan")
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: hydra/launcher=plan: shows the jobs of a sweep, and without -m this would start; add -m\n"
    )
    other = cli("generate", *PLAN, "run=a,b")
    assert [row[2] for row in rows(other.stdout)] == ["new", "new"]
    assert not files(tmp_path)


# A run of a tiny application goes through the same plan: its constructor's name is what makes it a training.
APP = """
import os, signal
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
import cxr.config, cxr.run.planned
from cxr.run import open_run, planned_run

cxr.config.check_config = lambda config, find_data=True: None
cxr.run.planned.TRAIN = "app.train"

@hydra.main(version_base="1.3", config_path="conf", config_name="app")
def main(config):
    node = HydraConfig.get()
    plan = planned_run(OmegaConf.to_container(config), node.runtime.choices, list(node.overrides.task), [])
    with open_run(plan.runs_dir, plan.name, plan.config, plan.identity) as run:
        assert run.state != "finished", "a finished run is not started again"
        with open("started", "a") as log:
            log.write(f"{config.seed} {run.state}\\n")
        run.start()
        first = run.status["attempts"] == 1
        if config.seed == 1 and first:
            raise ValueError("the loss is not a number")
        if config.seed == 2 and first:
            os.kill(os.getpid(), signal.SIGKILL)
        run.finish({"f1": config.seed / 10})

if __name__ == "__main__":
    main()
"""
CONFIG = """
hydra:
  searchpath: ["file://{conf}"]
  output_subdir: null
  run: {{dir: .}}
  sweep: {{dir: sweeps/one}}
defaults:
  - _self_
  - override hydra/launcher: processes
  - override hydra/sweeper: grid
  - override hydra/job_logging: none
_target_: app.train
name: null
runs_dir: runs
seed: 0
lr: 0.1
"""


def test_a_sweep_goes_on_with_what_is_left(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "app.yaml").write_text(CONFIG.format(conf=repository / "conf"))
    (tmp_path / "app.py").write_text(APP)

    def sweep(*overrides: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(repository), "COLUMNS": "300", "HYDRA_FULL_ERROR": "1"}
        return subprocess.run(
            [sys.executable, "app.py", "-m", *overrides],
            cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=120, check=False,
        )  # fmt: skip

    def started() -> list[str]:
        found = sorted((tmp_path / "started").read_text().splitlines())
        (tmp_path / "started").unlink()
        return found

    four: Sequence[str] = ["seed=0,1,2,3", "hydra.launcher.n_jobs=2"]
    assert sweep(*four).returncode == 1
    assert started() == ["0 new", "1 new", "2 new", "3 new"]
    plan = sweep("hydra/launcher=plan", *four)
    assert plan.returncode == 0, plan.stderr
    assert [row[2] for row in rows(plan.stdout)] == [
        "finished",
        "failed: ValueError: the loss is not a number; begins again",
        "interrupted before its first checkpoint; begins again",
        "finished",
    ]
    assert not (tmp_path / "started").exists()
    again = sweep(*four)
    assert again.returncode == 0, again.stderr
    assert started() == ["1 failed", "2 interrupted"], "only these two run"
    states = {row[0]: (row[2], row[3]) for row in rows(again.stdout)}
    assert states == {
        "0": ("skipped", "f1 0"), "1": ("finished", "f1 0.1"), "2": ("finished", "f1 0.2"), "3": ("skipped", "f1 0.3"),
    }  # fmt: skip
    changed = sweep("seed=0", "name=run_seed-0", "lr=0.2")
    assert changed.returncode != 0
    assert "this run has another configuration (lr: 0.1 → 0.2)" in changed.stderr
    shared = sweep("hydra/launcher=plan", "seed=5,6", "name=one")
    assert [row[4] for row in rows(shared.stdout)] == [
        "ok", "name: one is also the run of job 0; leave name=… out, or sweep it too",
    ]  # fmt: skip
    named = sweep("hydra/launcher=plan", "name=a/b")
    assert rows(named.stdout)[0][4].startswith("name: got 'a/b', expected letters")
    assert not (tmp_path / "started").exists()


def test_the_yaml_lists_every_parameter() -> None:
    import inspect

    from hydra_plugins.cxr_launch.grid import GridSweeper
    from hydra_plugins.cxr_launch.plan import PlanLauncher

    for group, name, built in (("launcher", "plan", PlanLauncher), ("sweeper", "grid", GridSweeper)):
        node = OmegaConf.load(conf_dir() / "hydra" / group / f"{name}.yaml")
        assert set(node) - {"_target_"} == set(inspect.signature(built).parameters)


@pytest.mark.slow
def test_a_probe_tells_about_what_a_run_takes(tmp_path: Path, cli: Cli) -> None:
    """On a machine that others use, too: within a factor of three."""
    words = ["data.n_patients=200", "trainer.max_epochs=6", "seed=0"]
    done = cli("train", *PLAN, *words, "hydra.launcher.probe=true", "hydra.launcher.probe_seconds=8")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}, "only the cache, which the run would make"
    cost = rows(done.stdout)[0][5]
    told = float(cost.split()[0]) * {"s": 1, "min": 60}[cost.split()[1]]
    assert cli("train", *words, "trainer.progress=none").returncode == 0
    [status] = (tmp_path / "runs").glob("*/status.json")
    wall_s = json.loads(status.read_text())["wall_s"]
    assert wall_s / 3 < told < wall_s * 3, (told, wall_s)
