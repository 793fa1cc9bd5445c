"""The strong default: shapes, counts, gradients, classes, and what its parts do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from cxr.errors import UserError
from cxr.gan.strong import Discriminator, Generator


def make_generator(**changes: object) -> Generator:
    values = {
        "n_classes": 2,
        "latent_dim": 100,
        "image_size_px": 64,
        "channels": 1,
        "widths": [256, 128, 64, 32, 16],
        "excitations": 2,
        "seed": 0,
    }
    return Generator(**(values | changes))  # type: ignore[arg-type]


def make_discriminator(**changes: object) -> Discriminator:
    values = {
        "n_classes": 2,
        "image_size_px": 64,
        "channels": 1,
        "widths": [16, 32, 64, 128],
        "minibatch_std": True,
        "seed": 0,
    }
    return Discriminator(**(values | changes))  # type: ignore[arg-type]


TINY = {"image_size_px": 16, "widths": [8, 6, 4]}


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_by_hand() -> None:
    dense = 100 * 4096 + 4096
    convolutions = 9 * (256 * 128 + 128 * 64 + 64 * 32 + 32 * 16) + 9 * 16 + 1
    norms = 2 * 2 * (256 + 128 + 64 + 32 + 16)
    gates = (16 * 256 * 32 + 32) + (32 * 32 + 32) + (16 * 256 * 16 + 16) + (16 * 16 + 16)
    # 32 px is gated by the maps of 4 px, 64 px by those of 4 px too (four doublings before it)
    assert n_parameters(make_generator()) == dense + convolutions + norms + gates
    down = sum(9 * a * a + a + 16 * a * b + b + a * b for a, b in ((16, 32), (32, 64), (64, 128)))
    last = 9 * 129 * 128 + 128
    assert n_parameters(make_discriminator()) == 16 * 16 + 16 + down + last + 128 * 16 + 1 + 2 * 128


@pytest.mark.parametrize(
    ("size_px", "widths", "down"), [(64, [8, 8, 8, 4, 4], [4, 4, 8, 8]), (256, [8, 8, 8, 4, 4, 4, 2], [2, 4, 4, 4, 8, 8])]
)  # fmt: skip
def test_shapes_and_ranges(size_px: int, widths: list[int], down: list[int]) -> None:
    generator = make_generator(image_size_px=size_px, widths=widths)
    images = generator(generator.sample_latent(3, seed=0, start=0), torch.tensor([0, 1, 1]))
    assert (
        images.shape == (3, 1, size_px, size_px) and images.dtype == torch.float32 and images.abs().max() <= 1
    )
    assert make_discriminator(image_size_px=size_px, widths=down)(images, torch.tensor([0, 1, 1])).shape == (
        3,
    )


@pytest.mark.parametrize("n_classes", [None, 2])
def test_one_step_reaches_every_parameter(
    n_classes: int | None, step_reaches_every_parameter: Callable[[nn.Module], None]
) -> None:
    generator = make_generator(n_classes=n_classes, **{**TINY, "excitations": 1})
    discriminator = make_discriminator(n_classes=n_classes, image_size_px=16, widths=[4, 8])
    labels = None if n_classes is None else torch.tensor([0, 1, 0, 1])
    logits = discriminator(generator(generator.sample_latent(4, seed=0, start=0), labels), labels)
    (logits * torch.arange(1.0, 5.0)).sum().backward()
    step_reaches_every_parameter(generator)
    step_reaches_every_parameter(discriminator)


def test_a_class_and_its_weight_are_the_same_and_weights_blend() -> None:
    generator = make_generator(**{**TINY, "excitations": 0}).eval()
    for norm in (generator.start, *generator.norms):
        nn.init.normal_(norm.norm.shift, generator=torch.Generator().manual_seed(1))
    z = generator.sample_latent(2, seed=0, start=0)
    hard = generator(z, torch.tensor([0, 1]))
    torch.testing.assert_close(generator(z, torch.eye(2)), hard)
    assert not torch.allclose(generator(z, torch.tensor([1, 0])), hard)
    between = generator(z, torch.full((2, 2), 0.5))
    assert not torch.allclose(between, hard)


def test_a_gate_that_is_shut_shuts_its_maps() -> None:
    generator = make_generator(**{**TINY, "excitations": 1}).eval()
    z = generator.sample_latent(2, seed=0, start=0)
    nn.init.zeros_(generator.gates[0].excite.weight)
    nn.init.constant_(generator.gates[0].excite.bias, -1e4)
    images = generator(z, torch.tensor([0, 1]))
    torch.testing.assert_close(images, torch.zeros_like(images))  # to_image's bias is 0


def test_no_doubling_leaves_a_checkerboard() -> None:
    """Of constant maps, inner pixels are equal: a transposed convolution of even kernel and stride gives stripes."""
    generator = make_generator(**{**TINY, "excitations": 0}).eval()
    seen: list[torch.Tensor] = []
    generator.up[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    maps = torch.ones(1, 6, 16, 16)
    generator.up[-1](maps)
    inner = seen[0][:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inner, inner[..., :1, :1].expand_as(inner))


def test_weights_are_a_function_of_the_seed_and_leave_the_global_state() -> None:
    state = torch.get_rng_state()
    first, second, other = (make_generator(seed=s, **{**TINY, "excitations": 1}) for s in (0, 0, 1))
    assert torch.equal(first.dense.weight, second.dense.weight)
    assert not torch.equal(first.dense.weight, other.dense.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_mistakes_name_the_override() -> None:
    with pytest.raises(UserError, match=r"gan\.generator: its widths make 64 px .*got 128 px"):
        make_generator(image_size_px=128)
    with pytest.raises(UserError, match=r"gan\.generator\.excitations: got 4, expected 0 … 3"):
        make_generator(excitations=4)
    with pytest.raises(UserError, match=r"gan\.discriminator\.widths"):
        make_discriminator(image_size_px=32)
