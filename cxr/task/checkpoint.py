"""Reads checkpoints: tensors and plain containers only, and a classifier from the two files that make one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cxr.config import build
from cxr.errors import UserError
from cxr.task.classifier import ClassifierTask
from cxr.task.version import check_format
from cxr.task.weights import check_weights

__all__ = ["load_checkpoint", "load_task"]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU: tensors and plain containers only; a pickled object or a later format is refused."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; expected a file that train.py wrote; name another run")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a foreign or broken file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"{path}: not a checkpoint of cxr ({reason}); expected plain containers only"
        ) from None
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: not a checkpoint of cxr (a {type(checkpoint).__name__}); expected a dict")
    check_format(checkpoint, path)
    return checkpoint


def load_task(config: Mapping[str, Any], checkpoint: Path) -> ClassifierTask:
    """Return the classifier of a run's configuration with the weights of one of its checkpoints."""
    node = config["task"]
    if "pretrained" in (node.get("network") or {}):  # weights come from the checkpoint: nothing to fetch
        node = {**node, "network": {**node["network"], "pretrained": False, "checkpoint_path": None}}
    task: ClassifierTask = build(node)
    content = load_checkpoint(checkpoint)
    check_weights(content, task, checkpoint)
    task.load_state_dict(content["state_dict"])
    return task
