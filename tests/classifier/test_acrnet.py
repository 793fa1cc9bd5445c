"""ACRnet: Table 3, parameters, gradients, and where each gate and residual starts and ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr.classifier.acrnet import CHANNELS, ACRBlock, ACRnet
from cxr.errors import UserError

LITERAL: dict[str, Any] = {
    "image_size_px": 224,
    "channels": 3,
    "n_outputs": 3,
    "blocks": [4, 4, 4, 6, 6],
    "kernel_sizes": [3, 3, 3, 3],
    "width_multiplier": 1.0,
    "dropout": 0.0,
    "init": "torch",
}
SMALL: dict[str, Any] = {"kernel_sizes": [3, 1, 3, 1], "width_multiplier": 0.25}
TINY: dict[str, Any] = {**SMALL, "image_size_px": 32, "blocks": [2, 1, 1, 1, 1]}


def make(**changes: Any) -> ACRnet:
    torch.manual_seed(0)
    return ACRnet(**{**LITERAL, **changes})


def make_block(
    source: int = 8, width: int = 8, halve: bool = False, kernel_sizes: tuple[int, ...] = (3, 3, 3, 3)
) -> ACRBlock:
    """A block in evaluation mode whose batch normalisations do something."""
    torch.manual_seed(0)
    block = ACRBlock(source, width, list(kernel_sizes), halve).eval()
    for layer in block.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
    return block


def n_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def counted(widths: list[int], kernel_sizes: list[int]) -> int:
    """Parameters of 4, 4, 4, 6, 6 blocks and three outputs, from the layer list."""
    total, source = 0, 3
    for width, n_blocks in zip(widths, [4, 4, 4, 6, 6], strict=True):
        for number in range(n_blocks):
            start = source if number == 0 else width
            k1, k2, k3, k4 = (k * k for k in kernel_sizes)
            total += k1 * start * width + (k2 + k3 + k4) * width * width + 4 * 2 * width
            for a in (start, width):
                hidden = a // 4 if a > 3 else width // 4
                total += (a + 1) * hidden + (hidden + 1) * width
            total += (start * width + 2 * width) if number == 0 else 0
        source = width
    return total + 3 * (source + 1)


def test_parameter_counts() -> None:
    with torch.device("meta"):
        literal, small = make(), make(**SMALL)
    assert n_parameters(literal) == counted([60, 120, 240, 480, 960], [3, 3, 3, 3]) == 261_737_583
    assert n_parameters(small) == counted([15, 30, 60, 120, 240], [3, 1, 3, 1]) == 9_165_590


def test_97_layers() -> None:
    with torch.device("meta"):
        network = make()
    blocks = [m for m in network.modules() if isinstance(m, ACRBlock)]
    dense = [m for m in network.modules() if isinstance(m, nn.Linear)]
    assert (len(blocks), len(dense)) == (24, 1)
    assert 4 * len(blocks) + len(dense) == 97


@pytest.mark.parametrize("kernel_sizes", [[3, 3, 3, 3], [3, 1, 3, 1]])
def test_table_3_at_the_papers_size(kernel_sizes: list[int]) -> None:
    with torch.device("meta"):
        network = make(kernel_sizes=kernel_sizes)
        x = torch.empty(2, 3, 224, 224)
        for stage, width, side in zip(network.stages, CHANNELS, (112, 56, 28, 14, 7), strict=True):
            x = stage(x)
            assert x.shape == (2, width, side, side)
        assert network.head(x).shape == (2, 3)


@pytest.mark.parametrize(("size", "channels", "n_outputs"), [(50, 1, 1), (33, 3, 2), (16, 3, 5)])
def test_shape_elsewhere(size: int, channels: int, n_outputs: int) -> None:
    network = make(**{**TINY, "image_size_px": size, "channels": channels, "n_outputs": n_outputs})
    assert network(torch.zeros(2, channels, size, size)).shape == (2, n_outputs)


def test_one_step_reaches_every_parameter_and_lowers_the_loss() -> None:
    # Wide enough that no gate starts shut: of its few hidden ReLUs, all may be off for every image.
    network = make(**{**TINY, "width_multiplier": 0.5})
    images, targets = torch.rand(8, 3, 32, 32) * 2 - 1, torch.arange(8) % 3
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    before = F.cross_entropy(network(images), targets)
    before.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    optimizer.step()
    assert F.cross_entropy(network(images), targets) < before


def test_no_strided_1x1_convolution() -> None:
    """On a CPU, channels last, its backward pass corrupts memory where the input has few channels."""
    network = make(**{**TINY, "kernel_sizes": [1, 3, 1, 3]})
    assert not [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size < m.stride]


# --- wiring


@pytest.mark.parametrize("kernel_sizes", [(3, 3, 3, 3), (1, 3, 5, 1)])
@pytest.mark.parametrize(("source", "width", "stride"), [(8, 8, 1), (8, 12, 2), (3, 8, 2), (8, 8, 2)])
def test_block_is_the_papers_formula(
    source: int, width: int, stride: int, kernel_sizes: tuple[int, ...]
) -> None:
    block = make_block(source, width, stride == 2, kernel_sizes)
    x0 = torch.randn(2, source, 9, 9)

    def norm(layer: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(layer, nn.BatchNorm2d)
        shape = (1, -1, 1, 1)
        scale = layer.weight / (layer.running_var + layer.eps).sqrt()
        return (x - layer.running_mean.view(shape)) * scale.view(shape) + layer.bias.view(shape)

    def conv(pair: nn.Module, x: Tensor, stride: int = 1) -> Tensor:
        weight = pair[0].weight
        return norm(pair[1], F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2))

    def gate(layers: nn.Module, x: Tensor) -> Tensor:
        squeezed = F.relu(x.mean((2, 3)) @ layers[1].weight[:, :, 0, 0].T + layers[1].bias)
        return torch.sigmoid(squeezed @ layers[3].weight[:, :, 0, 0].T + layers[3].bias)[:, :, None, None]

    identity = source == width and stride == 1
    residual = x0 if identity else conv(block.residual_0_3, x0, stride)
    y1 = F.relu(conv(block.conv1, x0, stride))
    y2 = F.relu(conv(block.conv2, y1) * gate(block.gate_0_2, x0))
    y3 = F.relu(conv(block.conv3, y2) + residual)
    y4 = F.relu(conv(block.conv4, y3) * gate(block.gate_2_4, y2) + y1)
    torch.testing.assert_close(block(x0), y4)


def outputs(block: ACRBlock, x0: Tensor) -> list[Tensor]:
    """Return x0 and what layers 1 to 4 end with: what the next one is given, and the block's output."""
    given: list[Tensor] = []
    handles = [
        conv.register_forward_pre_hook(lambda _, args: given.append(args[0]))
        for conv in (block.conv1, block.conv2, block.conv3, block.conv4)
    ]
    given.append(block(x0))
    for handle in handles:
        handle.remove()
    return given


def silence(layers: nn.Sequential) -> None:
    """Make a convolution and its batch normalisation return zero."""
    nn.init.zeros_(layers[1].weight)
    nn.init.zeros_(layers[1].bias)


def shut(gate: nn.Sequential) -> None:
    """Make a gate return zero."""
    nn.init.zeros_(gate[3].weight)
    nn.init.constant_(gate[3].bias, -1e4)


def test_residual_of_layer_0_ends_at_3_and_of_1_at_4() -> None:
    x0 = torch.randn(2, 8, 6, 6)
    block = make_block()
    silence(block.conv3)
    assert torch.equal(outputs(block, x0)[3], F.relu(x0))
    block = make_block()
    silence(block.conv4)
    ends = outputs(block, x0)
    assert torch.equal(ends[4], ends[1]) and ends[1].any()
    block = make_block()
    silence(block.conv2)
    assert not outputs(block, x0)[2].any()  # no residual ends at layer 2


def test_gate_of_layer_0_closes_2_and_of_2_closes_4_but_no_residual() -> None:
    x0 = torch.randn(2, 8, 6, 6)
    open_ends = outputs(make_block(), x0)
    block = make_block()
    shut(block.gate_0_2)
    ends = outputs(block, x0)
    assert torch.equal(ends[1], open_ends[1]) and not ends[2].any() and ends[3].any()
    block = make_block()
    shut(block.gate_2_4)
    ends = outputs(block, x0)
    assert all(torch.equal(ends[i], open_ends[i]) for i in (0, 1, 2, 3))
    assert torch.equal(ends[4], ends[1]) and ends[1].any()


def test_gates_look_at_layers_0_and_2() -> None:
    block, x0 = make_block(), torch.randn(2, 8, 6, 6)
    seen: list[Tensor] = []
    for gate in (block.gate_0_2, block.gate_2_4):
        gate.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ends = outputs(block, x0)
    assert seen[0] is ends[0] and seen[1] is ends[2]


# ---


def test_initialisation_and_seed() -> None:
    first, second = make(**TINY).state_dict(), make(**TINY).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert make(**TINY).head[3].bias.any() and not make(**TINY, init="keras").head[3].bias.any()


@pytest.mark.parametrize(
    ("change", "override"),
    [
        ({"blocks": [4, 4]}, "blocks"),
        ({"blocks": [4, 4, 4, 6, 0]}, "blocks"),
        ({"kernel_sizes": [3, 3, 3]}, "kernel_sizes"),
        ({"kernel_sizes": [3, 2, 3, 3]}, "kernel_sizes"),
        ({"width_multiplier": 0.0}, "width_multiplier"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_values_name_their_override(change: dict[str, Any], override: str) -> None:
    with pytest.raises(UserError, match=f"set classifier.{override}="):
        make(**{**TINY, **change})


def test_last_conv_is_a_feature_map() -> None:
    network = make(**TINY).eval()
    maps: list[Tensor] = []
    network.get_submodule(network.last_conv).register_forward_hook(lambda _m, _i, out: maps.append(out))
    images = torch.rand(2, 3, 32, 32)
    logits = network(images)
    assert maps[0].shape == (2, 240, 1, 1)
    torch.testing.assert_close(network.head(maps[0]), logits)
    assert network.weights == "random"
