"""Progress bars that are brought up to date as often as one can look at them, not at every step.

Lightning's rich bar collects all metrics, locks and asks for a refresh after every step, 0.1 ms or more; its plain one does
so at multiples of a number of steps, which calls of several steps (cxr/task/calls.py) may never end at.
"""

from __future__ import annotations

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from cxr.task.calls import batch_number

__all__ = ["PlainBar", "RichBar"]

_EVERY_S = 0.2


class RichBar(RichProgressBar):
    """Lightning's bar, five times a second and at the end of an epoch."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5)
        self._due = 0.0  # of time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:  # fmt: skip
        """Draw if it is time."""
        now = time.monotonic()
        if now >= self._due or trainer.is_last_batch:
            self._due = now + _EVERY_S
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_number(trainer))


class PlainBar(TQDMProgressBar):
    """Lightning's bar as lines of text, each time that another 20 steps are done."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=20)
        self._shown = 0  # batches of the epoch

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:  # fmt: skip
        """Write if it is time."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_number(trainer))

    def _should_update(self, current: int, total: int) -> bool:
        if not self.is_enabled:
            return False
        due = current == total or current // self.refresh_rate != self._shown // self.refresh_rate
        if due:
            self._shown = current
        return due
