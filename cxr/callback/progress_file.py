"""progress.json of the run, kept up to date while it trains; see cxr/run/progress.py."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any, Literal

import lightning
from lightning.pytorch.callbacks import Callback

from cxr.callback.csv_log import CSVLog
from cxr.run.progress import Progress, write_progress
from cxr.task.calls import batch_number

__all__ = ["ProgressFile"]


class ProgressFile(Callback):
    """Write from the first process, into the trainer's `default_root_dir`.

    It reads only what is on the host already (the log's last values, counters), so it never waits for a GPU and takes
    part in no collective; a step on which nothing is due costs a look at the clock.

    Args:
        every_s: at most this often; starts, ends and validations are written at once.
    """

    def __init__(self, *, every_s: float = 2.0) -> None:
        self.every_s = every_s
        self._began = self._began_at = 0.0
        self._due = 0.0  # of time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Remember where this attempt begins, and say so."""
        epochs, batches = self._counts(trainer)
        self._began = time.time()
        self._began_at = self._progress(trainer, pl_module, epochs, batches).done
        self._write(trainer, pl_module, epochs, batches)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write if it is time."""
        if time.monotonic() >= self._due:
            self._write(trainer, pl_module, trainer.current_epoch, batch_number(trainer) + 1)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Say that it validates: until it has, no step ends."""
        self._write(trainer, pl_module, *self._counts(trainer), "validation")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write what the epoch came to."""
        self._write(trainer, pl_module, *self._counts(trainer, counted=True))

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the end, with the last epoch's scores."""
        self._write(trainer, pl_module, *self._counts(trainer, counted=True))

    def _counts(self, trainer: lightning.Trainer, counted: bool = False) -> tuple[int, int]:
        """Return whole epochs and the batches of the one under way; 0 where the next begins.

        Args:
            counted: Lightning has counted the epoch under way, as it does even where it was stopped half-way.
        """
        loop: Any = trainer.fit_loop
        epochs, batches = int(loop.epoch_progress.current.processed), loop.epoch_loop.batch_progress
        if counted and batches.is_last_batch:
            return epochs, 0
        done = int(batches.current.ready)
        if not counted and batches.is_last_batch and not trainer.validating:
            return epochs, 0  # resumed from the end of an epoch
        return epochs - counted, done

    def _write(
        self,
        trainer: lightning.Trainer,
        task: lightning.LightningModule,
        epochs: int,
        batches: int,
        stage: Literal["training", "validation"] = "training",
    ) -> None:
        self._due = time.monotonic() + self.every_s
        if trainer.is_global_zero:
            progress = self._progress(trainer, task, epochs, batches, stage)
            write_progress(Path(trainer.default_root_dir), progress)

    def _progress(
        self,
        trainer: lightning.Trainer,
        task: lightning.LightningModule,
        epochs: int,
        batches: int,
        stage: Literal["training", "validation"] = "training",
    ) -> Progress:
        of_epoch = trainer.num_training_batches
        log = next((logger for logger in trainer.loggers if isinstance(logger, CSVLog)), None)
        return Progress(
            stage=stage,
            epochs_done=epochs,
            epochs=int(trainer.max_epochs or 0),
            batches_done=batches,
            batches=int(of_epoch) if math.isfinite(of_epoch) else 0,
            images_seen=getattr(task, "images_seen", None),
            scores=dict(log.last) if log is not None else {},
            began=self._began,
            began_at=self._began_at,
            updated=time.time(),
            pid=os.getpid(),
        )
