"""Losses of classifiers: pure functions on logits, and their shells that YAML configures.

Targets are float (B, L): one-hot for one label of several, multi-hot for independent labels,
NaN where a label is unknown. A NaN has no loss and no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr.errors import UserError

__all__ = [
    "BCE",
    "Binary",
    "CrossEntropy",
    "Focal",
    "WeightedBCE",
    "bce_with_logits",
    "cross_entropy",
    "focal",
    "frequency_weights",
    "weighted_bce",
]


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


def frequency_weights(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights (L,) of the positive and of the negative term from labels (N, L) in {0, 1, NaN}.

    w_p is the share of negatives and w_n the share of positives among the known labels, so that both terms
    weigh the same in sum (Rajpurkar et al. 2017). A label that is never known weighs 0.
    """
    known = ~torch.isnan(labels)
    positive = torch.where(known, labels, 0.0).sum(dim=0)
    n = known.sum(dim=0)
    return (n - positive) / n.clamp(min=1), positive / n.clamp(min=1)


def weighted_bce(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor,
    neg_weight: Tensor,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean of -w_p y log p - w_n (1 - y) log(1 - p) over the known labels; 0 when none is known.

    Args:
        logits: (B, L); p is their sigmoid.
        targets: (B, L), y in {0, 1, NaN}.
        pos_weight: (L,), w_p.
        neg_weight: (L,), w_n.
        label_smoothing: s moves targets to s/2 and 1 - s/2.
    """
    known = ~torch.isnan(targets)
    y = torch.where(known, targets, 0.0) * (1.0 - label_smoothing) + 0.5 * label_smoothing
    each = -pos_weight * y * F.logsigmoid(logits) - neg_weight * (1.0 - y) * F.logsigmoid(-logits)
    return torch.where(known, each, 0.0).sum() / known.sum().clamp(min=1)


def focal(logits: Tensor, targets: Tensor, gamma: float, alpha: float | None = None) -> Tensor:
    """Mean of -a_t (1 - p_t)^gamma log p_t over the known labels (Lin et al. 2017); 0 when none is known.

    p_t is the probability of the true label. The mean is over labels, where Lin et al. divide by the number
    of their positive boxes.

    Args:
        logits: (B, L).
        targets: (B, L) in {0, 1, NaN}.
        gamma: how much well-told labels lose; 0 is binary cross-entropy.
        alpha: a_t of positives, 1 - alpha of negatives; None: 1 for both.
    """
    known = ~torch.isnan(targets)
    positive = torch.where(known, targets, 0.0) > 0.5
    signed = torch.where(positive, logits, -logits)
    # 1 - p_t = sigmoid(-signed), taken as exp(log) so that a power of it has a gradient at 0
    each = -torch.exp(gamma * F.logsigmoid(-signed)) * F.logsigmoid(signed)
    if alpha is not None:
        each = each * torch.where(positive, alpha, 1.0 - alpha)
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


class Binary(nn.Module):
    """A loss of one output for each independent label, or of the one output of two classes."""

    def divisor(self, targets: Tensor) -> Tensor:
        """Return what the mean over targets (B, L) divides by: how many labels are known."""
        return (~torch.isnan(targets)).sum()


class _Weighted(nn.Module):
    """A loss with optional weights per class; they travel with the module, not with its checkpoint."""

    weight: Tensor | None

    def __init__(self, name: str, weight: list[float] | None, label_smoothing: float) -> None:
        super().__init__()
        _check_smoothing(label_smoothing)
        self.label_smoothing, self._name = label_smoothing, name
        self.register_buffer("weight", _weights(name, weight), persistent=False)

    def _check(self, logits: Tensor) -> None:
        _check_length(self._name, self.weight, logits)


class BCE(_Weighted, Binary):
    """Binary cross-entropy on logits: two classes with one output, or independent labels."""

    def __init__(self, *, pos_weight: list[float] | None, label_smoothing: float) -> None:
        super().__init__("pos_weight", pos_weight, label_smoothing)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss of logits and targets (B, L)."""
        self._check(logits)
        return bce_with_logits(logits, targets, self.weight, self.label_smoothing)


class WeightedBCE(Binary):
    """Binary cross-entropy with a weight for each label's positive and negative term (`densenet14`).

    A weight that is None comes from the labels that are trained on: `fit` is called with them once, before
    training. The paper says that each label is "weighted by the frequency of positive data (w_p) and that of
    negative data (w_n)" to mend imbalance; taken literally (positives by the positives' frequency) that would
    worsen it, so w_p is the negatives' share and w_n the positives', see `frequency_weights`.
    """

    pos_weight: Tensor | None
    neg_weight: Tensor | None

    def __init__(
        self, *, pos_weight: list[float] | None, neg_weight: list[float] | None, label_smoothing: float
    ) -> None:
        super().__init__()
        _check_smoothing(label_smoothing)
        self.label_smoothing = label_smoothing
        self._given = {"pos_weight": pos_weight is not None, "neg_weight": neg_weight is not None}
        self.register_buffer("pos_weight", _weights("pos_weight", pos_weight), persistent=False)
        self.register_buffer("neg_weight", _weights("neg_weight", neg_weight), persistent=False)

    def fit(self, labels: Tensor) -> None:
        """Take the weights that are not given from training labels (N, L) in {0, 1, NaN}."""
        for (name, given), found in zip(self._given.items(), frequency_weights(labels), strict=True):
            if not given:
                setattr(self, name, found.float())

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss of logits and targets (B, L)."""
        if self.pos_weight is None or self.neg_weight is None:
            raise RuntimeError("WeightedBCE has no weights yet: call fit(labels) before training")
        _check_length("pos_weight", self.pos_weight, logits)
        _check_length("neg_weight", self.neg_weight, logits)
        return weighted_bce(logits, targets, self.pos_weight, self.neg_weight, self.label_smoothing)


class Focal(Binary):
    """Focal loss on logits: two classes with one output, or independent labels."""

    def __init__(self, *, gamma: float, alpha: float | None) -> None:
        super().__init__()
        if gamma < 0:
            raise UserError(f"loss.gamma: got {gamma}, expected a number from 0; set loss.gamma=2")
        if alpha is not None and not 0.0 < alpha < 1.0:
            raise UserError(f"loss.alpha: got {alpha}, expected a number in (0, 1); set loss.alpha=null")
        self.gamma, self.alpha = gamma, alpha

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss of logits and targets (B, L)."""
        return focal(logits, targets, self.gamma, self.alpha)


class CrossEntropy(_Weighted):
    """Softmax cross-entropy on logits: one label out of several."""

    def __init__(self, *, class_weight: list[float] | None, label_smoothing: float) -> None:
        super().__init__("class_weight", class_weight, label_smoothing)

    def divisor(self, targets: Tensor) -> Tensor:
        """Return what the mean over targets (B, L) divides by: the weight of all rows whose label is known."""
        each = torch.ones_like(targets[0]) if self.weight is None else self.weight
        known = ~torch.isnan(targets).any(dim=1)
        return torch.where(known, each[torch.nan_to_num(targets).argmax(dim=1)], 0.0).sum()

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, L) and one-hot targets (B, L)."""
        self._check(logits)
        return cross_entropy(logits, targets, self.weight, self.label_smoothing)


def _check_smoothing(label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing < 1.0:
        raise UserError(
            f"loss.label_smoothing: got {label_smoothing}, expected [0, 1); set loss.label_smoothing=0"
        )


def _weights(name: str, weight: list[float] | None) -> Tensor | None:
    if weight is not None and (not weight or min(weight) < 0):
        raise UserError(f"loss.{name}: got {weight}, expected numbers from 0; set loss.{name}=null")
    return None if weight is None else torch.tensor(weight)


def _check_length(name: str, weight: Tensor | None, logits: Tensor) -> None:
    if weight is not None and len(weight) != logits.shape[1]:
        raise UserError(
            f"loss.{name}: got {len(weight)} numbers, expected one for each of the "
            f"{logits.shape[1]} outputs; set loss.{name}=null"
        )
