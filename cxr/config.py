"""The door: composes a configuration, checks every key and value of it, and builds from it.

Every entry point comes in through `run_app`. A mistake ends in one line and exit code 2
before any data is read; HYDRA_FULL_ERROR=1 shows the traceback. Nothing but the door and
the entry points sees the whole configuration: everything else is built from its own node.

This module imports no torch, so that `--help` and `--cfg job` answer at once.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from cxr.errors import UserError, did_you_mean
from cxr.mistakes import conf_dir, config_groups, explain, first_line, remove_empty_sweep, remove_sweep
from cxr.rules import FIRST_RULES, RULES, Rule, leaves
from cxr.run.naming import sweep_name
from cxr.run.signals import as_ctrl_c, stop_if_heard
from cxr.signature import BUILD_KEYS, check_node
from cxr.target import targets

__all__ = ["build", "check_config", "conf_dir", "config_groups", "explain", "plain", "run_app"]


def _head_outputs(classes: Sequence[str] | None, multi_label: bool) -> int | None:
    """One output for two exclusive classes, else one per class; None where the classes are not known yet."""
    return None if classes is None else 1 if len(classes) == 2 and not multi_label else len(classes)


def _first_given(*values: object) -> object:
    return next((value for value in values if value is not None), None)


def _count(values: list[object] | None) -> int | None:
    return None if values is None else len(values)


OmegaConf.register_new_resolver("count", _count, replace=True)
OmegaConf.register_new_resolver("head_outputs", _head_outputs, replace=True)
OmegaConf.register_new_resolver("first_given", _first_given, replace=True)
# Hydra hands what is cached from the sweep to its jobs, which so agree on its name.
OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True, use_cache=True)


def plain(config: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain containers, interpolations resolved, nothing missing."""
    raw = OmegaConf.to_container(config, resolve=False)
    for path, value in leaves(raw):
        if value == "???":
            raise UserError(f"{path}: must be set, and is not; set {path}=…")
    try:
        container = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        path, written = _origin(raw, str(error.full_key or ""))
        if isinstance(error, InterpolationKeyError) and (name := _reference(written)):
            beside = _at(raw, name.rpartition(".")[0])
            known = [k for k in beside if not k.startswith("_")] if isinstance(beside, dict) else []
            hint = did_you_mean(name.rpartition(".")[2], known)
            raise UserError(f"{path}: {written} points at nothing{hint}") from error
        raise UserError(f"{path or 'config'}: {first_line(error)}") from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _reference(written: object) -> str:
    """Return `a.b` of `${a.b}`, '' for anything else."""
    found = re.fullmatch(r"\$\{([\w.]+)\}", str(written))
    return found[1] if found else ""


def _at(raw: object, path: str) -> object:
    for key in path.split(".") if path else []:
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw


def _origin(raw: object, path: str) -> tuple[str, object]:
    """Follow references from `path` to where the one that fails is written; return path and text."""
    written = _at(raw, path)
    for _ in range(20):  # references may be circular
        name = _reference(written)
        if not name or _at(raw, name) is None:
            break
        path, written = name, _at(raw, name)
    return path, written


def check_config(config: DictConfig, *, find_data: bool = True) -> None:
    """Refuse a configuration with a wrong key, type or combination; reads no image.

    `find_data` also refuses a data set that is not where the configuration says.

    Raises:
        UserError: names the key's path, what was expected and the nearest known word.
    """
    values = plain(config)
    if "experiment" in values:
        raise UserError(
            "experiment: no such key; does the experiment's file begin with '# @package _global_'?"
        )
    _check_rules(FIRST_RULES, values)
    check_node(values, "", extra_keys=config_groups())
    nested = [k for k in values if k != "task"] + [k for k in values if k == "task"]
    for key in nested:  # `task` repeats other groups by interpolation: name the group first
        _check_tree(values[key], key, is_group=key in config_groups())
    _check_rules(RULES, values)
    if find_data and "data" in values:
        source = build(values["data"])
        if hasattr(source, "folder"):  # made of files; raises DatasetNotFound
            source.folder()


def _check_rules(rules: Sequence[Rule], values: dict[str, Any]) -> None:
    for rule in rules:
        if problem := rule(values):
            raise UserError(problem)


def _check_tree(node: object, path: str, is_group: bool = False) -> None:
    """Check every node with a `_target_` below `node`; in a group, every mapping must have one."""
    if isinstance(node, list):
        for position, item in enumerate(node):
            _check_tree(item, f"{path}.{position}")
    if not isinstance(node, dict):
        if is_group and node is not None:
            raise UserError(
                f"{path}: got {node!r}, expected the keys of one of conf/{path}/*.yaml; set {path}=NAME"
            )
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
    """Build what a node of plain containers describes (`_target_`, `_partial_` as in Hydra).

    The node need not have come through `check_config`: a run's config.yaml did not. So it is held against the
    allow-list and the signatures here, at the one place where anything is called.

    Raises:
        UserError: a target that may not be built (see cxr.target), keys or values that its signature does not take.
    """
    for path, found in targets(node):
        check_node(found, path)
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

    Exits with 0; 2 for the user's mistakes (one line on stderr); 130 when Ctrl-C, SIGTERM or SIGUSR2 stopped it:
    then a run is `interrupted`, and the same command goes on. A launcher starts it again on 130, and when a signal
    ended it (-9, or -15 in the first tenths of a second): no more need be known.
    """
    import hydra

    full_error = os.environ.get("HYDRA_FULL_ERROR")

    def checked(config: DictConfig) -> object:
        _restore_environment(full_error)  # what the job starts must not inherit our setting
        try:
            from cxr._memory import keep_freed_memory

            _check_launcher(config)
            _check_hydra()
            check_config(config)
            stop_if_heard()
            keep_freed_memory()
            return job(config)
        except Exception as error:  # ended here, else Hydra adds a line of its own
            _end(error, full_error)
            raise
        finally:
            os.environ["HYDRA_FULL_ERROR"] = "1"

    checked.__module__, checked.__qualname__ = job.__module__, job.__qualname__
    # Hydra prints its own errors and exits with 1 unless told to raise them; we print one line.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        from cxr.startup import one_repository_for_lists
        from cxr.sweep import first_job_stands_in

        with as_ctrl_c(), first_job_stands_in(), one_repository_for_lists():
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(checked)()
    except Exception as error:
        remove_empty_sweep(error)
        _end(error, full_error)
        if isinstance(error, BrokenPipeError) and _drop_unread(probe="\n"):
            sys.exit(128 + signal.SIGPIPE)  # what a shell shows of a program that SIGPIPE ended
        raise
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    finally:
        _restore_environment(full_error)
        _drop_unread()


def _drop_unread(probe: str = "") -> bool:
    """Say whether nobody reads our output any more (`--help | head -1`), and then drop what is left of it."""
    try:
        print(end=probe, flush=True)  # flushed here: at exit Python would print what goes wrong
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _restore_environment(full_error: str | None) -> None:
    if full_error is None:
        os.environ.pop("HYDRA_FULL_ERROR", None)
    else:
        os.environ["HYDRA_FULL_ERROR"] = full_error


def _end(error: Exception, full_error: str | None) -> None:
    """Exit with 2 and one line if it was the user's mistake and no traceback is wanted."""
    message = explain(error)
    if message is not None and full_error != "1":
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def _check_launcher(config: DictConfig) -> None:
    """Refuse a launcher that runs the jobs of a sweep here, one after the other, each checked when it is its turn."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    if hydra.mode == RunMode.RUN and hydra.runtime.choices["hydra/launcher"] == "plan":
        raise UserError(
            "hydra/launcher=plan: shows the jobs of a sweep, and without -m this would start; add -m"
        )
    if hydra.mode == RunMode.MULTIRUN:
        remove_sweep(Path(hydra.sweep.dir), hydra.sweep.subdir)
        chosen = f"hydra/launcher={hydra.runtime.choices['hydra/launcher']}"
        strategy = str((config.get("trainer") or {}).get("strategy"))
        if strategy.startswith("ddp"):
            raise UserError(
                f"{chosen}: trainer.strategy={strategy} starts the other processes of a job by the same command, so each "
                "would walk the whole sweep again; set hydra/launcher=processes"
            )
        raise UserError(
            f"{chosen}: would start the first job before it has checked the others, and run all in one process; "
            "set hydra/launcher=processes"
        )


def _check_hydra() -> None:
    """Refuse `+hydra.…` for a key that Hydra's own node does not have: with `+`, Hydra takes any."""
    from hydra.conf import HydraConf
    from hydra.core.hydra_config import HydraConfig

    for override in HydraConfig.get().overrides.hydra:
        schema: Any = HydraConf
        path = override.lstrip("+").partition("=")[0]
        for key in path.split(".")[1:] if override.startswith(("+hydra.", "++hydra.")) else []:
            fields = {field.name: field.type for field in dataclasses.fields(schema)}
            if key not in fields:
                raise UserError(f"{path}: no such key{did_you_mean(key, fields)}")
            if not dataclasses.is_dataclass(fields[key]):
                break  # free keys: launcher, sweeper, env_set, …
            schema = fields[key]
