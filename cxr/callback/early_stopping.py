"""Ending a run when validation no longer improves, such that a resumed run ends where it would have ended.

Lightning's EarlyStopping counts; three things are added. It also judges the validation that Lightning runs when
`max_time` ends an epoch half-way: here only a whole epoch counts. Resumed from the checkpoint at which it had
decided, it would train on: here the run stays ended. And a score that validation does not compute is the user's
mistake, said in one line.
"""

from __future__ import annotations

from typing import Literal

import lightning
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from cxr.errors import UserError, did_you_mean

__all__ = ["EarlyStopping"]


class EarlyStopping(LightningEarlyStopping):
    """Stop after `patience` validations in a row without a gain of more than `min_delta`."""

    def __init__(self, *, monitor: str, mode: Literal["min", "max"], patience: int, min_delta: float) -> None:
        if not monitor.startswith("val/"):
            raise UserError(
                f"callback.early_stopping.monitor: got '{monitor}', expected a score of validation images; "
                "set callback.early_stopping.monitor=val/loss"
            )
        if patience < 1:
            raise UserError(
                f"callback.early_stopping.patience: got {patience}, expected at least 1; "
                "set callback.early_stopping.patience=5"
            )
        super().__init__(
            monitor=monitor,
            mode=mode,
            patience=patience,
            min_delta=min_delta,
            check_finite=False,  # a loss that is not finite ends the run by itself; an undefined AUROC is no gain
            check_on_train_epoch_end=False,
        )

    @property
    def stopped(self) -> bool:
        """Whether the run has ended here."""
        return self.stopping_reason != EarlyStoppingReason.NOT_STOPPED

    @property
    def reason(self) -> str:
        """Why the run has ended, for people."""
        return f"{self.monitor} has not improved for {self.wait_count} validations"

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stay stopped: the run was killed between its last checkpoint and its end."""
        if self.stopped:
            trainer.should_stop = True

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Count the validation of a whole epoch."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        known = trainer.callback_metrics
        if self.monitor not in known and not self._should_skip_check(trainer):
            raise UserError(
                f"callback.early_stopping.monitor: validation computes no '{self.monitor}'"
                f"{did_you_mean(self.monitor, [name for name in known if name.startswith('val/')])}"
            )
        super().on_validation_end(trainer, pl_module)
