"""Adversarial losses on logits: pure functions, float32 whatever the logits' dtype."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

__all__ = ["class_cross_entropy", "discriminator_bce", "generator_bce"]


def discriminator_bce(real_logits: Tensor, fake_logits: Tensor, *, real_target: float) -> Tensor:
    """Return the binary cross-entropy of telling real (B,) from fake (B,) logits, mean of both halves.

    `real_target` below 1 is one-sided label smoothing (Salimans et al. 2016); 1 is the paper's loss. With y
    the target, BCE(x, y) = softplus(x) - y·x, which neither overflows nor loses digits for large |x|.
    """
    real, fake = real_logits.float(), fake_logits.float()
    return 0.5 * ((softplus(real) - real_target * real).mean() + softplus(fake).mean())


def generator_bce(fake_logits: Tensor) -> Tensor:
    """Return the non-saturating loss, mean of -log sigmoid of logits (B,) (Goodfellow et al. 2014)."""
    return softplus(-fake_logits.float()).mean()


def class_cross_entropy(class_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of class logits (B, K) against classes int64 (B,) (Odena et al. 2017)."""
    return cross_entropy(class_logits.float(), labels)
