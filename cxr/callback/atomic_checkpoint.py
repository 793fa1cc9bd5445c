"""Checkpoints that are whole or absent, and that hold no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from cxr.files import atomic_path
from cxr.task.checkpoint import load_checkpoint
from cxr.task.version import stamp

__all__ = ["AtomicCheckpointIO", "load_checkpoint"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write to a temporary name, fsync, rename; load with `weights_only=True`. A Trainer plugin."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        """Save, with the version that wrote it, so that a killed process leaves the old file or the new one."""
        with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
            try:
                torch.save({**checkpoint, **stamp()}, file)
            except (
                RuntimeError
            ) as error:  # closing its archive on a full disk, torch covers what the disk said
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load to the CPU (Lightning moves what it needs); the trainer's own arguments do not loosen this."""
        return load_checkpoint(Path(path))
