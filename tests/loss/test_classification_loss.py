"""Classification losses against PyTorch's own, a hand-computed case, and labels that are unknown."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from cxr.errors import UserError
from cxr.loss.classification import BCE, CrossEntropy, bce_with_logits, cross_entropy

NAN = float("nan")


def test_bce_by_hand() -> None:
    logits, targets = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    expected = (math.log(2) + math.log(1 + math.exp(2))) / 2
    assert math.isclose(float(bce_with_logits(logits, targets)), expected, rel_tol=1e-6)


def test_bce_agrees_with_torch() -> None:
    torch.manual_seed(0)
    logits, targets, weight = torch.randn(5, 3), torch.rand(5, 3).round(), torch.rand(3)
    torch.testing.assert_close(
        bce_with_logits(logits, targets, weight),
        F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight),
    )


def test_unknown_labels_have_no_loss_and_no_gradient() -> None:
    logits = torch.tensor([[1.0, 5.0], [-2.0, 0.5]], requires_grad=True)
    targets = torch.tensor([[1.0, NAN], [0.0, 1.0]])
    loss = bce_with_logits(logits, targets)
    known = F.binary_cross_entropy_with_logits(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(loss.detach(), known)
    loss.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert (logits.grad == 0).tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("function", [bce_with_logits, cross_entropy])
def test_nothing_known_is_zero(function: object) -> None:
    logits = torch.randn(2, 2, requires_grad=True)
    loss = function(logits, torch.full((2, 2), NAN))  # type: ignore[operator]  # one of two functions
    loss.backward()
    assert float(loss.detach()) == 0 and not logits.grad.any()  # type: ignore[union-attr]  # set by backward


def test_cross_entropy_agrees_with_torch() -> None:
    torch.manual_seed(0)
    logits, index, weight = torch.randn(6, 3), torch.tensor([0, 2, 1, 1, 0, 2]), torch.tensor([0.5, 1.0, 3.0])
    one_hot = F.one_hot(index, 3).float()
    torch.testing.assert_close(cross_entropy(logits, one_hot), F.cross_entropy(logits, index))
    torch.testing.assert_close(cross_entropy(logits, one_hot, weight), F.cross_entropy(logits, index, weight))
    torch.testing.assert_close(
        cross_entropy(logits, one_hot, weight, 0.1),
        F.cross_entropy(logits, index, weight, label_smoothing=0.1),
    )
    one_hot[1] = NAN
    kept = [0, 2, 3, 4, 5]
    torch.testing.assert_close(
        cross_entropy(logits, one_hot, weight), F.cross_entropy(logits[kept], index[kept], weight)
    )


def test_label_smoothing_of_bce() -> None:
    logits = torch.tensor([[3.0], [-1.0]])
    smooth = F.binary_cross_entropy_with_logits(logits, torch.tensor([[0.9], [0.1]]))
    torch.testing.assert_close(
        bce_with_logits(logits, torch.tensor([[1.0], [0.0]]), label_smoothing=0.2), smooth
    )


def test_shells_pass_their_values_on() -> None:
    logits, targets = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 0.0]])
    bce = BCE(pos_weight=[2.0, 1.0], label_smoothing=0.0)
    torch.testing.assert_close(
        bce(logits, targets), bce_with_logits(logits, targets, torch.tensor([2.0, 1.0]))
    )
    softmax = CrossEntropy(class_weight=None, label_smoothing=0.1)
    torch.testing.assert_close(softmax(logits, targets), cross_entropy(logits, targets, label_smoothing=0.1))
    assert not bce.state_dict()  # weights are configuration, not learnt


def test_wrong_values_name_their_override() -> None:
    with pytest.raises(UserError, match=r"set loss\.label_smoothing="):
        BCE(pos_weight=None, label_smoothing=1.0)
    with pytest.raises(UserError, match=r"set loss\.class_weight="):
        CrossEntropy(class_weight=[-1.0, 1.0], label_smoothing=0.0)
    with pytest.raises(UserError, match=r"got 3 numbers"):
        BCE(pos_weight=[1.0, 1.0, 1.0], label_smoothing=0.0)(torch.zeros(1, 2), torch.zeros(1, 2))
