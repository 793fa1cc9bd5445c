"""Adversarial losses: against torch's BCE, by hand, and at the extremes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from cxr.loss.gan import (
    class_cross_entropy,
    discriminator_bce,
    discriminator_hinge,
    discriminator_least_squares,
    discriminator_wasserstein,
    generator_bce,
    generator_critic,
    generator_least_squares,
    gradient_penalty,
    r1,
)


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


def test_other_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert discriminator_hinge(real, fake).item() == pytest.approx((0 + 0.5) / 2 + (0 + 2) / 2)
    assert discriminator_wasserstein(real, fake).item() == pytest.approx(-1.0 - 1.25)
    assert generator_critic(fake).item() == pytest.approx(1.0)
    least = discriminator_least_squares(real, fake, real_target=1.0).item()
    assert least == pytest.approx(0.5 * ((1 + 0.25) / 2 + (9 + 1) / 2))
    assert discriminator_least_squares(real, fake, real_target=0.5).item() == pytest.approx(
        0.5 * (2.25 / 2 + 5)
    )
    assert generator_least_squares(fake).item() == pytest.approx(0.5 * (16 + 0) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_float32_whatever_the_logits(dtype: torch.dtype) -> None:
    logits = torch.tensor([0.3, -0.2], dtype=dtype)
    for loss in (
        discriminator_hinge(logits, logits),
        discriminator_wasserstein(logits, logits),
        discriminator_least_squares(logits, logits, real_target=1.0),
        generator_critic(logits),
        generator_least_squares(logits),
    ):
        assert loss.dtype == torch.float32


def test_penalties_of_a_plane_by_hand() -> None:
    """D(x) = 3 x_0 + 4 x_1 has a gradient of length 5 everywhere."""
    slope = torch.tensor([3.0, 4.0], requires_grad=True)

    def judge(images: torch.Tensor) -> torch.Tensor:
        return (images.flatten(1) * slope).sum(dim=1)

    real, fake = torch.randn(6, 1, 1, 2), torch.randn(6, 1, 1, 2)
    found = r1(judge, real, gamma=0.5)
    assert found.item() == pytest.approx(0.25 * 25, rel=1e-5)
    found.backward()
    torch.testing.assert_close(slope.grad, torch.tensor([1.5, 2.0]))  # d/dw of 0.25 |w|²
    slope.grad = None
    found = gradient_penalty(judge, real, fake, torch.rand(6, 1, 1, 1), weight=10.0)
    assert found.item() == pytest.approx(10 * 16, rel=1e-5)
    found.backward()
    torch.testing.assert_close(slope.grad, torch.tensor([48.0, 64.0]))  # 20 (|w| - 1) w / |w|


def test_the_gradient_penalty_looks_between_real_and_fake() -> None:
    seen: list[torch.Tensor] = []

    def judge(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.detach())
        return images.flatten(1).sum(dim=1)

    share = torch.tensor([0.0, 0.25, 1.0]).view(3, 1, 1, 1)
    gradient_penalty(judge, torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2), share, weight=1.0)
    torch.testing.assert_close(seen[0][:, 0, 0, 0], torch.tensor([0.0, 0.25, 1.0]))
