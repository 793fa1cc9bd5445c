"""Checkpoints that are whole or absent, and that hold no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from cxr.errors import UserError
from cxr.files import atomic_path

__all__ = ["AtomicCheckpointIO", "load_checkpoint"]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU: tensors and plain containers only, a pickled object is refused."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; expected a file that train.py wrote; name another run")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a foreign or broken file
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"{path}: not a checkpoint of cxr ({reason}); expected plain containers only"
        ) from None
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: not a checkpoint of cxr (a {type(checkpoint).__name__}); expected a dict")
    return checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write to a temporary name, fsync, rename; load with `weights_only=True`. A Trainer plugin."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        """Save so that a killed process leaves the old file or the new one."""
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load to the CPU (Lightning moves what it needs); the trainer's own arguments do not loosen this."""
        return load_checkpoint(Path(path))
