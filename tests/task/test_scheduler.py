"""The sigmoid decay: its formula by hand, where it begins, and that a resumed one goes on."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from cxr.errors import UserError
from cxr.task.scheduler import SigmoidDecay

DEFAULTS: dict[str, Any] = {"epochs": 100, "midpoint": 0.5, "steepness": 10.0, "last_epoch": -1}


def make(**changes: Any) -> tuple[torch.optim.Optimizer, SigmoidDecay]:
    parameters = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (1e-3, 0.5)]
    optimizer = torch.optim.Adam(parameters)
    return optimizer, SigmoidDecay(optimizer, **{**DEFAULTS, **changes})


def rates(optimizer: torch.optim.Optimizer, scheduler: SigmoidDecay, n: int) -> list[float]:
    found = []
    for _ in range(n):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_formula_by_hand() -> None:
    found = rates(*make(), 101)
    assert found[0] == pytest.approx(1e-3, rel=1e-12)  # exactly the paper's start
    assert found[50] == pytest.approx(1e-3 * (1 + math.exp(-5)) / 2)
    assert found[100] == pytest.approx(1e-3 * (1 + math.exp(-5)) / (1 + math.exp(5)))
    assert all(a > b for a, b in itertools.pairwise(found))


def test_is_the_logistic_function() -> None:
    """Up to its scale it is 1 - sigmoid, whose slope at the midpoint is -k / 4."""
    found = torch.tensor(rates(*make(midpoint=0.3, steepness=20.0), 100), dtype=torch.float64)
    e = torch.arange(100, dtype=torch.float64)
    wanted = torch.sigmoid(-20 * (e / 100 - 0.3))
    torch.testing.assert_close(found / found[0], wanted / wanted[0])


def test_groups_keep_their_own_rate() -> None:
    optimizer, scheduler = make()
    rates(optimizer, scheduler, 30)
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert second == pytest.approx(500 * first)


def test_resumes() -> None:
    whole = rates(*make(), 40)
    optimizer, scheduler = make()
    rates(optimizer, scheduler, 15)
    again, resumed = make()
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    assert rates(again, resumed, 25) == whole[15:]


@pytest.mark.parametrize("change", [{"epochs": 0}, {"steepness": 0.0}])
def test_impossible_values_name_their_override(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"set scheduler.{next(iter(change))}="):
        make(**change)
