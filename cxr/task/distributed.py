"""What processes that train one model together exchange: means, sums, buffers; each a no-op for a single one."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, cast

import lightning
import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn

__all__ = ["over_ranks", "share_buffers", "without_exchange"]


def over_ranks(values: Tensor, trainer: lightning.Trainer, how: Literal["mean", "sum"]) -> Tensor:
    """Return the mean or the sum over all processes, the same on each; collective.

    Lightning's `strategy.reduce` works in place and waits at a barrier, which stalls a GPU; this one does neither.
    """
    if trainer.world_size == 1:
        return values.detach()
    total = values.detach().clone()
    torch.distributed.all_reduce(total)
    return total / trainer.world_size if how == "mean" else total


def share_buffers(networks: Iterable[nn.Module | None], trainer: lightning.Trainer) -> None:
    """Give all processes the first's batch norm statistics, as DDP does before its next forward pass anyway."""
    if trainer.world_size > 1:
        for network in networks:
            for buffer in network.buffers() if network is not None else ():
                torch.distributed.broadcast(buffer, src=0)


def without_exchange(trainer: lightning.Trainer) -> AbstractContextManager[None]:
    """Return a context whose backward passes keep their gradients here: those of the last part carry all of them."""
    strategy = trainer.strategy
    if trainer.world_size == 1 or not isinstance(strategy, ParallelStrategy):
        return nullcontext()
    return cast("AbstractContextManager[None]", strategy.block_backward_sync())
