"""The DCGAN of Salehinejad et al.: what the paper states, counts, shapes, gradients, latents."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from cxr.errors import UserError
from cxr.gan.latent import uniform_latents
from cxr.gan.salehinejad import Discriminator, Generator
from cxr.task.sampling import sample_latent

WIDTHS = [1024, 512, 256, 128, 64, 32]
TINY = {"image_size_px": 16, "widths": [8, 4]}


def make_generator(**changes: object) -> Generator:
    values = {"latent_dim": 128, "image_size_px": 256, "channels": 1, "widths": WIDTHS, "seed": 0}
    return Generator(**(values | changes))  # type: ignore[arg-type]


def make_discriminator(**changes: object) -> Discriminator:
    values = {
        "image_size_px": 256,
        "channels": 1,
        "widths": WIDTHS[::-1],
        "negative_slope": 0.2,
        "seed": 0,
    }
    return Discriminator(**(values | changes))  # type: ignore[arg-type]


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_parameter_counts_by_hand() -> None:
    inner = sum(25 * a * b for a, b in pairwise(WIDTHS))
    dense, norms, image = 128 * 1024 * 4 * 4, 2 * sum(WIDTHS), 25 * 32 + 1
    assert n_parameters(make_generator()) == dense + norms + inner + image == 19_561_185
    first, norms, last = 25 * 32 + 32, 2 * sum(WIDTHS[:-1]), 1024 * 4 * 4 + 1
    assert n_parameters(make_discriminator()) == first + inner + norms + last == 17_480_385


def test_what_the_paper_states() -> None:
    generator = make_generator()
    assert generator.latent_dim == 128
    maps: list[torch.Size] = []
    generator.layers[1].register_forward_hook(lambda module, inputs, output: maps.append(output.shape))
    images = generator(generator.sample_latent(2, seed=0, start=0))
    assert maps == [(2, 1024, 4, 4)]
    assert images.shape == (2, 1, 256, 256)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert sum(isinstance(layer, nn.ConvTranspose2d) for layer in generator.modules()) == 6
    discriminator = make_discriminator()
    assert sum(isinstance(layer, nn.Conv2d) for layer in discriminator.modules()) == 6
    assert discriminator(images).shape == (2,)


def test_latents_are_uniform() -> None:
    z = make_generator(**TINY).sample_latent(500, seed=2, start=3)
    assert torch.equal(z, uniform_latents(500, 128, seed=2, start=3))
    assert -1 <= float(z.min()) < -0.99 and 0.99 < float(z.max()) <= 1


def test_batch_norm_everywhere_but_at_image_and_input() -> None:
    up = [type(layer).__name__ for layer in make_generator().layers]
    assert up == ["Linear", "Unflatten", *["BatchNorm2d", "ReLU", "ConvTranspose2d"] * 6]
    down = [type(layer).__name__ for layer in make_discriminator().layers]
    assert down == ["Conv2d", "LeakyReLU", *["Conv2d", "BatchNorm2d", "LeakyReLU"] * 5, "Flatten", "Linear"]


def test_other_sizes_and_channels() -> None:
    generator = make_generator(**TINY, channels=3, latent_dim=7)
    images = generator(generator.sample_latent(3, seed=1, start=0))
    assert images.shape == (3, 3, 16, 16)
    assert make_discriminator(**TINY, channels=3)(images).shape == (3,)


def test_impossible_size_names_the_override() -> None:
    with pytest.raises(UserError, match=r"gan\.generator\.widths"):
        make_generator(image_size_px=100)
    with pytest.raises(UserError, match=r"gan\.discriminator\.widths"):
        make_discriminator(image_size_px=100)


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


def test_truncated_latents_are_uniform_over_less() -> None:
    generator = make_generator(**TINY, latent_dim=50)
    z = sample_latent(generator, 100, seed=1, start=3, truncation=0.5)
    assert torch.equal(z, 0.5 * generator.sample_latent(100, seed=1, start=3))
