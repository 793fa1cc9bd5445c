"""Learning-rate schedules that PyTorch does not have."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cxr.errors import UserError

__all__ = ["SigmoidDecay"]


class SigmoidDecay(LRScheduler):
    """The learning rate falls along a sigmoid, stepped once an epoch.

    In epoch e it is lr · (1 + exp(-k m)) / (1 + exp(k (e / epochs - m))), with k `steepness` and m `midpoint`:
    exactly lr in epoch 0, about lr / 2 at e = m · epochs. Salehinejad et al. train with "sigmoid decay adaptive
    learning rate" and give no formula; this is the one that starts at their 1e-3.
    """

    def __init__(
        self, optimizer: Optimizer, *, epochs: int, midpoint: float, steepness: float, last_epoch: int
    ) -> None:
        """`midpoint` is a share of `epochs`; `last_epoch` -1 begins at the beginning."""
        if epochs < 1:
            raise UserError(f"scheduler.epochs: got {epochs}, expected at least 1; set scheduler.epochs=100")
        if steepness <= 0:
            raise UserError(
                f"scheduler.steepness: got {steepness}, expected above 0; set scheduler.steepness=10"
            )
        self.epochs, self.midpoint, self.steepness = epochs, midpoint, steepness
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each parameter group in the epoch `last_epoch`."""
        k, m = self.steepness, self.midpoint
        factor = (1 + math.exp(-k * m)) / (1 + math.exp(k * (self.last_epoch / self.epochs - m)))
        return [base * factor for base in self.base_lrs]
