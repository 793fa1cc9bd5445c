"""What a person got wrong, in one line: the path, what was expected, the nearest word that exists.

`explain` turns what Hydra, OmegaConf and PyYAML raise while a configuration is composed into
such a line. It reads their messages where they carry nothing else; tests/test_config.py holds it
against the installed versions.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from cxr.errors import UserError, did_you_mean

__all__ = ["conf_dir", "config_groups", "explain", "first_line", "remove_empty_sweep", "remove_sweep"]

# What a disk, its permissions or a file in a folder's place say; ENOENT is not here: it may be a defect of ours.
_REFUSALS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EIO, errno.ENAMETOOLONG,
    errno.ELOOP, errno.ESTALE,
}  # fmt: skip


def conf_dir() -> Path:
    """Return the folder of YAML files: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


@cache
def config_groups() -> frozenset[str]:
    """Return the names of the top-level config groups (`data`, `split`, …)."""
    return frozenset(
        p.name for p in conf_dir().iterdir() if p.is_dir() and p.name not in ("hydra", "experiment")
    )


def explain(error: BaseException) -> str | None:
    """Return one line for a mistake of the user's, or None for a defect of ours."""
    import yaml
    from hydra.errors import (
        HydraException,
        InstantiationException,
        MissingConfigException,
        OverrideParseException,
    )

    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and (told := _disk(error)):
        return told
    if isinstance(error, RuntimeError) and (told := _worker(error)):
        return told
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        where = (
            f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "a configuration file"
        )
        return f"{where}: not valid YAML ({error.problem})"
    if isinstance(error.__cause__, (ConfigKeyError, ConfigAttributeError)):
        return _unknown_key(error.__cause__)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_file(error.missing_cfg_file, str(error))
    if isinstance(error, OverrideParseException):
        return _unreadable_override(error.override, first_line(error))
    if isinstance(error, InstantiationException):  # Hydra built something of its own, or we built a defect
        return _launcher(str(error)) if "full_key: hydra." in str(error) else None
    if isinstance(error, (OmegaConfBaseException, HydraException)):
        return _composition(error)
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):
        return _group_without_name()
    return None


def _disk(error: OSError) -> str | None:
    """Say what a disk refused, and the setting that names another; None where it is no matter of the disk's."""
    places = "runs_dir=…, synthetic_dir=…, reports_dir=… or cache.dir=…"
    short = re.fullmatch(r"\d+ requested and \d+ written", str(error))  # numpy says so, without an errno
    if short or error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = f"{error.filename}: " if error.filename else ""
        return f"{what}no space left on the disk; free some and run the same command again, or set {places} to another disk"
    if error.errno in _REFUSALS and error.filename:
        where = error.filename2 or error.filename
        return f"{where}: {error.strerror}; expected a place that can be read and written: mend it, or set {places} elsewhere"
    return None


def _worker(error: RuntimeError) -> str | None:
    """Say that a data worker has died, by what torch's DataLoader raises then; None for any other error."""
    if not re.match(r"DataLoader worker \(pid", str(error)):
        return None
    said = re.search(r"killed by signal: (Killed|Bus error|\w[\w ]*)", f"{error} {error.__cause__}")
    why = {
        "Killed": " (SIGKILL: often for want of memory)",
        "Bus error": " (SIGBUS: /dev/shm is full, or an image file was cut short)",
    }
    how = f"was ended by a signal: {said[1]}{why.get(said[1], '')}" if said else "ended; its message is above"
    return (
        f"loader.num_workers: a data worker {how}; set loader.num_workers=0, or give it more memory (docker's /dev/shm: "
        "--shm-size=1g); the same command goes on from the last checkpoint"
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type where there is none."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _unknown_key(cause: OmegaConfBaseException) -> str:
    path = str(cause.full_key or cause.key)
    above, _, name = path.rpartition(".")
    parent = cause.parent_node
    known = (
        {str(k) for k in parent if not str(k).startswith("_")} if isinstance(parent, DictConfig) else set()
    )
    if not above:
        if name in config_groups():
            return _absent_group(name)
        known = known - {"hydra"} | config_groups() | {"experiment"}
    if above and not known:
        return f"{path}: no such key, as {above} holds none yet; set {above}={{{name}: …}}"
    return f"{path}: no such key{did_you_mean(name, known)}"


def _absent_group(name: str) -> str:
    if name in ("gan", "classifier", "loss", "optimizer", "scheduler", "mix"):
        return f"{name}: not part of this configuration; `task` decides which of these groups it has"
    return f"{name}: nothing is chosen; set {name}=NAME, one of conf/{name}/*.yaml"


def _missing_file(file: str, text: str) -> str:
    """A choice, an experiment or a whole configuration that is in none of the searched folders."""
    folders = [Path(found) for found in re.findall(r"path=(?:file://)?([^\s,]+)", text)]
    group, slash, choice = file.partition("/")
    if not slash:
        known = {p.stem for folder in folders for p in folder.glob("*.yaml")}
        return f"{file}: no such configuration{did_you_mean(file, known)}"
    if group == "hydra":
        group, _, choice = file.rpartition("/")
    known = set()
    for folder in [f / group for f in folders]:
        known |= {p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml")}
    known |= set(re.findall(r"^\t(\w+)$", text, re.MULTILINE))  # Hydra's list has what plugins register too
    return f"{group}={choice}: no such choice{_told_in(text)}{did_you_mean(choice, known)}"


def _told_in(text: str) -> str:
    """Return the recipe that a message of Hydra's begins with; other files only say where a group comes from."""
    told = re.match(r"In '(experiment/[^']+)'", text)
    return f" (in {told[1]}.yaml)" if told else ""


def _unreadable_override(override: str, why: str) -> str:
    if "=" not in override and not override.startswith("~"):
        return f"{override}: expected key=value"
    return f"cannot read the override '{override}': {why}; quote it as '\"…\"' if it holds , = or spaces"


def _launcher(text: str) -> str:
    """Hydra could not build its launcher or sweeper from its own node."""
    known = re.search(
        r"target '([\w.]+)\.(\w+)'.*unexpected keyword argument '(\w+)'.*full_key: ([\w.]+)", text, re.DOTALL
    )
    if known is None:
        return " ".join(text.split())
    module, name, key, path = known.groups()
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    return f"{path}.{key}: no such key{did_you_mean(key, parameters)}"


def _composition(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if found := re.search(r"Could not override '([^']+)'", text):
        name = found[1].partition("@")[0].partition(".")[0]
        if name in config_groups() and "@" not in found[1]:
            return _absent_group(name) + _told_in(text)
        if "@experiment" in found[1]:  # its keys fell below `experiment`
            return f"{name}: no such group below 'experiment'{_told_in(text)}; does the file begin with '# @package _global_'?"
        return f"{found[1]}: no such key or config group{_told_in(text)}{did_you_mean(name, config_groups())}"
    if found := re.search(r"Multiple values for (\S+)\. .*'override \S+: (\S+)'", text):
        group, choice = found.groups()
        return (f"{group}={choice}: {group} has a choice already{_told_in(text)}; type it without +, "
                f"or in a defaults list as 'override /{group}: {choice}'")  # fmt: skip
    if found := re.search(r"Ambiguous value for argument '(.+?)' 1\.", text):
        key = found[1].partition("=")[0]
        return f"{found[1]}: one value expected; add -m for a job each, or write a list as {key}=[a,b]"
    return text + (f" ({first_line(error.__cause__)})" if error.__cause__ else "")


def _group_without_name() -> str:
    """Hydra does not say which override it was: the first that gives a group something else than a word."""
    for override in sys.argv[1:]:
        group, _, choice = override.lstrip("+").partition("=")
        if re.fullmatch(r"null|true|false|[\d.]*", choice, re.IGNORECASE) and (
            not group or group.partition("/")[0] in config_groups() | {"experiment", "hydra"}
        ):
            return f"{override}: a config group takes the name of one of its files; to leave it out type ~{group or 'GROUP'}"
    return "a config group takes the name of one of its files; to leave it out type ~GROUP"


def remove_empty_sweep(error: BaseException) -> None:
    """Remove the folder of a sweep that was refused: Hydra makes it before it looks at the jobs."""
    for sweep_dir in _sweep_dirs(error):
        remove_sweep(sweep_dir)


def remove_sweep(sweep_dir: Path, job: str | None = None) -> None:
    """Remove the folder of a sweep that holds nothing but its configuration, and the empty one of a job."""
    sweep_dir = sweep_dir.resolve()
    if job is not None and not any((sweep_dir / job).iterdir()):
        (sweep_dir / job).rmdir()
    if [p.name for p in sweep_dir.glob("*")] == ["multirun.yaml"]:
        (sweep_dir / "multirun.yaml").unlink()
        for folder in (sweep_dir, *sweep_dir.parents[:2]):  # runs/sweeps/<time>
            if folder == Path.cwd() or any(folder.iterdir()):
                break
            folder.rmdir()


def _sweep_dirs(error: BaseException) -> Iterator[Path]:
    """Find the sweeper on the way that the exception took: it alone knows its folder."""
    from hydra.plugins.sweeper import Sweeper

    step = error.__traceback__
    while step is not None:
        sweeper = step.tb_frame.f_locals.get("self")
        config = getattr(sweeper, "config", None)
        if isinstance(sweeper, Sweeper) and isinstance(config, DictConfig):
            yield Path(str(config.hydra.sweep.dir)).resolve()
            return
        step = step.tb_next
