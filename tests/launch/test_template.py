"""Jobs composed from templates equal those that Hydra composes, and are refused in the same words."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cxr.launch.template import Composer
from cxr.mistakes import conf_dir, explain

SWEEP = ["experiment=talukdar/cnn", "data.root=x", "hydra.launcher.n_jobs=2", "hydra.job.chdir=false"]
ALLOWED = [
    ["experiment=talukdar/cnn", "data.root=x", "seed=3"],
    ["experiment=talukdar/cnn", "data.root=y", "seed=4", "optimizer.lr=0.1", "+optimizer.x=[1,2]"],
    ["seed=3", "experiment=talukdar/cnn"],  # in another order
    ["experiment=talukdar/gan", "data.root=x"],
    ["classifier=acrnet", "classifier.n_outputs=2", "~logger"],
    ["classifier={n_outputs:2}", "data.classes=[a,b]"],  # a mapping sets values, whatever the key is
    ["++trainer.max_epochs=3", "~seed", "name=one"],
    ["+experiment@extra=talukdar/cnn"],
]
REFUSED = [
    ["seed=0", "optimizer.lrr=1"],
    ["seed=0", "optimizer=adamm"],
    ["seed=0", "optimizer=adamm", "optimizer.lrr=1"],
    ["loader=null"],
    ["nosuch=1"],
    ["seed=1,2"],
    ["++cache=default"],
    ["~nosuch"],
    ["+seed=3"],
    ["optimizer.lr=["],
]


@pytest.fixture(scope="module")
def hydra() -> Iterator[tuple[ConfigLoader, DictConfig]]:
    """Hydra's loader, and the configuration of a sweep."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield loader, loader.load_configuration("train", SWEEP, run_mode=RunMode.MULTIRUN)


def test_a_job_is_what_hydra_composes(hydra: tuple[ConfigLoader, DictConfig]) -> None:
    loader, sweep = hydra
    composer = Composer.of_sweep(loader, sweep)
    for overrides in [*ALLOWED, ALLOWED[0]]:  # the first again, after others were made from its template
        try:
            theirs = loader.load_sweep_config(sweep, overrides)
        except Exception as error:
            with pytest.raises(type(error)) as ours:
                composer.compose(overrides, sweep)
            assert str(ours.value) == str(error)
        else:
            config = composer.compose(overrides, sweep)
            assert OmegaConf.to_yaml(config) == OmegaConf.to_yaml(theirs), overrides
            assert OmegaConf.is_struct(config)
            assert OmegaConf.get_cache(config) == OmegaConf.get_cache(theirs)


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_a_job_is_refused_as_by_hydra(hydra: tuple[ConfigLoader, DictConfig], overrides: list[str]) -> None:
    loader, sweep = hydra
    with pytest.raises(Exception) as theirs:
        loader.load_sweep_config(sweep, overrides)
    with pytest.raises(type(theirs.value)) as ours:
        Composer.of_sweep(loader, sweep).compose(overrides, sweep)
    assert explain(ours.value) == explain(theirs.value)


def test_overrides_of_hydras_node_may_be_among_a_jobs_own(hydra: tuple[ConfigLoader, DictConfig]) -> None:
    loader, _ = hydra
    overrides = ["seed=1", "hydra.launcher.n_jobs=3", "hydra.job.config.override_dirname.exclude_keys=[seed]"]
    overrides += ["hydra/launcher=plan", "optimizer=sgd"]
    theirs = loader.load_configuration("train", overrides, run_mode=RunMode.RUN)
    assert OmegaConf.to_yaml(Composer(loader, "train").compose(overrides)) == OmegaConf.to_yaml(theirs)


def test_groups_of_ones_own_folder_are_choices(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("a", "b"):
        (tmp_path / "mine" / f"{name}.yaml").write_text(f"which: {name}\n")
    (tmp_path / "app.yaml").write_text(
        f"hydra: {{searchpath: ['file://{tmp_path}/more']}}\ndefaults: [mine: a, theirs: c, _self_]\nx: 0\n"
    )
    (tmp_path / "more" / "theirs").mkdir(parents=True)
    for name in ("c", "d"):
        (tmp_path / "more" / "theirs" / f"{name}.yaml").write_text(f"which: {name}\n")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        sweep = loader.load_configuration("app", [], run_mode=RunMode.MULTIRUN)
        composer = Composer.of_sweep(loader, sweep)
        for overrides in (["mine=b", "x=1"], ["theirs=d", "x=2"], ["x=3"]):
            config = composer.compose(overrides)
            assert OmegaConf.to_yaml(config) == OmegaConf.to_yaml(loader.load_sweep_config(sweep, overrides))


def test_a_hundred_jobs_take_a_small_part_of_hydras_time(hydra: tuple[ConfigLoader, DictConfig]) -> None:
    """CPU time, so that a busy machine does not decide; ten times as fast, five are asked for."""
    loader, sweep = hydra
    composer, jobs = Composer.of_sweep(loader, sweep), [[*ALLOWED[0][:2], f"seed={i}"] for i in range(10)]
    composer.compose(jobs[0])
    began = time.process_time()
    for overrides in jobs:
        composer.compose(overrides)
    ours = time.process_time() - began
    for overrides in jobs:
        loader.load_sweep_config(sweep, overrides)
    theirs = time.process_time() - began - ours
    assert ours < theirs / 5
