"""Whether the weights of a checkpoint are those of a network, said in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cxr.errors import UserError
from cxr.task.version import differing

__all__ = ["check_weights"]


def check_weights(checkpoint: Mapping[str, Any], network: nn.Module, path: Path) -> None:
    """Refuse a checkpoint whose `state_dict` is not a network's, naming the first entry that differs.

    Raises:
        UserError: there is none; a name is missing or unknown, or a shape differs.
    """
    state, own = checkpoint.get("state_dict"), network.state_dict()
    if not isinstance(state, dict):
        raise UserError(
            f"{path}: holds no weights (state_dict); expected a checkpoint that train.py wrote: train it again"
            f"{differing(checkpoint)}"
        )
    for name in dict.fromkeys([*own, *state]):
        if name not in state or name not in own:
            told = f"it has {'no' if name in own else 'an unknown'} '{name}'"
        elif getattr(state[name], "shape", None) != getattr(own[name], "shape", None):
            told = f"'{name}' is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        else:
            continue
        raise UserError(
            f"{path}: the weights of another network ({told}); expected those of this run's: train it again"
            f"{differing(checkpoint)}"
        )
