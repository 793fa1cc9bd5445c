"""What a `_target_` may name: the allow-list of everything that is built from a configuration.

A configuration need not be one's own: `generate`, `evaluate`, `score` and `curate` build from runs/<name>/config.yaml,
and runs are handed around. Calling whatever a file names is running the file (`os.system`). So only these are built,
from whatever source, a command line too (one rule is easier to trust than two):

* what a file of conf/ names, to the letter (conf/ is part of the code, and as trusted);
* subclasses of torch's optimisers, schedulers and modules, and of Lightning's callbacks, in torch.optim, torch.nn
  and lightning;
* what the environment variable CXR_TARGETS names. No file can set it.

Nothing is imported before its name has passed. This module imports no torch.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from cxr.errors import UserError, did_you_mean
from cxr.mistakes import conf_dir

__all__ = ["SETTING", "check_foreign", "resolve_target", "targets"]

SETTING = "CXR_TARGETS"  # names of packages, modules or classes, by commas or spaces
LIBRARIES = ("torch.optim.", "torch.nn.", "lightning.")
BASES = {
    "torch.optim.optimizer.Optimizer",
    "torch.optim.lr_scheduler.LRScheduler",
    "torch.nn.modules.module.Module",
    "lightning.pytorch.callbacks.callback.Callback",
}
# A file of these is a program; only whoever types the command may ask for one, a run's configuration may not.
RUNS_A_PROGRAM = frozenset({"cxr.extractor.torchscript.TorchScriptExtractor"})
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


@cache
def _named_in_conf() -> frozenset[str]:
    """Return every `_target_` of conf/ but those of hydra/, which Hydra itself builds; by text, which takes 10 ms."""
    found: set[str] = set()
    for file in conf_dir().rglob("*.yaml"):
        if file.relative_to(conf_dir()).parts[0] != "hydra":
            found |= set(re.findall(r"\b_target_:\s*([\w.]+)", file.read_text(encoding="utf-8")))
    return frozenset(found)


def _named_in_environment(target: str) -> bool:
    asked = os.environ.get(SETTING, "").replace(",", " ").split()
    return any(target == one or target.startswith(f"{one.rstrip('.')}.") for one in asked)


def resolve_target(target: object, path: str) -> Callable[..., Any]:
    """Import the callable that `_target_: package.module.Name` means, or say what is wrong with it.

    Raises:
        UserError: not on the allow-list, no such module or name; nothing foreign was imported.
    """
    where = f"{path}._target_" if path else "_target_"
    if not isinstance(target, str) or not DOTTED.fullmatch(target):
        raise UserError(f"{where}: expected the dotted name of a class or function, got {target!r}")
    listed = target in _named_in_conf() or _named_in_environment(target)
    near = target.startswith(tuple({f"{name.rpartition('.')[0]}." for name in _named_in_conf()}))
    if not listed and not near and not target.startswith(LIBRARIES):
        raise _refused(where, target)
    module_name, _, attribute = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"{where}: {target}: no module named '{error.name}'") from None
    found = getattr(module, attribute, None)
    if not callable(found):
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UserError(f"{where}: {module_name} has no '{attribute}'{did_you_mean(attribute, public)}")
    if not listed and not (target.startswith(LIBRARIES) and _is_part(found)):
        raise _refused(where, target)
    return typing.cast(Callable[..., Any], found)


def _is_part(found: object) -> bool:
    """Say whether it is a class that a configuration may want of a library: not one of its functions."""
    return inspect.isclass(found) and any(f"{c.__module__}.{c.__qualname__}" in BASES for c in found.__mro__)


def _refused(where: str, target: str) -> UserError:
    return UserError(
        f"{where}: {target} may not be built from a configuration; expected what a file of conf/ names, an optimiser, "
        f"scheduler or module of torch, or a callback of Lightning; for a class of your own set {SETTING}={target}"
    )


def targets(node: object, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield path and mapping of everything in a tree of plain containers that would be built.

    Raises:
        UserError: `_args_`, by which a value gets past the signature; a `${…}`, which could read the environment.
    """
    if isinstance(node, Mapping):
        if "_args_" in node:
            raise UserError(f"{path or 'config'}._args_: not taken; expected every parameter by its name")
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from targets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for position, value in enumerate(node):
            yield from targets(value, f"{path}.{position}")
    elif isinstance(node, str) and "${" in node:
        raise UserError(
            f"{path or 'config'}: got {node[:60]!r}, expected a value without ${{…}}; write what it stands for"
        )


def check_foreign(config: Mapping[str, Any], file: object) -> None:
    """Refuse a configuration out of a run's folder that asks for more than parts of ours; imports nothing foreign.

    Raises:
        UserError: names `file` and the key.
    """
    try:
        for path, node in targets(config):
            target = node["_target_"]
            if not isinstance(target, str):
                resolve_target(target, path)  # refuses it
            if target in RUNS_A_PROGRAM and not path.startswith(
                "callback."
            ):  # of a training: never built from a run
                raise UserError(
                    f"{path}._target_: {target} runs the program in a file; only a command line may ask for it"
                )
            if target not in _named_in_conf() and not str(target).startswith(LIBRARIES):
                resolve_target(target, path)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
