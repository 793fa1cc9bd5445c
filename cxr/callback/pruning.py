"""Ending a run that its search gives up, at the end of an epoch."""

from __future__ import annotations

import math

import lightning
from lightning.pytorch.callbacks import Callback

from cxr.search.trial import TrialOf

__all__ = ["Pruning"]


class Pruning(Callback):
    """Tell the search the score of every epoch that computed one; stop where it says so.

    Attributes:
        reason: why the run was ended; None: it was not.
    """

    def __init__(self, trial: TrialOf) -> None:
        self.trial = trial
        self.reason: str | None = None

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Report a whole epoch; the last one is judged by its result, not pruned."""
        epochs = trainer.current_epoch + 1
        if trainer.should_stop or epochs == trainer.max_epochs:
            return
        values = {
            name: float(value) for name, value in trainer.callback_metrics.items() if value.numel() == 1
        }
        found = self.trial.score(values)
        reason = None
        if trainer.is_global_zero and found is not None and math.isfinite(found[1]):
            reason = self.trial.report(epochs, *found)
        self.reason = trainer.strategy.broadcast(reason)  # one process reports, all stop
        if self.reason is not None:
            trainer.should_stop = True
