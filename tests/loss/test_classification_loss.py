"""Classification losses against PyTorch's own, a hand-computed case, and labels that are unknown."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from cxr.errors import UserError
from cxr.loss.classification import (
    BCE,
    CrossEntropy,
    Focal,
    WeightedBCE,
    bce_with_logits,
    cross_entropy,
    focal,
    frequency_weights,
    weighted_bce,
)

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


@pytest.mark.parametrize(
    "function",
    [
        bce_with_logits,
        cross_entropy,
        partial(focal, gamma=2.0),
        partial(weighted_bce, pos_weight=torch.ones(2), neg_weight=torch.ones(2)),
    ],
)
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


def weighted(**changes: object) -> WeightedBCE:
    return WeightedBCE(**{"pos_weight": None, "neg_weight": None, "label_smoothing": 0.0, **changes})  # type: ignore[arg-type]  # by name


def test_frequency_weights_by_hand() -> None:
    """One of four positive; one of two known; none positive; never known."""
    labels = torch.tensor(
        [[1.0, 1.0, 0.0, NAN], [0.0, 0.0, 0.0, NAN], [0.0, NAN, 0.0, NAN], [0.0, NAN, 0.0, NAN]]
    )
    positive, negative = frequency_weights(labels)
    assert positive.tolist() == [0.75, 0.5, 1.0, 0.0]
    assert negative.tolist() == [0.25, 0.5, 0.0, 0.0]


def test_frequency_weights_make_both_terms_equal() -> None:
    """At p = 1/2 everywhere, positives and negatives contribute the same to the sum of the training set."""
    labels = (
        torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.1, 0.5, 0.8])
    ).float()
    positive, negative = frequency_weights(labels)
    torch.testing.assert_close((positive * labels).sum(0), (negative * (1 - labels)).sum(0))


def test_weighted_bce_by_hand() -> None:
    """p = 0.8 and 0.5: known labels 1, 0, 0; the mean is over these three."""
    logits = torch.tensor([[math.log(4.0), 0.0], [0.0, 7.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, NAN]])
    expected = (0.9 * -math.log(0.8) + 0.3 * -math.log(0.5) + 0.1 * -math.log(0.5)) / 3
    found = weighted_bce(logits, targets, torch.tensor([0.9, 0.7]), torch.tensor([0.1, 0.3]))
    assert math.isclose(float(found), expected, rel_tol=1e-6)


def test_weighted_bce_agrees_with_torch() -> None:
    torch.manual_seed(0)
    logits, targets, weight = 30 * torch.randn(6, 3), torch.rand(6, 3).round(), torch.rand(3)
    for smoothing in (0.0, 0.2):
        torch.testing.assert_close(
            weighted_bce(logits, targets, weight, torch.ones(3), smoothing),
            bce_with_logits(logits, targets, weight, smoothing),
        )


def test_weighted_bce_agrees_with_sklearns_sample_weights() -> None:
    from sklearn.metrics import log_loss

    torch.manual_seed(1)
    logits, targets = torch.randn(50, 1), (torch.rand(50, 1) < 0.3).float()
    loss = weighted()
    loss.fit(targets)
    weights = torch.where(targets == 1, 1 - targets.mean(), targets.mean())[:, 0]
    reference = log_loss(
        targets[:, 0].numpy(),
        logits[:, 0].sigmoid().double().numpy(),
        sample_weight=weights.numpy(),
        normalize=False,
    )
    assert float(loss(logits, targets)) == pytest.approx(reference / 50, rel=1e-5)


def test_weights_come_from_the_labels_unless_given() -> None:
    labels, logits = torch.tensor([[1.0], [0.0], [0.0], [0.0]]), torch.tensor([[0.0]])
    loss = weighted()
    with pytest.raises(RuntimeError, match="fit"):
        loss(logits, labels[:1])
    loss.fit(labels)
    assert float(loss(logits, labels[:1])) == pytest.approx(0.75 * math.log(2))
    assert float(loss(logits, labels[1:2])) == pytest.approx(0.25 * math.log(2))
    half = weighted(pos_weight=[2.0])
    half.fit(labels)
    assert float(half(logits, labels[:1])) == pytest.approx(2 * math.log(2))
    assert float(half(logits, labels[1:2])) == pytest.approx(0.25 * math.log(2))
    assert not loss.state_dict()  # the same labels give the same weights after a resume


def test_focal_by_hand() -> None:
    """p = 0.8: a positive told well weighs 0.25 · 0.2², a negative told badly 0.75 · 0.8²."""
    logits = torch.full((2, 1), math.log(4.0))
    targets = torch.tensor([[1.0], [0.0]])
    positive, negative = 0.25 * 0.2**2 * -math.log(0.8), 0.75 * 0.8**2 * -math.log(0.2)
    found = Focal(gamma=2.0, alpha=0.25)(logits, targets)
    assert math.isclose(float(found), (positive + negative) / 2, rel_tol=1e-5)


def test_focal_without_focus_is_bce() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 3), torch.rand(5, 3).round()
    targets[2, 1] = NAN
    torch.testing.assert_close(focal(logits, targets, 0.0), bce_with_logits(logits, targets))
    torch.testing.assert_close(focal(logits, targets, 0.0, 0.5), bce_with_logits(logits, targets) / 2)


def test_focal_has_finite_gradients_far_out() -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    focal(logits, torch.tensor([[1.0, 1.0, NAN]]), 0.5).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert float(logits.grad[0, 2]) == 0 and float(logits.grad[0, 1]) < 0


def test_wrong_values_of_weighted_and_focal_name_their_override() -> None:
    with pytest.raises(UserError, match=r"set loss\.neg_weight="):
        weighted(neg_weight=[-1.0])
    with pytest.raises(UserError, match=r"set loss\.label_smoothing="):
        weighted(label_smoothing=1.0)
    with pytest.raises(UserError, match=r"loss\.pos_weight: got 1 numbers"):
        weighted(pos_weight=[1.0], neg_weight=[1.0, 1.0])(torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(UserError, match=r"set loss\.gamma="):
        Focal(gamma=-1.0, alpha=None)
    with pytest.raises(UserError, match=r"set loss\.alpha="):
        Focal(gamma=2.0, alpha=1.0)
