"""InceptionV2: the table of modules, parameters, gradients, pools at odd sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr.classifier.inception_v2 import TABLE, InceptionModule, InceptionV2, _halve

DEFAULTS: dict[str, Any] = {
    "image_size_px": 64,
    "channels": 3,
    "n_outputs": 3,
    "conv_bias": False,
    "init": "torch",
}
OUT = {"3a": 256, "3b": 320, "3c": 576, "4a": 576, "4b": 576, "4c": 608, "4d": 608, "4e": 1056}
SIDE = {"3a": 28, "3b": 28, "3c": 14, "4a": 14, "4b": 14, "4c": 14, "4d": 14, "4e": 7}


def make(**changes: Any) -> InceptionV2:
    torch.manual_seed(0)
    return InceptionV2(**{**DEFAULTS, **changes})


def n_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_parameter_counts() -> None:
    with torch.device("meta"):
        biased, plain = make(conv_bias=True), make()
    assert n_parameters(biased) - n_parameters(biased.head) == 10_270_240
    assert n_parameters(plain) - n_parameters(plain.head) == 10_260_224
    assert n_parameters(biased) == 10_270_240 + 3 * 1025 == 10_273_315


def test_modules_at_the_papers_size() -> None:
    with torch.device("meta"):
        network = make(image_size_px=224)
        shapes: dict[str, tuple[int, ...]] = {}
        for name in TABLE:
            module = network.get_submodule(f"inception_{name}")
            module.register_forward_hook(
                lambda _m, _i, out, name=name: shapes.update({name: tuple(out.shape)})
            )
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, 3)
    for name in TABLE:
        side = SIDE.get(name, 7)
        assert shapes[name] == (2, OUT.get(name, 1024), side, side), name


@pytest.mark.parametrize(("size", "channels", "n_outputs"), [(32, 1, 1), (75, 3, 2), (299, 3, 5)])
def test_shape_elsewhere(size: int, channels: int, n_outputs: int) -> None:
    with torch.device("meta"):
        network = make(image_size_px=size, channels=channels, n_outputs=n_outputs)
        assert network(torch.empty(2, channels, size, size)).shape == (2, n_outputs)


def test_one_step_reaches_every_parameter_and_lowers_the_loss() -> None:
    network = make()
    images, targets = torch.rand(4, 3, 64, 64) * 2 - 1, torch.arange(4) % 3
    # Gradients are large at the start: many batch normalisations over a few values each.
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-5)
    before = F.cross_entropy(network(images), targets)
    before.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    optimizer.step()
    assert F.cross_entropy(network(images), targets) < before


def test_convolution_biases_change_nothing_in_training() -> None:
    block = nn.Sequential(*make(conv_bias=True).conv1).train()
    images = torch.rand(2, 3, 16, 16)
    before = block(images)
    nn.init.normal_(block[0].bias)
    torch.testing.assert_close(block(images), before, atol=1e-4, rtol=1e-4)


def test_batch_norm_momentum_is_torchs_tenth() -> None:
    with torch.device("meta"):
        norms = [m for m in make().modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 69 and {m.momentum for m in norms} == {0.1}


def test_module_is_its_branches_side_by_side() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 16, 8, 8)
    row = TABLE["5b"]._replace(one=5, three=(3, 4), double=(3, 6), project=7)
    for pool, pooled in (("avg", F.avg_pool2d(x, 3, 1, 1)), ("max", F.max_pool2d(x, 3, 1, 1))):
        module = InceptionModule(16, row._replace(pool=pool), conv_bias=False).eval()
        one, three, double, last = module(x).split([5, 4, 6, 7], dim=1)
        assert torch.equal(one, module.branch_1(x)) and torch.equal(three, module.branch_3(x))
        assert torch.equal(double, module.branch_3_3(x)) and torch.equal(last, module.project(pooled))
    down = InceptionModule(16, row._replace(one=None, project=None), conv_bias=False).eval()
    assert down(x).shape == (2, 4 + 6 + 16, 4, 4)
    assert torch.equal(down(x)[:, -16:], F.max_pool2d(x, 3, 2, ceil_mode=True))


@pytest.mark.parametrize("side", [1, 2, 7, 8, 13])
def test_halving_covers_the_border(side: int) -> None:
    x = torch.zeros(1, 1, side, side)
    x[..., -1, -1] = 3.0
    halved = _halve(x)
    assert halved.shape[-1] == (side + 1) // 2
    assert halved[..., -1, -1] == 3.0


def test_initialisation_and_seed() -> None:
    first, second = make().state_dict(), make().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert make().head.bias.any() and not make(init="keras").head.bias.any()


def test_last_conv_is_a_feature_map() -> None:
    network = make().eval()
    maps: list[Tensor] = []
    network.get_submodule(network.last_conv).register_forward_hook(lambda _m, _i, out: maps.append(out))
    logits = network(torch.rand(2, 3, 64, 64))
    assert maps[0].shape == (2, 1024, 2, 2)
    torch.testing.assert_close(network.head(maps[0].mean((2, 3))), logits)
    assert network.weights == "random"
