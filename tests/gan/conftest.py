"""What every GAN's networks must do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture
def step_reaches_every_parameter() -> Callable[[nn.Module], None]:
    """Return a check for a network with gradients: each parameter has one, and one optimiser step moves it."""

    def check(network: nn.Module) -> None:
        before = [p.detach().clone() for p in network.parameters()]
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        torch.optim.Adam(network.parameters(), lr=1e-3).step()
        assert all(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))

    return check
