"""Adversarial losses: against torch's BCE, by hand, and at the extremes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from cxr.loss.gan import class_cross_entropy, discriminator_bce, generator_bce


@pytest.mark.parametrize("target", [1.0, 0.9])
def test_agrees_with_torch(target: float) -> None:
    real, fake = torch.randn(64, generator=torch.Generator().manual_seed(0)) * 5, torch.linspace(-20, 20, 64)
    logits = torch.cat((real, fake))
    targets = torch.cat((torch.full((64,), target), torch.zeros(64)))
    torch.testing.assert_close(discriminator_bce(real, fake, real_target=target), bce(logits, targets))
    torch.testing.assert_close(generator_bce(fake), bce(fake, torch.ones(64)))


def test_by_hand() -> None:
    zero, two = torch.zeros(3), torch.full((3,), 2.0)
    assert generator_bce(zero).item() == pytest.approx(math.log(2))
    expected = 0.5 * (math.log1p(math.exp(-2)) + math.log(2))
    assert discriminator_bce(two, zero, real_target=1.0).item() == pytest.approx(expected)


def test_does_not_saturate_and_does_not_overflow() -> None:
    logits = torch.tensor([-1e4], requires_grad=True)
    generator_bce(logits).backward()
    assert logits.grad is not None and logits.grad.item() == pytest.approx(-1)
    assert discriminator_bce(torch.tensor([1e4]), torch.tensor([-1e4]), real_target=1.0).item() == 0


def test_low_precision_logits_give_a_float32_loss() -> None:
    assert generator_bce(torch.zeros(2, dtype=torch.bfloat16)).dtype == torch.float32
    assert (
        class_cross_entropy(torch.zeros(2, 3, dtype=torch.bfloat16), torch.tensor([0, 2])).dtype
        == torch.float32
    )


def test_class_loss_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    expected = 0.5 * (math.log1p(math.exp(2)) + math.log(2))
    assert class_cross_entropy(logits, torch.tensor([1, 0])).item() == pytest.approx(expected)
