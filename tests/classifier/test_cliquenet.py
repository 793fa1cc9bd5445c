"""CliqueNet: the published counts, both stages against a naive loop and by hand, gradients, any size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr.classifier.cliquenet import VARIANTS, CliqueBlock, CliqueNet, Transition

DEFAULTS: dict[str, Any] = {
    "image_size_px": 32,
    "channels": 3,
    "n_outputs": 3,
    "variant": "S0",
    "attention": True,
    "init": "he",
}


def make(**changes: Any) -> CliqueNet:
    torch.manual_seed(0)
    return CliqueNet(**{**DEFAULTS, **changes})


def n_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("variant", "without", "with_attention"),
    [
        ("S0", 5_703_728, 6_245_330),
        ("S1", 7_956_776, 8_740_046),
        ("S2", 10_003_756, 11_008_376),
        ("S3", 13_170_904, 14_383_024),
    ],
)
def test_published_parameter_counts(variant: str, without: int, with_attention: int) -> None:
    with torch.device("meta"):
        plain = make(variant=variant, attention=False, n_outputs=1000)
        attentive = make(variant=variant, attention=True, n_outputs=1000)
    assert (n_parameters(plain), n_parameters(attentive)) == (without, with_attention)


def test_parameter_count_of_the_three_class_baseline() -> None:
    with torch.device("meta"):
        assert n_parameters(make(variant="S3")) == 12_196_603


def test_shapes_at_the_papers_size() -> None:
    with torch.device("meta"):
        network = make(variant="S3", image_size_px=224)
        x = network.stem(torch.empty(2, 3, 224, 224))
        assert x.shape == (2, 64, 56, 56)
        for number, (width, n_layers) in enumerate(zip(*VARIANTS["S3"], strict=True)):
            x = network.blocks[number](x)
            side = 56 // 2**number
            assert x.shape == (2, width * n_layers, side, side)
            x = network.transitions[number](x) if number < 3 else x
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, 3)


@pytest.mark.parametrize(("size", "channels", "n_outputs"), [(32, 1, 1), (45, 3, 2)])
def test_shape_elsewhere(size: int, channels: int, n_outputs: int) -> None:
    with torch.device("meta"):
        network = make(image_size_px=size, channels=channels, n_outputs=n_outputs)
        assert network(torch.empty(2, channels, size, size)).shape == (2, n_outputs)


@pytest.mark.parametrize("attention", [True, False])
def test_one_step_reaches_every_parameter_and_lowers_the_loss(attention: bool) -> None:
    network = make(attention=attention)
    images, targets = torch.rand(6, 3, 64, 64) * 2 - 1, torch.arange(6) % 3
    # Gradients are large at the start: many batch normalisations over a few values each.
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-5)
    before = F.cross_entropy(network(images), targets)
    before.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    optimizer.step()
    assert F.cross_entropy(network(images), targets) < before


# --- the clique block


def naive(block: CliqueBlock, x0: Tensor, source: int, width: int, n_layers: int) -> Tensor:
    """Both stages edge by edge: one small convolution per pair of layers, summed."""

    def edge(start: int, end: int) -> Tensor:
        weight = block.pairs[end - 1].weight
        if start == 0:
            return weight[:, :source]
        place = source + width * [layer for layer in range(1, n_layers + 1) if layer != end].index(start)
        return weight[:, place : place + width]

    def update(end: int, inputs: dict[int, Tensor], norm_in: nn.Module, norm_mid: nn.Module) -> Tensor:
        gain = (norm_in.weight / (norm_in.running_var + norm_in.eps).sqrt())[:, None, None]
        total, first = torch.zeros(()), 0
        for start in sorted(inputs):
            last = first + inputs[start].shape[1]
            centred = inputs[start] - norm_in.running_mean[first:last, None, None]
            normed = centred * gain[first:last] + norm_in.bias[first:last, None, None]
            total = total + F.conv2d(F.relu(normed), edge(start, end))
            first = last
        return F.conv2d(F.relu(norm_mid(total)), block.convs[end - 1].weight, padding=1)

    old: dict[int, Tensor] = {0: x0}
    for i in range(1, n_layers + 1):
        inputs = {j: old[j] for j in range(i)}
        old[i] = update(i, inputs, block.norms_in_1[i - 1], block.norms_mid_1[i - 1])
    new: dict[int, Tensor] = {}
    for i in range(1, n_layers + 1):
        inputs = {j: new[j] for j in range(1, i)} | {j: old[j] for j in range(i + 1, n_layers + 1)}
        new[i] = update(i, inputs, block.norms_in_2[i - 1], block.norms_mid_2[i - 1])
    return torch.cat([new[i] for i in range(1, n_layers + 1)], dim=1)


def test_block_agrees_with_a_loop_over_pairs() -> None:
    torch.manual_seed(0)
    block = CliqueBlock(3, 2, 4).eval()
    for layer in block.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    x0 = torch.randn(2, 3, 5, 5)
    result = block(x0)
    assert result.shape == (2, 8, 5, 5)
    torch.testing.assert_close(result, naive(block, x0, 3, 2, 4))


def test_block_of_two_layers_by_hand() -> None:
    block = CliqueBlock(1, 1, 2).eval()
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 0.0  # mean 0, variance 1: the identity
    with torch.no_grad():
        block.pairs[0].weight.copy_(torch.tensor([2.0, 0.5]).view(1, 2, 1, 1))  # W_01, W_21
        block.pairs[1].weight.copy_(torch.tensor([1.0, 3.0]).view(1, 2, 1, 1))  # W_02, W_12
        block.convs[0].weight.fill_(1.0)  # on one pixel only the centre of a 3 x 3 counts
        block.convs[1].weight.fill_(2.0)
    # Stage I: X1 = 2·1 = 2, X2 = 2·(1·1 + 3·2) = 14. Stage II: X1' = 0.5·14 = 7, X2' = 2·(3·7) = 42.
    assert block(torch.ones(1, 1, 1, 1)).flatten().tolist() == [7.0, 42.0]


def test_stage_two_leaves_the_input_out() -> None:
    """The weights from X_0 matter through Stage I alone, and not at all once its layers are silent."""
    torch.manual_seed(0)
    block = CliqueBlock(3, 2, 3).eval()
    for norm in block.norms_mid_1:
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
    assert torch.equal(block(torch.randn(2, 3, 4, 4)), block(torch.randn(2, 3, 4, 4)))


def test_readout_sees_the_input_and_stage_two_of_every_block() -> None:
    network = make(attention=False).eval()
    read: list[Tensor] = []
    passed: list[Tensor] = []
    for number in range(4):
        network.blocks[number].register_forward_hook(lambda _, args, out: passed.extend((args[0], out)))
        network.readouts[number].register_forward_pre_hook(lambda _, args: read.append(args[0]))
    network(torch.rand(2, 3, 32, 32))
    for number in range(4):
        assert torch.equal(read[number], torch.cat(passed[2 * number : 2 * number + 2], dim=1))


# --- transitions and the rest


def test_attention_scales_channels_and_half_is_neutral() -> None:
    torch.manual_seed(0)
    with_attention, without = Transition(4, attention=True).eval(), Transition(4, attention=False).eval()
    without.conv.load_state_dict(with_attention.conv.state_dict())
    assert with_attention.attention is not None
    nn.init.zeros_(with_attention.attention[2].weight)
    with torch.no_grad():
        with_attention.attention[2].bias.copy_(torch.tensor([0.0, 0.0, 1e4, -1e4]))
    x = torch.randn(2, 4, 6, 6)
    scale = torch.tensor([0.5, 0.5, 1.0, 0.0]).view(1, 4, 1, 1)
    torch.testing.assert_close(with_attention(x), without(x) * scale)


def test_pool_keeps_the_border_of_an_odd_side() -> None:
    transition = Transition(1, attention=False).eval()
    nn.init.ones_(transition.conv[2].weight)
    x = torch.zeros(1, 1, 3, 3)
    x[..., 2, 2] = 1.0
    torch.testing.assert_close(transition(x)[0, 0], torch.tensor([[0.0, 0.0], [0.0, 1.0]]), atol=1e-4, rtol=0)


def test_initialisations() -> None:
    he, keras = make(), make(init="keras")
    weight = he.blocks[0].convs[0].weight
    assert abs(float(weight.detach().std()) / (2 / (9 * 36)) ** 0.5 - 1) < 0.03
    assert not he.head.bias.any() and not keras.head.bias.any() and make(init="torch").head.bias.any()
    limit = (6 / (9 * 36 + 9 * 36)) ** 0.5
    assert 0.99 * limit < keras.blocks[0].convs[0].weight.abs().max() <= limit
    again = make().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in he.state_dict().items())


def test_last_conv_is_a_feature_map() -> None:
    network = make().eval()
    maps: list[Tensor] = []
    network.get_submodule(network.last_conv).register_forward_hook(lambda _m, _i, out: maps.append(out))
    network(torch.rand(2, 3, 64, 64))
    assert maps[0].shape == (2, (100 * 6 + 80 * 6) // 2, 2, 2)
    assert network.weights == "random"
