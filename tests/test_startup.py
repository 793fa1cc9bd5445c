"""What answers a question about the configuration loads little, and Hydra's answers are what they were."""

from __future__ import annotations

import inspect
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import cxr.startup

LOADED = """
import atexit, sys
atexit.register(lambda: print("loaded", *sys.modules, file=sys.stderr))
sys.argv = ["train.py", *sys.argv[1:]]
from cxr.script.train import main
main()
"""
HEAVY = {
    "torch",
    "numpy",
    "lightning",
    "pandas",
    "optuna",
    "rich",
    "matplotlib",
    "cxr.launch.processes",
    "submitit",
}


def answer(repository: Path, *words: str) -> tuple[str, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words], cwd=repository, text=True, capture_output=True, check=True
    )
    return done.stdout, set(done.stderr.split())


@pytest.mark.parametrize("words", [("--help",), ("--cfg", "job", "seed=3")])
def test_an_answer_loads_nothing_heavy(repository: Path, words: tuple[str, ...]) -> None:
    shown, loaded = answer(repository, *words)
    assert "max_epochs: 20" in shown
    assert not HEAVY & loaded


def test_help_lists_what_hydra_lists(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside Hydra's own way, in which each group's line makes a repository anew."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.global_hydra import GlobalHydra

    from cxr.script.train import main

    original, made = ConfigLoaderImpl._parse_overrides_and_create_caching_repo, []

    def counted(self: ConfigLoaderImpl, config_name: str | None, overrides: list[str]) -> Any:
        made.append(overrides)
        return original(self, config_name, overrides)

    monkeypatch.setattr(ConfigLoaderImpl, "_parse_overrides_and_create_caching_repo", counted)
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    shown = []
    for block in (cxr.startup.one_repository_for_lists, nullcontext):
        monkeypatch.setattr(cxr.startup, "one_repository_for_lists", block)
        GlobalHydra.instance().clear()
        made.clear()
        with pytest.raises(SystemExit, match="0"):
            main()
        shown.append((capsys.readouterr().out, len(made)))
    (ours, few), (theirs, many) = shown
    assert ours == theirs
    assert "\ntrainer: cpu, " in ours
    assert (few, many > 100) == (2, True)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *(("grid", "GridSweeper"), ("optuna", "OptunaSweeper")),
        *(("plan", "PlanLauncher"), ("processes", "ProcessLauncher"), ("slurm", "SlurmLauncher")),
    ],
)
def test_a_plugin_builds_the_class_it_stands_for(module: str, name: str) -> None:
    import importlib

    from hydra.plugins.launcher import Launcher
    from hydra.plugins.sweeper import Sweeper

    plugin = getattr(importlib.import_module(f"hydra_plugins.cxr_launch.{module}"), name)
    assert issubclass(plugin, Sweeper if name.endswith("Sweeper") else Launcher)
    assert not inspect.isabstract(plugin)
    assert inspect.signature(plugin) == inspect.signature(plugin.real)
    assert plugin.real.__module__.startswith("cxr.launch.")
    built = plugin(**dict.fromkeys(inspect.signature(plugin).parameters))
    assert type(built) is plugin.real
