"""Randomness inside a training step as a function of (seed, epoch, batch, rank), so that resuming is exact.

A saved random state cannot give that: between a checkpoint and the next step a DataLoader draws seeds for
its iterator, once more in a resumed process than in one that went on. So the state is not saved but derived,
before every step; it costs some 20 µs. Ranks get different dropout masks.
"""

from __future__ import annotations

import random
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from cxr.gan.latent import mix_seed

__all__ = ["StepSeed"]


class StepSeed(Callback):
    """Seed torch, NumPy and Python before every training step."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed for this step."""
        step_seed = mix_seed(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(step_seed)
        np.random.seed(step_seed % 2**32)  # noqa: NPY002  # libraries that use the global state
        random.seed(step_seed)
