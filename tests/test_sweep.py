"""A sweep is composed by its first job's values, so that keys of a swept recipe are known before it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode

from cxr.mistakes import conf_dir
from cxr.sweep import first_job, first_job_stands_in

TYPED = ["experiment=talukdar/cnn,talukdar/gan", "data.root=x", "seed=range(1,3)", "hydra.mode=MULTIRUN"]


def test_first_values() -> None:
    assert first_job(TYPED) == ["experiment=talukdar/cnn", "data.root=x", "seed=1", "hydra.mode=MULTIRUN"]
    assert first_job(["a=interval(0,1)", "b=choice(x,y)", "+c=[1,2]"]) == ["b=x", "+c=[1,2]"]


def test_hydra_alone_refuses_what_every_job_allows_and_ours_keeps_what_was_typed() -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        with pytest.raises(ConfigCompositionException):  # no longer so: cxr/sweep.py can go
            loader.load_configuration("train", TYPED, run_mode=RunMode.MULTIRUN)
        with first_job_stands_in():
            config = loader.load_configuration("train", TYPED, run_mode=RunMode.MULTIRUN)
        assert config.hydra.overrides.task == TYPED[:-1]
        assert config.data.root == "x"
        with pytest.raises(ConfigCompositionException):
            loader.load_configuration("train", TYPED, run_mode=RunMode.MULTIRUN)


def test_a_sweep_of_recipes_with_a_key_of_theirs(
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = cli("train", "-m", "experiment=talukdar/cnn,talukdar/gan", "data.root=nowhere")
    assert done.returncode == 2
    assert "2 of 2 jobs cannot run" in done.stderr
    assert "no such key" not in done.stderr
