"""The DCGAN of Wang, Zhang, Zhao: the table's layers, counts, shapes, gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from cxr.errors import UserError
from cxr.gan.acrnet import Discriminator, Generator


def make_generator(**changes: object) -> Generator:
    values = {
        "latent_dim": 100,
        "image_size_px": 256,
        "channels": 3,
        "widths": [512, 256, 128, 64, 32, 16],
        "n_batch_norm": 3,
        "seed": 0,
    }
    return Generator(**(values | changes))  # type: ignore[arg-type]


def make_discriminator(**changes: object) -> Discriminator:
    values = {
        "image_size_px": 256,
        "channels": 3,
        "widths": [16, 32, 64, 128, 256, 512],
        "n_batch_norm": 3,
        "negative_slope": 0.2,
        "seed": 0,
    }
    return Discriminator(**(values | changes))  # type: ignore[arg-type]


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_parameter_counts_are_the_papers() -> None:
    assert n_parameters(make_generator()) == 3_615_232
    assert n_parameters(make_discriminator()) == 2_804_224


def test_layers_are_those_of_table_2() -> None:
    convs, norm = ["ConvTranspose2d"], ["BatchNorm2d"]
    assert [type(layer).__name__ for layer in make_generator().layers] == [
        *[*convs, *norm, "ReLU"] * 3,
        *[*convs, "ReLU"] * 3,
        *convs,  # and tanh
    ]
    assert [type(layer).__name__ for layer in make_discriminator().layers] == [
        *["Conv2d", "LeakyReLU"] * 3,
        *["Conv2d", *norm, "LeakyReLU"] * 3,
        "Conv2d",  # and the sigmoid of the loss
    ]


def test_shapes_and_ranges() -> None:
    generator = make_generator()
    images = generator(generator.sample_latent(2, seed=0, start=0))
    assert images.shape == (2, 3, 256, 256)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    logits = make_discriminator()(images)
    assert logits.shape == (2,)
    assert logits.dtype == torch.float32


TINY = {"image_size_px": 16, "widths": [4, 4], "n_batch_norm": 1}


def test_other_sizes_and_channels() -> None:
    generator = make_generator(**TINY, channels=1, latent_dim=7)
    images = generator(generator.sample_latent(3, seed=1, start=0))
    assert images.shape == (3, 1, 16, 16)
    assert make_discriminator(**TINY, channels=1)(images).shape == (3,)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image_size_px": 128}, r"make 256 px .* got 128 px; set gan\.{name}\.widths"),
        ({"widths": []}, r"gan\.{name}\.widths"),
        ({"n_batch_norm": 7}, r"set gan\.{name}\.n_batch_norm="),
    ],
)
def test_impossible_layouts_name_the_override(changes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told.replace("{name}", "generator")):
        make_generator(**changes)
    with pytest.raises(UserError, match=told.replace("{name}", "discriminator")):
        make_discriminator(**changes)


def test_one_step_reaches_every_parameter(step_reaches_every_parameter: Callable[[nn.Module], None]) -> None:
    generator, discriminator = make_generator(**TINY), make_discriminator(**TINY)
    logits = discriminator(generator(generator.sample_latent(4, seed=0, start=0)))
    (logits * torch.arange(4.0)).sum().backward()
    step_reaches_every_parameter(generator)
    step_reaches_every_parameter(discriminator)


def test_weights_are_a_function_of_the_seed_and_leave_the_global_state() -> None:
    state = torch.get_rng_state()
    for make in (make_generator, make_discriminator):
        first, second, other = (list(make(**TINY, seed=s).parameters()) for s in (0, 0, 1))  # type: ignore[operator]
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_first_weights_are_dcgans() -> None:
    layers = make_generator().layers
    assert float(layers[0].weight.detach().std()) == pytest.approx(0.02, rel=0.01)
    assert float(layers[1].weight.detach().mean()) == pytest.approx(1.0, abs=0.01)
