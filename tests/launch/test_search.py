"""A search by Optuna over the `processes` launcher, on a tiny application of our own in real processes."""

from __future__ import annotations

import csv
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from cxr.launch.search import OptunaSweeper
from cxr.launch.trials import Asked, Trials
from cxr.search.space import parse_space

CONFIG = """
hydra:
  searchpath: ["file://{conf}"]
  output_subdir: null
  run: {{dir: .}}
  sweep: {{dir: sweeps/one}}
defaults:
  - _self_
  - override hydra/launcher: processes
  - override hydra/sweeper: optuna
  - override hydra/job_logging: none
task: {{_target_: some.ClassifierTask}}
do: ok
x: 0.0
epochs: 1
"""

# The door is replaced by a rule of this application's own. Each job counts in its run how often it was started.
APP = """
import os, signal, sys, time
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
import cxr.config
from cxr.errors import UserError
from cxr.files import write_json
from cxr.run import default_name, identity, open_run
from cxr.search.trial import Pruned, current_trial

def check(config):
    if config.do == "refused":
        raise UserError("do: got refused; set do=ok")

cxr.config.check_config = check

@hydra.main(version_base="1.3", config_path="conf", config_name="app")
def main(config):
    values = {"do": config.do, "x": config.x}
    name = default_name("app", list(HydraConfig.get().overrides.task))
    with open_run(Path("runs"), name, values, identity(values)) as run:
        if run.state == "finished":
            return
        run.start()
        with (run.path / "started").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        if config.do == "fail":
            raise ValueError("the loss is not a number\\nmore")
        if Path("wait").exists() and config.x > 5:
            time.sleep(60)
        score = 1.0 - (config.x - 3) ** 2 / 100
        trial = current_trial()
        for epoch in range(1, config.epochs):
            if trial and (why := trial.report(epoch, "val/accuracy", score * epoch / config.epochs)):
                run.fail(Pruned(why))
                return
        write_json(run.path / "manifest.json", {"n_validation_images": 60})
        run.finish({"test/accuracy" if config.do == "test" else "val/accuracy": score, "val/loss": 1 - score})

if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
"""

App = Callable[..., "subprocess.Popen[str]"]
X = "x=interval(0,10)"


@pytest.fixture
def app(tmp_path: Path, repository: Path) -> App:
    """Start `python app.py …` in tmp_path."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "app.yaml").write_text(CONFIG.format(conf=repository / "conf"))
    (tmp_path / "app.py").write_text(APP)
    environment = {**os.environ, "PYTHONPATH": str(repository), "COLUMNS": "300", "HYDRA_FULL_ERROR": "1"}

    def start(*overrides: str) -> subprocess.Popen[str]:
        command = [sys.executable, "app.py", "-m", *overrides]
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


def trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_search_goes_on_past_failures_and_says_what_it_found(tmp_path: Path, app: App) -> None:
    process = app(X, "do=ok,fail", "hydra.sweeper.n_trials=5", "hydra.launcher.n_jobs=3")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    folder = tmp_path / "sweeps" / "one-search"
    rows = trials(folder)
    assert [row["trial"] for row in rows] == list("01234")
    assert {row["state"] for row in rows} == {"finished", "failed"}
    finished = [row for row in rows if row["state"] == "finished"]
    for row in rows:
        assert (row["do"] == "fail") == (row["state"] == "failed")
        assert row["error"] == ("ValueError: the loss is not a number" if row["do"] == "fail" else "")
    for row in finished:
        assert float(row["value"]) == 1.0 - (float(row["x"]) - 3) ** 2 / 100
        assert (row["metric"], row["n_validation_images"]) == ("val/accuracy", "60")
    best = min(finished, key=lambda row: abs(float(row["x"]) - 3))
    found = yaml.safe_load((folder / "best.yaml").read_text())
    assert (found["trial"], found["n_finished_runs"]) == (int(best["trial"]), len(finished))
    assert found["overrides"] == [f"x={best['x']}", "do=ok"]
    said = f"best is trial {best['trial']}, val/accuracy {found['value']:.4g} (n = 60 validation images, highest of"
    assert said in output
    assert f"python app.py -m x={best['x']} do=ok seed=1,2,3" in output
    record = json.loads((folder / "sweep.json").read_text())
    assert [job["number"] for job in record["jobs"]] == list(range(5))
    assert [job["state"] for job in record["jobs"]] == [row["state"] for row in rows]

    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    preview = app(
        X, "do=ok,fail", "hydra.sweeper.n_trials=6", "hydra/launcher=plan", "hydra.launcher.n_jobs=3"
    )
    output, errors = preview.communicate(timeout=60)
    assert "search one-search: 5 of 6 trials have run; next:" in output
    previewed = next(line for line in output.splitlines() if line.startswith("│ 5 "))
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    more = app(X, "do=ok,fail", "hydra.sweeper.n_trials=6", "hydra.launcher.n_jobs=3")
    output, errors = more.communicate(timeout=120)
    assert more.returncode == 0, errors
    assert trials(folder)[:5] == rows  # nothing was run twice
    assert len(trials(folder)) == 6
    assert all(f"{key}={trials(folder)[5][key]}" in previewed for key in ("x", "do"))


def test_killed_in_the_middle_it_goes_on_as_if_it_had_not_been(tmp_path: Path, app: App) -> None:
    """SIGKILL for the launcher and a job; then the same command; the trials equal those of a search never stopped."""
    (tmp_path / "wait").touch()
    words = (X, "hydra.sweeper.n_trials=4", "hydra.launcher.n_jobs=2", "hydra.sweeper.sampler=random")
    process = app(*words)
    started = lambda: list((tmp_path / "runs").glob("*/started"))  # noqa: E731
    deadline = time.monotonic() + 60
    waiting: list[Path] = []
    while not waiting and time.monotonic() < deadline:
        time.sleep(0.05)
        waiting = [p for p in started() if float(p.parent.name.partition("x-")[2]) > 5 and p.read_text()]
    [waits] = waiting[:1]
    second = app(*words)  # meanwhile, nobody else may
    assert "this sweep is run by process" in second.communicate(timeout=60)[1]
    process.kill()
    process.communicate()
    for path in started():
        state = json.loads((path.parent / "status.json").read_text())["state"]
        if state == "running":
            os.kill(int(path.read_text().split()[-1]), signal.SIGKILL)
    (tmp_path / "wait").unlink()

    again = app(*words)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    rows = trials(tmp_path / "sweeps" / "one-search")
    assert [row["state"] for row in rows] == ["finished"] * 4
    assert len(list((tmp_path / "runs").iterdir())) == 4
    assert len(waits.read_text().split()) == 2  # the run that was killed went on under its name

    space = parse_space(OverridesParser.create().parse_overrides([X]))
    whole = Trials(tmp_path / "whole", "one", Asked(space, None, "maximize", "random", 0, "none", 1))
    drawn = whole.next_batch(2, 4, set()) | whole.next_batch(2, 4, {0, 1})
    assert [[f"x={row['x']}"] for row in rows] == list(drawn.values())


def test_a_run_that_falls_behind_is_pruned_and_is_no_result(tmp_path: Path, app: App) -> None:
    """Five runs are finished; the sixth draws 9.744, the farthest from 3, and is below their median."""
    words = (
        X,
        "epochs=4",
        "hydra.sweeper.pruner=median",
        "hydra.sweeper.n_trials=6",
        "hydra.launcher.n_jobs=5",
    )
    words = (*words, "hydra.sweeper.sampler=random", "hydra.sweeper.seed=5")
    process = app(*words)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    rows = trials(tmp_path / "sweeps" / "one-search")
    assert [row["state"] for row in rows] == ["finished"] * 5 + ["pruned"]
    pruned = Path(rows[-1]["run"])
    status = json.loads((pruned / "status.json").read_text())
    assert (status["state"], status["metric"], rows[-1]["value"]) == ("failed", None, "")
    assert status["error"] == rows[-1]["error"]
    assert status["error"].startswith("Pruned: after 1 epoch val/accuracy was ")
    assert "of 5 finished runs" in output
    again = app(*words)
    assert again.wait(timeout=60) == 0
    assert len((pruned / "started").read_text().split()) == 1  # the same command does not go on with it


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["x=1"], "hydra/sweeper=optuna: nothing to search"),
        ([X, "do=refused"], "do: got refused; set do=ok"),
        ([X, "hydra.sweeper.metric=test/accuracy"], "expected a score of validation images"),
        (
            [X, "hydra.sweeper.metric=val/dice"],
            "hydra.sweeper.direction: whether more of val/dice is better is not known",
        ),
        ([X, "hydra.sweeper.sampler=tpee"], "hydra.sweeper.sampler: got 'tpee', expected one of tpe, random"),
        ([X, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials: got 0, expected 1 or more"),
        ([X, "+name=one"], "+name=one: all trials would be one run; leave name=… out"),
        (
            [X, "hydra.sweeper.sampler=grid"],
            "x is an interval; use x=range(…), or set hydra.sweeper.sampler=tpe",
        ),
        ([X, "hydra/launcher=basic"], "hydra/launcher=basic: cannot run a search"),
    ],
)
def test_what_cannot_be_searched_is_said_before_anything_is_left(
    tmp_path: Path, app: App, words: list[str], told: str
) -> None:
    process = app(*words)
    assert told in process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert not (tmp_path / "sweeps").exists()


def test_every_parameter_is_in_its_yaml(repository: Path) -> None:
    node = yaml.safe_load((repository / "conf/hydra/sweeper/optuna.yaml").read_text())
    assert node.pop("_target_") == "hydra_plugins.cxr_launch.optuna.OptunaSweeper"
    assert node.keys() == inspect.signature(OptunaSweeper).parameters.keys()


def test_all_failed_is_a_failure_and_the_test_set_is_no_objective(tmp_path: Path, app: App) -> None:
    process = app(X, "do=fail", "hydra.sweeper.n_trials=1")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "none has finished" in output
    other = app(X, "do=test", "hydra.sweeper.n_trials=1", "hydra.sweep.dir=sweeps/two")
    other.communicate(timeout=60)
    assert other.returncode == 1
    assert all("it has no score of validation (has: test/accuracy, val/loss)" in row["error"]
               for row in trials(tmp_path / "sweeps" / "two"))  # fmt: skip


@pytest.mark.slow
def test_a_classifier_on_phantoms(tmp_path: Path, repository: Path) -> None:
    """Three real runs, the last two in a second command; values are those of the runs' own records."""
    words = ["data=phantom", "cache.size_px=32", "trainer.max_epochs=1", "trainer.progress=none"]
    words += [
        "optimizer.lr=tag(log, interval(1e-5, 1e-2))",
        "hydra/sweeper=optuna",
        "hydra.launcher.n_jobs=2",
    ]
    for n in (1, 3):
        command = [sys.executable, str(repository / "train.py"), "-m", *words, f"hydra.sweeper.n_trials={n}"]
        environment = {**os.environ, "PYTHONPATH": str(repository)}
        told = subprocess.run(
            command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False
        )
        assert told.returncode == 0, told.stdout + told.stderr
    [folder] = (tmp_path / "runs" / "sweeps").iterdir()
    rows = trials(folder)
    assert [row["state"] for row in rows] == ["finished"] * 3
    for row in rows:
        status = json.loads((Path(row["run"]) / "status.json").read_text())
        assert status["metric"]["val/accuracy"] == float(row["value"])
        assert status["attempts"] == 1
        config = yaml.safe_load((Path(row["run"]) / "config.yaml").read_text())
        assert config["optimizer"]["lr"] == float(row["optimizer.lr"])
