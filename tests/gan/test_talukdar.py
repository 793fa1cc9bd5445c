"""The networks of Talukdar et al.: shapes, counts, gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from cxr.errors import UserError
from cxr.gan.talukdar import Discriminator, Generator


def make_generator(**changes: object) -> Generator:
    values = {
        "latent_dim": 100,
        "image_size_px": 64,
        "channels": 3,
        "widths": [128, 128, 256, 512],
        "negative_slope": 0.2,
        "init": "glorot",
        "seed": 0,
    }
    return Generator(**(values | changes))  # type: ignore[arg-type]


def make_discriminator(**changes: object) -> Discriminator:
    values = {
        "image_size_px": 64,
        "channels": 3,
        "widths": [64, 128, 128],
        "negative_slope": 0.2,
        "dropout": 0.2,
        "init": "glorot",
        "seed": 0,
    }
    return Discriminator(**(values | changes))  # type: ignore[arg-type]


def n_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_parameter_counts_are_the_papers() -> None:
    assert n_parameters(make_generator()) == 3_750_275
    assert n_parameters(make_discriminator()) == 404_801


def test_shapes_and_ranges() -> None:
    generator = make_generator()
    images = generator(generator.sample_latent(2, seed=0, start=0))
    assert images.shape == (2, 3, 64, 64)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert make_discriminator()(images).shape == (2,)


def test_output_is_the_papers_sigmoid_in_another_unit() -> None:
    generator = make_generator(widths=[4, 4])
    z = generator.sample_latent(2, seed=0, start=0)
    seen: list[torch.Tensor] = []
    generator.to_image.register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch.testing.assert_close(generator(z), 2 * torch.sigmoid(seen[0]) - 1)


def test_biases_by_themselves_change_nothing() -> None:
    generator = make_generator(widths=[6, 5, 4])
    for layer in generator.up:
        torch.nn.init.normal_(layer.bias)
    z = generator.sample_latent(2, seed=0, start=0)
    x = generator.dense(z).view(2, 16, 16, 6).permute(0, 3, 1, 2)
    for layer in generator.up:
        x = torch.nn.functional.leaky_relu(layer(x), 0.2)
    torch.testing.assert_close(generator(z), torch.tanh(generator.to_image(x) / 2))


def test_other_sizes_and_channels() -> None:
    generator = make_generator(widths=[4, 4, 4], image_size_px=32, channels=1, latent_dim=7)
    images = generator(generator.sample_latent(3, seed=1, start=0))
    assert images.shape == (3, 1, 32, 32)
    assert make_discriminator(widths=[4], image_size_px=32, channels=1)(images).shape == (3,)


@pytest.mark.parametrize("size", [4, 60])
def test_impossible_size_names_the_override(size: int) -> None:
    with pytest.raises(UserError, match=r"gan\.generator\.widths"):
        make_generator(image_size_px=size)


def test_one_step_reaches_every_parameter(step_reaches_every_parameter: Callable[[nn.Module], None]) -> None:
    generator, discriminator = make_generator(widths=[8, 8, 8, 8]), make_discriminator(widths=[8, 8, 8])
    discriminator(generator(generator.sample_latent(4, seed=0, start=0))).sum().backward()
    step_reaches_every_parameter(generator)
    step_reaches_every_parameter(discriminator)


def test_weights_are_a_function_of_the_seed_and_leave_the_global_state() -> None:
    state = torch.get_rng_state()
    first, second, other = (make_generator(widths=[4, 4], seed=s) for s in (0, 0, 1))
    assert torch.equal(first.dense.weight, second.dense.weight)
    assert not torch.equal(first.dense.weight, other.dense.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_glorot_bounds_are_those_of_keras() -> None:
    layer = make_generator().up[2]  # Keras kernel (4, 4, 512, 256): fans 16·512 and 16·256
    limit = (6 / (16 * 256 + 16 * 512)) ** 0.5
    assert layer.weight.abs().max() <= limit
    assert layer.weight.abs().max() > 0.999 * limit
    assert not layer.bias.any()
