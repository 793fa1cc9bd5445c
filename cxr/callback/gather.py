"""Sharing work among processes and bringing the rows back together, in order and in unequal numbers."""

from __future__ import annotations

from typing import TypeVar

import lightning
import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.utilities.distributed import gather_all_tensors

__all__ = ["gathered", "share"]

Number = TypeVar("Number", bound=np.generic)


def share(n: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return where the contiguous share of a process begins and ends among n; all shares together are 0 … n."""
    return rank * n // world_size, (rank + 1) * n // world_size


def gathered(rows: npt.NDArray[Number], trainer: lightning.Trainer) -> npt.NDArray[Number]:
    """Return the rows (n_rank, …) of every process, one after the other by rank, on every process.

    Collective: every process must call it. Numbers of rows may differ and be 0 (then the other sizes may be 0 too).
    """
    if trainer.world_size == 1:
        return rows
    device = trainer.strategy.root_device  # NCCL sends nothing from a CPU
    parts = gather_all_tensors(torch.from_numpy(np.ascontiguousarray(rows)).to(device))
    found = torch.cat([part for part in parts if len(part)] or [parts[0]])
    return np.asarray(found.cpu().numpy(), dtype=rows.dtype)
