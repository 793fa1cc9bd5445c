"""last.ckpt and best.ckpt of a run, such that resuming from last.ckpt equals never having stopped.

Why not ModelCheckpoint: it keeps a stale score when the monitored metric is not computed every epoch and
then names the wrong epoch best, and it saves before the epoch's values reach the logger, so a run killed in
between loses them. Here a score counts only when just computed (whoever computes one within an epoch calls
`judge`), pending values are logged first, and the log itself is in the checkpoint.
"""

from __future__ import annotations

import fnmatch
import math
import time
from pathlib import Path
from typing import Any, Literal, cast

import lightning
from lightning.pytorch.callbacks import Checkpoint

from cxr.callback.csv_log import CSVLog
from cxr.errors import UserError

__all__ = ["CheckpointFiles"]

_LOG = "csv_log"


class CheckpointFiles(Checkpoint):
    """Save into `checkpoints/` of the run's folder (the trainer's `default_root_dir`)."""

    def __init__(
        self,
        *,
        monitor: str | None,
        mode: Literal["min", "max"],
        every_n_epochs: int,
        every_n_minutes: float | None,
    ) -> None:
        """Take when to save.

        Args:
            monitor: the name of the score, or a pattern (`kid_*/val`) that one score matches, since the name of a
                score is its protocol and may hold the hash of an extractor; None writes no best.ckpt.
            every_n_minutes: adds saves of last.ckpt within an epoch.
        """
        self.monitor, self.mode = monitor, mode
        self.every_n_epochs, self.every_n_minutes = every_n_epochs, every_n_minutes
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self.last_model_path = self.best_model_path = ""
        self._dir = Path()
        self._saved_at = time.monotonic()

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Find the run's folder; a checkpoint that is already there is one a failure message may name."""
        self._dir = Path(trainer.default_root_dir) / "checkpoints"
        last, best = (
            str(f) if f.is_file() else "" for f in (self._dir / "last.ckpt", self._dir / "best.ckpt")
        )
        self.last_model_path, self.best_model_path = last, best
        self._saved_at = time.monotonic()

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Forget the last epoch's score: only one computed in this epoch may name a best."""
        for name in self._monitored(trainer):
            del trainer.callback_metrics[name]

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save within the epoch when the time has come, or when the trainer was told to stop here."""
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # the epoch's end follows; or gradients are pending that a checkpoint does not hold
        if getattr(pl_module, "in_accumulation", False):
            return
        if trainer.should_stop or self._time_is_up(trainer):
            self._save_within_epoch(trainer, "last.ckpt")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the best if this is it, then the last: killed in between, the epoch is simply repeated."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return  # stopped within the epoch (max_time): that step's checkpoint is the one to resume from
        _log_pending(trainer, step=trainer.fit_loop.epoch_loop._batches_that_stepped - 1)
        if self._is_best(trainer):
            self._save(trainer, "best.ckpt")
        epoch, end = trainer.current_epoch + 1, trainer.max_epochs
        if epoch % self.every_n_epochs == 0 or epoch == end or trainer.should_stop:
            self._save(trainer, "last.ckpt")

    def judge(self, trainer: lightning.Trainer) -> None:
        """Save best.ckpt if the score that was computed just now is the best; within an epoch, after a whole step."""
        if self._is_best(trainer):
            self._save_within_epoch(trainer, "best.ckpt")

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the log into the checkpoint."""
        for logger in trainer.loggers:
            if isinstance(logger, CSVLog):
                checkpoint[_LOG] = logger.text()

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from the log in the checkpoint."""
        for logger in trainer.loggers:
            if isinstance(logger, CSVLog) and _LOG in checkpoint:
                logger.restore(checkpoint[_LOG])

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]

    def _is_best(self, trainer: lightning.Trainer) -> bool:
        names = self._monitored(trainer)
        if not names:
            return False
        if len(names) > 1:
            raise UserError(f"callback.checkpoints.monitor: {self.monitor} is {' and '.join(names)}, expected one score; "
                            f"set 'callback.checkpoints.monitor={names[0]}'")  # fmt: skip
        score = float(trainer.callback_metrics[names[0]])
        sign = 1.0 if self.mode == "min" else -1.0
        if math.isnan(score) or (self.best_score is not None and sign * score >= sign * self.best_score):
            return False
        self.best_score, self.best_epoch = score, trainer.current_epoch
        return True

    def _monitored(self, trainer: lightning.Trainer) -> list[str]:
        """Return the names of the scores at hand that the monitor means; a hash in brackets is no pattern."""
        if self.monitor is None:
            return []
        pattern = self.monitor.replace("[", "[[]")
        return [name for name in trainer.callback_metrics if fnmatch.fnmatchcase(name, pattern)]

    def _time_is_up(self, trainer: lightning.Trainer) -> bool:
        if self.every_n_minutes is None:
            return False
        due = time.monotonic() - self._saved_at >= 60.0 * self.every_n_minutes
        return bool(trainer.strategy.broadcast(due))  # rank 0's clock: saving is collective

    def _save_within_epoch(self, trainer: lightning.Trainer, name: str) -> None:
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        if (step + 1) % cast(Any, trainer).log_every_n_steps == 0:
            _log_pending(trainer, step=step)
        self._save(trainer, name)

    def _save(self, trainer: lightning.Trainer, name: str) -> None:
        trainer.save_checkpoint(self._dir / name, weights_only=False)
        if name == "last.ckpt":
            self.last_model_path = str(self._dir / name)
            self._saved_at = time.monotonic()
        else:
            self.best_model_path = str(self._dir / name)


def _log_pending(trainer: lightning.Trainer, *, step: int) -> None:
    """Log to CSV what Lightning is about to log at this step; its own call then changes nothing."""
    connector = trainer._logger_connector
    metrics = {name: float(value) for name, value in connector.metrics["log"].items()}
    if metrics:
        for logger in trainer.loggers:
            if isinstance(logger, CSVLog):
                logger.log_metrics({**metrics, "epoch": trainer.current_epoch}, step=step)
