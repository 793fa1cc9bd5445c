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
from cxr.task.calls import BetweenSteps

__all__ = ["StepSeed"]


class StepSeed(Callback, BetweenSteps):
    """Seed torch, NumPy and Python before every training step."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed for this step."""
        self.before_step(trainer, pl_module, batch_idx)

    def before_step(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, batch_idx: int
    ) -> None:
        """Seed for a step, the first of a call or a further one."""
        step_seed = mix_seed(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        _seed_torch(step_seed, trainer.strategy.root_device)
        np.random.seed(step_seed % 2**32)  # noqa: NPY002  # libraries that use the global state
        random.seed(step_seed)


def _seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generators that a training on this device draws from, the CPU's always.

    torch.manual_seed does that for every kind of device there might be; for those that are not initialised it keeps the
    seed for later, together with a printed call stack, which takes longer than a small network's step.
    """
    if device.type not in ("cpu", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
