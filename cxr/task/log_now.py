"""Logging a few values now, past Lightning's collection of results.

`self.log` keeps a torchmetrics object for each name, and Lightning then walks over all of them at the end of every step, logged
or not: 0.1 ms a step for four values that are looked at every fiftieth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["log_now"]


def log_now(
    trainer: Any, values: Mapping[str, float], *, step: int | None = None, bar: tuple[str, ...] = ()
) -> None:
    """Log, whatever `log_every_n_steps` is, and show the values to the checkpoints and the run's status.

    Args:
        values: the same on every process.
        step: the row of the log; None: the step under way, where Lightning would log its own.
        bar: names, or beginnings of names, of those that the progress bar shows.
    """
    if step is None:
        step = int(trainer.fit_loop.epoch_loop._batches_that_stepped)
    for logger in trainer.loggers:
        logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=step)
    for name, value in values.items():
        trainer.callback_metrics[name] = torch.tensor(value, dtype=torch.float64)
        if name.startswith(bar):
            trainer.progress_bar_metrics[name] = value
