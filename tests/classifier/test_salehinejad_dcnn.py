"""Salehinejad's DCNN: parameters by hand, 4,096 features, initialisation, the paper's order of ReLU and pool."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cxr.classifier.salehinejad_dcnn import SalehinejadDCNN
from cxr.errors import UserError

PAPER: dict[str, Any] = {
    "image_size_px": 256,
    "channels": 1,
    "n_outputs": 5,
    "widths": [16, 32, 64, 64, 64],
    "kernel_sizes": [5, 3, 3, 3, 3],
    "hidden": 1024,
    "weight_std": None,
    "bias": 0.1,
}


def make(**changes: Any) -> SalehinejadDCNN:
    torch.manual_seed(0)
    return SalehinejadDCNN(**{**PAPER, **changes})


def n_parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_parameter_count_and_the_papers_4096() -> None:
    network = make()
    convolutions = 26 * 16 + (9 * 16 + 1) * 32 + (9 * 32 + 1) * 64 + 2 * (9 * 64 + 1) * 64
    assert n_parameters(network) == convolutions + 4097 * 1024 + 1025 * 5 == 4_297_861
    assert network.hidden.in_features == 4096 == 8 * 8 * 64
    assert n_parameters(make(channels=3)) == 4_297_861 + 2 * 25 * 16


@pytest.mark.parametrize(("size", "channels", "n_outputs"), [(64, 1, 5), (32, 3, 2), (75, 1, 1)])
def test_shape(size: int, channels: int, n_outputs: int) -> None:
    network = make(image_size_px=size, channels=channels, n_outputs=n_outputs, hidden=16)
    assert network(torch.zeros(2, channels, size, size)).shape == (2, n_outputs)


def test_one_step_reaches_every_parameter_and_lowers_the_loss() -> None:
    network = make(image_size_px=64, hidden=64)
    images, targets = torch.rand(10, 1, 64, 64) * 2 - 1, torch.arange(10) % 5
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.5, 0.999), weight_decay=1e-4)
    before = F.cross_entropy(network(images), targets)
    before.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    optimizer.step()
    assert F.cross_entropy(network(images), targets) < before


def test_relu_after_the_pool_is_the_papers_relu_before_it() -> None:
    network = make(image_size_px=64, hidden=16)
    images = torch.rand(2, 1, 64, 64) * 2 - 1
    x = images
    for conv in network.convs:
        x = F.max_pool2d(F.relu(conv(x)), 2)
    assert torch.equal(network(images), network.out(F.relu(network.hidden(x.flatten(1)))))


def test_initialisation() -> None:
    network = make()
    assert all(bool((p == 0.1).all()) for name, p in network.named_parameters() if name.endswith("bias"))
    weight = network.convs[4].weight.detach()
    assert float(weight.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert float((weight.abs() < weight.std()).float().mean()) == pytest.approx(0.683, abs=0.01)  # normal
    assert float(make(weight_std=0.01).convs[4].weight.detach().std()) == pytest.approx(0.01, rel=0.02)


def test_signal_neither_dies_nor_explodes() -> None:
    logits = make(image_size_px=64)(torch.randn(4, 1, 64, 64))
    assert 0.1 < float(logits.detach().std()) < 10


def test_last_conv_is_a_feature_map() -> None:
    network = make(image_size_px=64)
    assert network.get_submodule(network.last_conv) is network.convs[4]
    assert network.weights == "random"


@pytest.mark.parametrize(
    ("change", "override"),
    [
        ({"image_size_px": 31}, r"image_size_px=256"),
        ({"kernel_sizes": [5, 3]}, r"kernel_sizes=\[5,3,3,3,3\]"),
        ({"kernel_sizes": [4, 3, 3, 3, 3]}, r"kernel_sizes=\[5,"),
    ],
)
def test_impossible_values_name_their_override(change: dict[str, Any], override: str) -> None:
    with pytest.raises(UserError, match=f"set classifier.{override}"):
        make(**change)
