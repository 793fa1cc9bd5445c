"""Several steps in one call of `training_step`: what Lightning does around a step, done once for all of them.

Around each call Lightning's loop asks every callback twice, collects metrics, opens the precision's context and keeps
its counts, which costs a small network more than its gradients. `Calls` gets the further batches of a call by itself and
keeps Lightning's counts as Lightning would: at the end of any step they are what they are with one step a call, so
checkpoints, logs and resuming are the same to the bit, and a run may go on with another number of steps a call.

A call ends early where the end of a step matters: where a value is logged, at the last batch, or where a callback that is
a `BetweenSteps` says so. Other callbacks' batch hooks see calls: the first batch of one and its number in
`on_train_batch_start`, and again in `on_train_batch_end`, after its last step. Validation within an epoch
(`val_check_interval`), which cxr.trainer does not offer, would be looked at after a call too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import Precision
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

__all__ = ["BetweenSteps", "Calls", "batch_number"]


class BetweenSteps:
    """What a callback also is, if a step inside a call matters to it."""

    def before_step(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, batch_idx: int
    ) -> None:
        """Do what `on_train_batch_start` does, before a further step of a call."""

    def ends_call(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> bool:
        """Say whether `on_train_batch_end` has something to do after the step that ended now; the same on each process.

        Asked after every step but the last of a call: it must be cheap, and change nothing.
        """
        return False


class Calls:
    """The calls of one training; made when it starts, so that what does not change is looked up once.

    Args:
        most: steps in a call.
    """

    def __init__(self, task: lightning.LightningModule, most: int) -> None:
        trainer: Any = task.trainer
        self.task, self.trainer, self.most = task, trainer, most
        self.loop: Any = trainer.fit_loop.epoch_loop
        self.watchers = [callback for callback in trainer.callbacks if isinstance(callback, BetweenSteps)]
        self.ready = _arrives_ready(trainer, task)

    def steps(self, batch: dict[str, Tensor], batch_idx: int) -> Iterator[tuple[dict[str, Tensor], int]]:
        """Yield the batch that Lightning brought, then up to `most - 1` more, each with its number in the epoch.

        The caller makes a step of each before it asks for the next.
        """
        yield batch, batch_idx
        if self.most == 1:
            return
        trainer, loop, watchers = self.trainer, self.loop, self.watchers
        fetcher, progress = trainer.fit_loop._data_fetcher, loop.batch_progress
        for number in range(batch_idx + 1, batch_idx + self.most):
            if self._ends() or any(one.ends_call(trainer, self.task) for one in watchers):
                return
            # from here on as in lightning.pytorch.loops.training_epoch_loop: advance() after a step, and before one
            progress.increment_processed()
            progress.increment_completed()
            loop._batches_that_stepped += 1
            further, _, _ = next(fetcher)
            progress.is_last_batch = fetcher.done
            if not self.ready:
                further = trainer.precision_plugin.convert_input(further)
                further = self.task._on_before_batch_transfer(further)
                further = trainer.strategy.batch_to_device(further)
            progress.increment_ready()
            for one in watchers:
                one.before_step(trainer, self.task, number)
            progress.increment_started()
            # Autocast keeps 16-bit copies of weights until its context, the call's, ends: they are the last step's.
            torch.clear_autocast_cache()
            yield further, number

    def _ends(self) -> bool:
        """Say whether Lightning has something to do after this step: log, begin or end something."""
        logs = (self.loop._batches_that_stepped + 1) % self.trainer.log_every_n_steps == 0
        return bool(logs or self.trainer.should_stop or self.loop._is_training_done)


def batch_number(trainer: lightning.Trainer) -> int:
    """Return the number in the epoch of the batch of the last step: hooks are told that of the call's first."""
    return int(trainer.fit_loop.epoch_loop.batch_idx)


def _arrives_ready(trainer: Any, task: lightning.LightningModule) -> bool:
    """Say whether a batch needs nothing: it is on the CPU, to stay there as it is, and no hook wants it."""
    plain = type(trainer.precision_plugin).convert_input is Precision.convert_input
    owners: list[tuple[Any, tuple[str, ...]]] = [
        (task, ("on_before_batch_transfer", "on_after_batch_transfer"))
    ]
    if trainer.datamodule is not None:
        owners.append((trainer.datamodule, (*owners[0][1], "transfer_batch_to_device")))
    hooked = any(is_overridden(hook, owner) for owner, hooks in owners for hook in hooks)
    return bool(trainer.strategy.root_device.type == "cpu" and plain and not hooked)
