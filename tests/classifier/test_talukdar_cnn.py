"""Talukdar's custom CNN: shape, parameters, gradients, initialisation, and the pool that moved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cxr.classifier.talukdar_cnn import TalukdarCNN
from cxr.errors import UserError


def make(**changes: Any) -> TalukdarCNN:
    torch.manual_seed(0)
    return TalukdarCNN(
        **{"image_size_px": 32, "channels": 3, "n_outputs": 1, "dropout": 0.2, "init": "keras", **changes}
    )


def n_parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_parameter_count_at_the_papers_size() -> None:
    network = make(image_size_px=128)
    convolutions = (9 * 3 + 1) * 32 + (9 * 32 + 1) * 64 + (9 * 64 + 1) * 128
    dense = (128 * 20 * 20 + 1) * 120 + (120 + 1) * 120 + (120 + 1) * 60 + 61
    assert n_parameters(network) == convolutions + dense == 6_259_209
    assert n_parameters(make(image_size_px=128, channels=1)) == 6_259_209 - 2 * 9 * 32


@pytest.mark.parametrize(("size", "channels", "n_outputs"), [(128, 3, 1), (33, 1, 3), (14, 3, 2)])
def test_shape(size: int, channels: int, n_outputs: int) -> None:
    network = make(image_size_px=size, channels=channels, n_outputs=n_outputs)
    assert network(torch.zeros(2, channels, size, size)).shape == (2, n_outputs)


def test_one_step_reaches_every_parameter_and_lowers_the_loss() -> None:
    network = make(dropout=0.0)
    images, targets = torch.rand(8, 3, 32, 32) * 2 - 1, torch.arange(8).remainder(2).float()[:, None]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    before = F.binary_cross_entropy_with_logits(network(images), targets)
    before.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    optimizer.step()
    assert F.binary_cross_entropy_with_logits(network(images), targets) < before


def test_relu_after_the_pool_is_the_papers_relu_before_it() -> None:
    network = make().eval()
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    x = F.relu(network.conv1(images))
    x = F.max_pool2d(F.relu(network.conv2(x)), 2)
    x = F.max_pool2d(F.relu(network.conv3(x)), 3)
    literal = network.head(x.flatten(1))
    wanted = torch.autograd.grad(literal.sum(), list(network.parameters()))
    ours = network(images)
    assert torch.equal(ours, literal)
    for a, b in zip(torch.autograd.grad(ours.sum(), list(network.parameters())), wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_keras_initialisation_is_glorot_uniform_with_zero_bias() -> None:
    network = make(image_size_px=128)
    weight = network.conv2.weight
    limit = (6 / (9 * 32 + 9 * 64)) ** 0.5
    assert weight.abs().max() <= limit and weight.abs().max() > 0.99 * limit
    assert abs(float(weight.detach().std()) - limit / 3**0.5) < 0.02 * limit
    assert all(not p.any() for name, p in network.named_parameters() if name.endswith("bias"))
    assert make(init="torch").conv1.bias.any()


def test_same_seed_same_weights() -> None:
    first, second = make().state_dict(), make().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("change", "override"), [({"image_size_px": 13}, "image_size_px"), ({"dropout": 1.0}, "dropout")]
)
def test_impossible_values_name_their_override(change: dict[str, Any], override: str) -> None:
    with pytest.raises(UserError, match=f"set classifier.{override}="):
        make(**change)


def test_last_conv_is_a_feature_map() -> None:
    network = make()
    assert isinstance(network.get_submodule(network.last_conv), torch.nn.Conv2d)
    assert network.weights == "random"
