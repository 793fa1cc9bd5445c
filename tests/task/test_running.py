"""Running values: weights count, classes of one kind do not, nothing seen is NaN."""

from __future__ import annotations

import torch

from cxr.task.running import MacroAUROC, Mean


def test_mean_is_weighted() -> None:
    mean = Mean()
    mean.update(torch.tensor(1.0), torch.tensor(8))
    mean.update(torch.tensor(4.0), torch.tensor(4))
    assert float(mean.compute()) == 2.0
    mean.reset()
    mean.update(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 0.0]))
    assert float(mean.compute()) == 0.5


def test_auroc_leaves_out_a_class_of_one_kind() -> None:
    metric = MacroAUROC()
    metric.update(torch.tensor([[0.1, 0.5]]), torch.tensor([[0.0, 1.0]]))
    metric.update(torch.tensor([[0.9, 0.6]]), torch.tensor([[1.0, 1.0]]))
    assert float(metric.compute()) == 1.0
    metric.reset()
    metric.update(torch.tensor([[0.1], [0.9]]), torch.ones(2, 1))
    assert metric.compute().isnan()


def test_auroc_by_hand_with_a_tie_and_an_unknown_label() -> None:
    metric = MacroAUROC()
    scores = torch.tensor([[0.1], [0.4], [0.4], [0.8], [0.9]])
    metric.update(scores, torch.tensor([[0.0], [0.0], [1.0], [1.0], [float("nan")]]))
    assert float(metric.compute()) == 0.875  # of 4 pairs: three right, one tied
