"""Adversarial losses on logits: pure functions, float32 whatever the logits' dtype."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, relu, softplus

__all__ = [
    "class_cross_entropy",
    "discriminator_bce",
    "discriminator_hinge",
    "discriminator_least_squares",
    "discriminator_wasserstein",
    "generator_bce",
    "generator_critic",
    "generator_least_squares",
    "gradient_penalty",
    "r1",
]

Judge = Callable[[Tensor], Tensor]  # images (B, C, H, W) → logits (B,)


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


def discriminator_hinge(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the hinge loss of real (B,) and fake (B,) logits, a sum of two means (Lim & Ye 2017, Miyato et al. 2018)."""
    return relu(1.0 - real_logits.float()).mean() + relu(1.0 + fake_logits.float()).mean()


def discriminator_wasserstein(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the critic's loss, mean of fake less mean of real logits (B,); wants a gradient penalty (Gulrajani et al. 2017)."""
    return fake_logits.float().mean() - real_logits.float().mean()


def generator_critic(fake_logits: Tensor) -> Tensor:
    """Return G's loss against a hinge or Wasserstein critic: minus the mean of logits (B,)."""
    return -fake_logits.float().mean()


def discriminator_least_squares(real_logits: Tensor, fake_logits: Tensor, *, real_target: float) -> Tensor:
    """Return the least squares loss, a mean of both halves, of logits (B,) against `real_target` and 0 (Mao et al. 2017).

    `real_target` below 1 is one-sided label smoothing; 1 is the paper's (equation 9, a = 0, b = c = 1).
    """
    return 0.5 * ((real_logits.float() - real_target).square().mean() + fake_logits.float().square().mean())


def generator_least_squares(fake_logits: Tensor) -> Tensor:
    """Return half the mean squared distance of logits (B,) from 1 (Mao et al. 2017, equation 9)."""
    return 0.5 * (fake_logits.float() - 1.0).square().mean()


def class_cross_entropy(class_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of class logits (B, K) against classes int64 (B,) (Odena et al. 2017)."""
    return cross_entropy(class_logits.float(), labels)


def r1(judge: Judge, real: Tensor, *, gamma: float) -> Tensor:
    """Return gamma / 2 times the mean squared gradient of D at real images (B, C, H, W) (Mescheder et al. 2018)."""
    return 0.5 * gamma * _gradient(judge, real).square().sum(dim=(1, 2, 3)).mean()


def gradient_penalty(judge: Judge, real: Tensor, fake: Tensor, share: Tensor, *, weight: float) -> Tensor:
    """Return weight times the mean of (|gradient of D| - 1)² between real and fake images (Gulrajani et al. 2017).

    real, fake: (B, C, H, W); share: (B, 1, 1, 1) in [0, 1), how near to real each point is.
    """
    squared = _gradient(judge, fake.detach().lerp(real.detach(), share)).square().sum(dim=(1, 2, 3))
    return weight * ((squared + 1e-12).sqrt() - 1.0).square().mean()  # at 0, a root has no derivative


def _gradient(judge: Judge, images: Tensor) -> Tensor:
    """Return d(sum of logits) / d(images), float32 and itself differentiable: 16 bits would lose small gradients."""
    images = images.detach().float().requires_grad_()
    with torch.autocast(images.device.type, enabled=False):
        (found,) = torch.autograd.grad(judge(images).sum(), images, create_graph=True)
    return found
