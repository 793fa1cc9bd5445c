"""The door: composes a configuration, checks every key and value of it, and builds from it.

Every entry point comes in through `run_app`. A mistake ends in one line and exit code 2
before any data is read; HYDRA_FULL_ERROR=1 shows the traceback. Nothing but the door and
the entry points sees the whole configuration: everything else is built from its own node.

This module imports no torch, so that `--help` and `--cfg job` answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    OmegaConfBaseException,
)

from cxr.errors import UserError, did_you_mean
from cxr.rules import RULES
from cxr.signature import BUILD_KEYS, check_node

__all__ = ["build", "check_config", "conf_dir", "config_groups", "plain", "run_app"]


def _head_outputs(classes: Sequence[str] | None, multi_label: bool) -> int | None:
    """One output for two exclusive classes, else one per class; None where the classes are not known yet."""
    return None if classes is None else 1 if len(classes) == 2 and not multi_label else len(classes)


def _first_given(*values: object) -> object:
    return next((value for value in values if value is not None), None)


OmegaConf.register_new_resolver("head_outputs", _head_outputs, replace=True)
OmegaConf.register_new_resolver("first_given", _first_given, replace=True)


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


def plain(config: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain containers, interpolations resolved, nothing missing."""
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise UserError(f"{missing[0]}: must be set, and is not; set {missing[0]}=…")
        container = OmegaConf.to_container(config, resolve=True)
    except InterpolationKeyError as error:
        raise UserError(f"{error.full_key}: {_first_line(error)}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'config'}: {_first_line(error)}") from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def check_config(config: DictConfig) -> None:
    """Refuse a configuration with a wrong key, type or combination; reads no data.

    Raises:
        UserError: names the key's path, what was expected and the nearest known word.
    """
    values = plain(config)
    check_node(values, "", extra_keys=config_groups())
    nested = [k for k in values if k != "task"] + [k for k in values if k == "task"]
    for key in nested:  # `task` repeats other groups by interpolation: name the group first
        _check_tree(values[key], key, is_group=key in config_groups())
    for rule in RULES:
        if problem := rule(values):
            raise UserError(problem)


def _check_tree(node: object, path: str, is_group: bool = False) -> None:
    """Check every node with a `_target_` below `node`; in a group, every mapping must have one."""
    if isinstance(node, list):
        for position, item in enumerate(node):
            _check_tree(item, f"{path}.{position}")
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        check_node(node, path)
    elif is_group:
        _check_group(node, path)
    for key, child in node.items():
        if key not in BUILD_KEYS:
            _check_tree(child, f"{path}.{key}")


def _check_group(node: Mapping[str, Any], path: str) -> None:
    """A group without a target of its own (`gan`, `callback`) holds only nodes that have one."""
    built = {key for key, child in node.items() if isinstance(child, dict) and "_target_" in child}
    for key, child in node.items():
        if child is not None and key not in built:
            raise UserError(f"{path}.{key}: no such key{did_you_mean(str(key), built)}")


def build(node: Any) -> Any:
    """Build what a checked node of plain containers describes (`_target_`, `_partial_` as in Hydra)."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise


def run_app(config_name: str, job: Callable[[DictConfig], object]) -> None:
    """Run an entry point: compose `config_name` with the command line, check it, call `job`.

    Exits with 0; 2 for the user's mistakes (one line on stderr); 130 on Ctrl-C.
    """
    import hydra

    full_error = os.environ.get("HYDRA_FULL_ERROR")

    def checked(config: DictConfig) -> object:
        _restore_environment(full_error)  # what the job starts must not inherit our setting
        try:
            check_config(config)
            return job(config)
        finally:
            os.environ["HYDRA_FULL_ERROR"] = "1"

    checked.__module__, checked.__qualname__ = job.__module__, job.__qualname__
    # Hydra prints its own errors and exits with 1 unless told to raise them; we print one line.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(checked)()
    except Exception as error:
        message = explain(error)
        if message is None or full_error == "1":
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    finally:
        _restore_environment(full_error)


def _restore_environment(full_error: str | None) -> None:
    if full_error is None:
        os.environ.pop("HYDRA_FULL_ERROR", None)
    else:
        os.environ["HYDRA_FULL_ERROR"] = full_error


def explain(error: BaseException) -> str | None:
    """Return one line for a mistake of the user's, or None for a defect of ours."""
    import yaml
    from hydra.errors import (
        CompactHydraException,
        HydraException,
        MissingConfigException,
        OverrideParseException,
    )

    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        where = (
            f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "a configuration file"
        )
        return f"{where}: not valid YAML ({error.problem})"
    cause = error.__cause__
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
        return _unknown_key(cause)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if error.options:
            return f"{group}={choice}: no such choice{did_you_mean(choice, error.options)}"
        return f"{error.missing_cfg_file}: no such configuration under conf/{did_you_mean(group, config_groups())}"
    if isinstance(error, OverrideParseException):
        return f"cannot read the override '{error.override}': {_first_line(error)}; quote it as '\"…\"' if it holds , = or spaces"
    if isinstance(error, CompactHydraException):
        return _composition(error)
    if isinstance(error, (OmegaConfBaseException, HydraException)):
        return _first_line(error)
    return None


def _unknown_key(cause: OmegaConfBaseException) -> str:
    path = str(cause.full_key or cause.key)
    parent = cause.parent_node
    known = [str(k) for k in parent] if isinstance(parent, DictConfig) else []
    return f"{path}: no such key{did_you_mean(path.rpartition('.')[2], known)}"


def _composition(error: BaseException) -> str:
    text = " ".join(str(error).split())
    key, found, _ = text.removeprefix("Could not override '").partition("'")
    if text.startswith("Could not override '") and found:
        name = key.partition("@")[0].partition(".")[0]
        return f"{key}: no such key or config group{did_you_mean(name, config_groups())}"
    cause = f" ({_first_line(error.__cause__)})" if error.__cause__ else ""
    return text + cause


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
