"""A study's commands pass the door, make the sets that later stages name, and skip what is finished."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import open_dict

from cxr.config import build, conf_dir, plain
from cxr.errors import UserError
from cxr.launch.template import Composer
from cxr.run import default_name
from cxr.study import Command, Scale, Stage, Study, check, commands, jobs

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
STUDIES = sorted(path.stem for path in (conf_dir() / "study").glob("*.yaml"))
SCALES: tuple[Scale, ...] = ("full", "tiny")


def of_both_scales(fast: Scale) -> list[Any]:
    """Every study at both scales, those not `fast` slow: the scales have the same stages and names (tests below)."""
    return [
        pytest.param(name, scale, marks=[] if scale == fast or name == "phantom" else pytest.mark.slow)
        for name in STUDIES
        for scale in SCALES
    ]


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@cache
def composer(script: str) -> Composer:
    """Compose a program's jobs; what is read for one study serves the others, at both scales."""
    return Composer(GlobalHydra.instance().config_loader(), script)


def planned(name: str, scale: Scale, loader: ConfigLoader) -> list[Command]:
    config = loader.load_configuration("study", [f"study={name}", f"scale={scale}"], run_mode=RunMode.RUN)
    with open_dict(config):
        del config["hydra"]
    study = build(plain(config)["study"])
    return commands(study, scale, Path("out"), data_root=Path("images"), train=[], n_jobs=1)


def stage(
    script: str, *overrides: str, full: list[str] | None = None, tiny: list[str] | None = None
) -> Stage:
    return Stage("t", script, list(overrides), full or [], tiny or [])  # type: ignore[arg-type]  # a Literal


@pytest.mark.parametrize(("name", "scale"), of_both_scales("full"))
def test_every_job_of_every_stage_passes_the_door(name: str, scale: Scale, loader: ConfigLoader) -> None:
    plan = planned(name, scale, loader)
    assert {number for number, _ in check(plan, loader, find_data=False)} == set(range(1, len(plan) + 1))


@pytest.mark.parametrize(("name", "scale"), of_both_scales("tiny"))
def test_stages_make_what_later_stages_name(name: str, scale: Scale, loader: ConfigLoader) -> None:
    """Run names are distinct; a set is made of a run that exists, and used only once it is made."""
    runs: list[str] = []
    sets: list[str] = []
    evaluated: set[str] = set()
    for command in planned(name, scale, loader):
        for overrides in jobs(command, loader):
            config = composer(command.script).compose(overrides)
            hydra = config.hydra
            if command.script == "train":
                base = (hydra.runtime.choices["experiment"] or "run").replace("/", "-")
                exclude = hydra.job.config.override_dirname.exclude_keys
                runs.append(config.name or default_name(base, list(hydra.overrides.task), exclude))
                assert set(config.synthetic) <= set(sets), overrides
            elif command.script == "generate":
                assert config.run in runs, overrides
                sets.append(config.name or config.run)
            elif command.script == "evaluate":
                for pattern in config.runs:
                    matched = {run for run in runs if fnmatch(run, pattern)}
                    assert matched, pattern
                    assert not any("-gan" in run for run in matched), pattern
                    evaluated |= matched
            else:
                assert config.run in runs, overrides
                assert set(config.synthetic) <= set(sets), overrides
    assert len(set(runs)) == len(runs)
    assert len(set(sets)) == len(sets)
    assert {run for run in runs if "-gan" not in run and "-grid" not in run} == evaluated


@pytest.mark.parametrize("name", STUDIES)
def test_both_scales_run_the_same_stages(name: str, loader: ConfigLoader) -> None:
    full, tiny = (planned(name, scale, loader) for scale in SCALES)
    assert [(c.title, c.script) for c in full] == [(c.title, c.script) for c in tiny]


def test_a_scale_changes_overrides_but_not_the_names_of_runs() -> None:
    study = Study(
        "p",
        "x",
        [],
        ["trainer.max_epochs=1"],
        [stage("train", "-m", "seed=0,1", "a=1", tiny=["a=2", "b=3,4"])],
    )
    [command] = commands(study, "tiny", Path("out"), data_root=Path("im ages"), train=["c=5"], n_jobs=2)
    assert command.words == [
        *("-m", 'data.root="im ages"', "trainer.max_epochs=1", "seed=0,1", "a=2", "b=3,4", "c=5"),
        *("runs_dir=out/runs", "synthetic_dir=out/synthetic", "cache.dir=out/cache"),
        "hydra.job.config.override_dirname.exclude_keys=[trainer.max_epochs,a,c]",  # b is swept: in the name
        "hydra.launcher.n_jobs=2",
    ]


def test_a_sweep_in_an_experiment_counts(loader: ConfigLoader) -> None:
    typed = Command("t", "train", ("experiment=phantom/cnn", "seed=0,1"), True)
    assert len(jobs(typed, loader)) == 2
    assert jobs(Command("t", "train", ("seed=0",), False), loader) == [["seed=0"]]
    if (conf_dir() / "experiment/acrnet/grid.yaml").is_file():
        grid = Command("t", "train", ("experiment=acrnet/grid",), True)
        assert len(jobs(grid, loader)) == 7 * 5 * 3


def test_images_are_asked_for_before_anything_runs() -> None:
    study = Study("acrnet", "chestxray14", [], [], [])
    with pytest.raises(UserError, match=r"data_root: .* set data_root=FOLDER"):
        commands(study, "full", Path("out"), data_root=None, train=[], n_jobs=1)


def test_a_mistake_names_its_stage_and_job(loader: ConfigLoader) -> None:
    plan = [Command("the arms", "train", ("experiment=phantom/cnn", "optimizer.lr=0.1,-1"), True)]
    with pytest.raises(UserError, match=r"stage 1 \(the arms\), optimizer.lr=-1: optimizer.lr: got -1"):
        list(check(plan, loader, find_data=False))


def test_mistakes_end_in_one_line(cli: Cli) -> None:
    for words, told in (
        (["study=acrnett"], "did you mean 'acrnet'?"),
        (["-m", "study=phantom"], "a study sweeps by itself"),
        (["study=phantom", 'train="optimizer.lrr=1"'], "stage 1 (a GAN per class)"),
    ):
        done = cli("study", *words)
        assert done.returncode == 2, words
        assert told in done.stderr
        assert done.stderr.count("\n") == 1


def test_preview_runs_nothing(cli: Cli, tmp_path: Path) -> None:
    done = cli("study", "preview=true")
    assert done.returncode == 0, done.stderr
    assert "1/4  a GAN per class (2 jobs)" in done.stdout
    assert not list(tmp_path.iterdir())


MINE = """
_target_: cxr.study.Study
paper: mine
images: null
full: [trainer.progress=none, data.n_patients=30, trainer.max_epochs=1]
tiny: []
stages:
  - {_target_: cxr.study.Stage, title: train, script: train, full: [], tiny: [],
     overrides: [-m, experiment=phantom/cnn, "seed=0,1"]}
  - {_target_: cxr.study.Stage, title: score, script: evaluate, full: [], tiny: [],
     overrides: ["runs=[phantom-cnn*]", report=phantom, n_resamples=50]}
"""


def test_a_study_ends_in_a_report_and_is_then_skipped(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "conf/study").mkdir(parents=True)
    (tmp_path / "conf/study/mine.yaml").write_text(MINE)
    words = ["--config-dir=conf", "study=mine", "dir=here", "n_jobs=2"]
    done = cli("study", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    report = tmp_path / "here/reports/phantom/report.html"
    assert done.stdout.strip().endswith(str(report))
    assert report.is_file()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("here/runs/*/checkpoints/last.ckpt")}
    assert len(before) == 2
    again = cli("study", *words)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
