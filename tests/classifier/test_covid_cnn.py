"""The CustomCNN of the covidgan paper: its printed counts, layer by layer, and Keras' batch norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cxr.classifier.covid_cnn import CovidCNN
from cxr.errors import UserError

DEFAULTS: dict[str, Any] = {
    "image_size_px": 32,
    "channels": 3,
    "n_outputs": 3,
    "conv_dropout": 0.25,
    "dropout": 0.5,
    "init": "keras",
}


def make(**changes: Any) -> CovidCNN:
    torch.manual_seed(0)
    return CovidCNN(**{**DEFAULTS, **changes})


def n_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_counts_of_figure_13() -> None:
    network = make(image_size_px=224)
    layers = [network.conv1, network.conv2, network.conv3, network.head[0], network.head[3]]
    assert [n_parameters(layer) for layer in layers] == [1_792, 36_928, 18_464, 2_986_112, 387]
    statistics = [b for name, b in network.named_buffers() if "running" in name]
    frozen = sum(b.numel() for b in statistics)
    assert frozen == 6 and n_parameters(network.norm) + frozen == 12
    assert n_parameters(network) == 3_043_689
    assert n_parameters(network) + frozen == 3_043_695


@pytest.mark.parametrize(("size", "channels", "n_outputs"), [(224, 3, 3), (16, 1, 1), (37, 3, 2)])
def test_shape(size: int, channels: int, n_outputs: int) -> None:
    network = make(image_size_px=size, channels=channels, n_outputs=n_outputs)
    assert network(torch.zeros(2, channels, size, size)).shape == (2, n_outputs)


def test_sizes_of_figure_13() -> None:
    network = make(image_size_px=224)
    seen: list[tuple[int, ...]] = []
    for layer in (network.conv1, network.conv2, network.conv3, network.head):
        layer.register_forward_hook(lambda m, inputs, output: seen.append(tuple(inputs[0].shape[1:])))
    network(torch.zeros(1, 3, 224, 224))
    assert seen == [(3, 224, 224), (64, 112, 112), (64, 56, 56), (23_328,)]


def test_one_step_reaches_every_parameter_and_lowers_the_loss() -> None:
    network = make(conv_dropout=0.0, dropout=0.0)
    images, targets = torch.rand(9, 3, 32, 32) * 2 - 1, torch.arange(9) % 3
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    before = F.cross_entropy(network(images), targets)
    before.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    optimizer.step()
    assert F.cross_entropy(network(images), targets) < before


def test_the_papers_order_of_layers() -> None:
    network = make().eval()
    network.norm.running_mean.fill_(0.2)  # type: ignore[union-attr]  # tracked
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    x = (images - 0.2) / (1 + 1e-3) ** 0.5
    for conv in (network.conv1, network.conv2, network.conv3):
        x = F.max_pool2d(F.relu(conv(x)), 2)
    wanted = network.head[3](F.relu(network.head[0](x.flatten(1))))
    torch.testing.assert_close(network(images), wanted)


def test_keras_momentum() -> None:
    network = make()
    network(torch.ones(2, 3, 32, 32))
    assert network.norm.running_mean is not None
    torch.testing.assert_close(network.norm.running_mean, torch.full((3,), 0.01))


def test_dropout_acts_in_training_only() -> None:
    network, images = make(), torch.rand(2, 3, 32, 32)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))
    assert isinstance(network.get_submodule(network.last_conv), torch.nn.Conv2d)


@pytest.mark.parametrize(
    ("change", "override"),
    [({"image_size_px": 15}, "image_size_px"), ({"dropout": 1.0}, "dropout"), ({"conv_dropout": -0.1}, "conv_dropout")],
)  # fmt: skip
def test_impossible_values_name_their_override(change: dict[str, Any], override: str) -> None:
    with pytest.raises(UserError, match=f"set classifier.{override}="):
        make(**change)
