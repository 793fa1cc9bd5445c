"""Losses of classifiers: pure functions on logits, and their shells that YAML configures.

Targets are float (B, L): one-hot for one label of several, multi-hot for independent labels,
NaN where a label is unknown. A NaN has no loss and no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr.errors import UserError

__all__ = ["BCE", "CrossEntropy", "bce_with_logits", "cross_entropy"]


def bce_with_logits(
    logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Mean binary cross-entropy over the known labels; 0 when none is known.

    Args:
        logits: (B, L).
        targets: (B, L) in {0, 1, NaN}.
        pos_weight: (L,), weight of the positive term.
        label_smoothing: s moves targets to s/2 and 1 - s/2.
    """
    known = ~torch.isnan(targets)
    smooth = torch.where(known, targets, 0.0) * (1.0 - label_smoothing) + 0.5 * label_smoothing
    each = F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=pos_weight, reduction="none")
    return torch.where(known, each, 0.0).sum() / known.sum().clamp(min=1)


def cross_entropy(
    logits: Tensor, targets: Tensor, class_weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy over the rows whose label is known; 0 when none is.

    Args:
        logits: (B, L), L at least 2.
        targets: (B, L) one-hot, or rows with NaN.
        class_weight: (L,); the mean is then weighted by the rows' classes, as in PyTorch.
        label_smoothing: s spreads s over all L classes.
    """
    known = ~torch.isnan(targets).any(dim=1)
    # A class index of -100 is PyTorch's "no label"; the weighted mean leaves it out of the divisor too.
    index = torch.where(known, torch.nan_to_num(targets).argmax(dim=1), -100)
    total = F.cross_entropy(logits, index, class_weight, reduction="sum", label_smoothing=label_smoothing)
    each = torch.ones_like(targets[0]) if class_weight is None else class_weight
    divisor = torch.where(known, each[index.clamp(min=0)], 0.0).sum()
    return total / torch.where(divisor > 0, divisor, 1.0)


class _Weighted(nn.Module):
    """A loss with optional weights per class; they travel with the module, not with its checkpoint."""

    weight: Tensor | None

    def __init__(self, name: str, weight: list[float] | None, label_smoothing: float) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise UserError(
                f"loss.label_smoothing: got {label_smoothing}, expected [0, 1); set loss.label_smoothing=0"
            )
        if weight is not None and (not weight or min(weight) < 0):
            raise UserError(f"loss.{name}: got {weight}, expected numbers from 0; set loss.{name}=null")
        self.label_smoothing, self._name = label_smoothing, name
        self.register_buffer("weight", None if weight is None else torch.tensor(weight), persistent=False)

    def _check(self, logits: Tensor) -> None:
        if self.weight is not None and len(self.weight) != logits.shape[1]:
            raise UserError(
                f"loss.{self._name}: got {len(self.weight)} numbers, expected one for each of the "
                f"{logits.shape[1]} outputs; set loss.{self._name}=null"
            )


class BCE(_Weighted):
    """Binary cross-entropy on logits: two classes with one output, or independent labels."""

    def __init__(self, *, pos_weight: list[float] | None, label_smoothing: float) -> None:
        super().__init__("pos_weight", pos_weight, label_smoothing)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss of logits and targets (B, L)."""
        self._check(logits)
        return bce_with_logits(logits, targets, self.weight, self.label_smoothing)


class CrossEntropy(_Weighted):
    """Softmax cross-entropy on logits: one label out of several."""

    def __init__(self, *, class_weight: list[float] | None, label_smoothing: float) -> None:
        super().__init__("class_weight", class_weight, label_smoothing)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, L) and one-hot targets (B, L)."""
        self._check(logits)
        return cross_entropy(logits, targets, self.weight, self.label_smoothing)
