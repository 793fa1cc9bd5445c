"""A study: all stages of a paper, in order, each the command that a user would type.

Nothing is trained here: a stage is a program (train, generate, score, evaluate) and its overrides. Both scales run
the same stages; `tiny` only adds overrides that make them small enough for two CPU cores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from cxr.config import check_config, explain
from cxr.errors import UserError
from cxr.launch.template import Composer
from cxr.sweep import first_job

__all__ = ["Command", "Stage", "Study", "check", "commands", "jobs"]

Scale = Literal["full", "tiny"]
# Where a program reads and writes, below the study's folder.
FOLDERS = {
    "train": {"runs_dir": "runs", "synthetic_dir": "synthetic", "cache.dir": "cache"},
    "generate": {"runs_dir": "runs", "synthetic_dir": "synthetic"},
    "score": {"runs_dir": "runs", "synthetic_dir": "synthetic"},
    "evaluate": {"runs_dir": "runs", "synthetic_dir": "synthetic", "reports_dir": "reports"},
}


@dataclass(frozen=True)
class Stage:
    """One program of a study.

    Attributes:
        title: what it does, in words.
        script: the program.
        overrides: its overrides at both scales, as typed; the first may be "-m", for a sweep.
        full, tiny: what one scale adds; a later override of the same key wins.
    """

    title: str
    script: Literal["train", "generate", "score", "evaluate"]
    overrides: list[str]
    full: list[str]
    tiny: list[str]


@dataclass(frozen=True)
class Study:
    """The stages of a paper.

    Attributes:
        paper: key of the report.
        images: the data set whose root must be named, in words; None: it needs no files.
        full, tiny: what one scale adds to every `train` stage, before the stage's own.
        stages: in order.
    """

    paper: str
    images: str | None
    full: list[str]
    tiny: list[str]
    stages: list[Stage]


@dataclass(frozen=True)
class Command:
    """A program and its overrides; `sweep`: with -m."""

    title: str
    script: str
    overrides: tuple[str, ...]
    sweep: bool

    @property
    def words(self) -> list[str]:
        """What stands after `python <script>.py`."""
        return [*(["-m"] if self.sweep else []), *self.overrides]


def commands(
    study: Study, scale: Scale, folder: Path, *, data_root: Path | None, train: Sequence[str], n_jobs: int
) -> list[Command]:
    """Return the commands of all stages; `train` is added to those that train, `n_jobs` to every sweep.

    Raises:
        UserError: the study needs images and `data_root` is None.
    """
    if study.images and data_root is None:
        raise UserError(
            f"data_root: the study {study.paper} needs the images of {study.images} and no folder is named; "
            f"set data_root=FOLDER (make paper PAPER={study.paper} DATA=FOLDER)"
        )
    return [_command(study, stage, scale, folder, data_root, train, n_jobs) for stage in study.stages]


def _command(
    study: Study,
    stage: Stage,
    scale: Scale,
    folder: Path,
    data_root: Path | None,
    train: Sequence[str],
    n_jobs: int,
) -> Command:
    own = [*stage.overrides, *getattr(stage, scale)]
    sweep = "-m" in own
    given = [f"{key}={_quoted(folder / name)}" for key, name in FOLDERS[stage.script].items()]
    if stage.script == "train":
        root = [f"data.root={_quoted(data_root)}"] if study.images else []
        unnamed = [*getattr(study, scale), *getattr(stage, scale), *train]
        own = [*root, *getattr(study, scale), *own, *train]
        given.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(_fixed_keys(unnamed))}]")
    if sweep and n_jobs > 1:
        given.append(f"hydra.launcher.n_jobs={n_jobs}")
    kept: dict[str, str] = {}  # the last override of a key wins, as one command line may name it once
    for word in [*own, *given]:
        if word != "-m":
            key = word.partition("=")[0].lstrip("+")
            kept.pop(key, None)
            kept[key] = word
    return Command(stage.title, stage.script, tuple(kept.values()), sweep)


def _quoted(path: Path | None) -> str:
    """Return a path as the value of an override."""
    text = str(path)
    if re.fullmatch(r"[\w./+@%-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _fixed_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys that one scale sets and does not sweep: runs are called the same at both scales."""
    parsed = OverridesParser.create().parse_overrides([word for word in overrides if word != "-m"])
    return list(dict.fromkeys(p.key_or_group for p in parsed if not p.is_sweep_override()))


def jobs(command: Command, loader: ConfigLoader) -> list[list[str]]:
    """Return the overrides of each job that a command means; an experiment's own sweep is included."""
    if not command.sweep:
        return [list(command.overrides)]
    parser = OverridesParser.create()
    typed = parser.parse_overrides(list(command.overrides))
    split = [list(job) for batch in BasicSweeper.split_arguments(typed, None) for job in batch]
    config = loader.load_configuration(command.script, first_job(command.overrides), run_mode=RunMode.RUN)
    swept: Any = OmegaConf.to_container(config.hydra.sweeper.params or OmegaConf.create({}), resolve=True)
    keys = {p.key_or_group for p in typed}
    own = [f"{key!s}={value!s}" for key, value in swept.items() if key not in keys]
    if not own:
        return split
    both = [*parser.parse_overrides(own), *typed]
    return [list(job) for batch in BasicSweeper.split_arguments(both, None) for job in batch]


def check(
    plan: Sequence[Command], loader: ConfigLoader, *, find_data: bool = True
) -> Iterator[tuple[int, int]]:
    """Compose and check every job of every command, before the first is run; yields (stage, jobs so far).

    Raises:
        UserError: the stage, the job's own overrides and what is wrong with them.
    """
    composers = {script: Composer(loader, script) for script in dict.fromkeys(c.script for c in plan)}
    for number, command in enumerate(plan, 1):
        try:
            found = jobs(command, loader)
        except Exception as error:
            raise _named(error, number, command, []) from error
        for count, overrides in enumerate(found, 1):
            try:
                config = composers[command.script].compose(overrides)
                _check_job(config, find_data)
            except Exception as error:
                raise _named(error, number, command, overrides) from error
            yield number, count


def _check_job(config: DictConfig, find_data: bool) -> None:
    from hydra.core.hydra_config import HydraConfig

    outer = HydraConfig.instance().cfg
    try:
        HydraConfig.instance().set_config(config)  # some values name the sweep's folder
        with open_dict(config):
            del config["hydra"]
        check_config(config, find_data=find_data)
    finally:
        HydraConfig.instance().cfg = outer


def _named(error: Exception, number: int, command: Command, overrides: Sequence[str]) -> Exception:
    message = explain(error)
    if message is None:
        return error
    job = [word for word in overrides if word not in command.overrides]
    return UserError(f"stage {number} ({command.title}){', ' + ' '.join(job) if job else ''}: {message}")
