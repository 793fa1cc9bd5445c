"""Values that grow over an epoch and agree among processes: torchmetrics states, our own sums."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities import dim_zero_cat

__all__ = ["MacroAUROC", "Mean"]


class Mean(Metric):
    """A weighted mean that never reads a value back from the device; NaN before the first update.

    torchmetrics' MeanMetric searches each batch for NaN, which stalls a GPU, and with that switched
    off (`nan_strategy="disable"`, 1.9) it drops the weights.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", default=torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, values: Tensor, weights: Tensor) -> None:
        """Add `values` with `weights` of the same shape."""
        self.total += (values * weights).sum()
        self.weight += weights.sum()

    def compute(self) -> Tensor:
        """Return the scalar mean."""
        return self.total / self.weight


class MacroAUROC(Metric):
    """Mean one-vs-rest AUROC over the classes that have both kinds of label; NaN when none has.

    torchmetrics' own macro average counts a class without positives or without negatives as 0.
    """

    full_state_update = False
    scores: list[Tensor]
    targets: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, targets: Tensor) -> None:
        """Take scores (B, L) in [0, 1] and targets (B, L) in {0, 1, NaN}."""
        self.scores.append(scores)
        self.targets.append(targets)

    def compute(self) -> Tensor:
        """Return the scalar mean."""
        scores, targets = dim_zero_cat(self.scores), dim_zero_cat(self.targets)
        values = []
        for score, target in zip(scores.T, targets.T, strict=True):
            known = ~torch.isnan(target)
            label = target[known] > 0.5
            if label.any() and not label.all():
                values.append(binary_auroc(score[known], label.long()))
        return torch.stack(values).mean() if values else scores.new_tensor(float("nan"))
