"""CovidGAN: counts of every variant, shapes, gradients, and that the class is heard."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cxr.errors import UserError
from cxr.gan.covidgan import Discriminator, Generator
from cxr.gan.latent import normal_latents

TINY = {"image_size_px": 16, "widths": [8, 4]}


def make_generator(**changes: object) -> Generator:
    values = {
        "n_classes": 2,
        "latent_dim": 100,
        "latent_std": 0.02,
        "embedding_dim": 50,
        "image_size_px": 112,
        "channels": 3,
        "widths": [1024, 512, 256, 128],
        "seed": 0,
    }
    return Generator(**(values | changes))  # type: ignore[arg-type]


def make_discriminator(**changes: object) -> Discriminator:
    values = {
        "n_classes": 2,
        "image_size_px": 112,
        "channels": 3,
        "widths": [32, 64, 128, 256, 512],
        "strides": [2, 1, 2, 1, 2],
        "negative_slope": 0.2,
        "dropout": 0.5,
        "seed": 0,
    }
    return Discriminator(**(values | changes))  # type: ignore[arg-type]


def tiny_discriminator(**changes: object) -> Discriminator:
    return make_discriminator(**{**TINY, "strides": [2, 1], **changes})


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_parameter_counts_are_the_papers() -> None:
    assert n_parameters(make_generator()) == 22_298_666
    assert n_parameters(make_generator(n_classes=3)) == 22_298_716


@pytest.mark.parametrize(
    ("widths", "strides", "n_classes", "count"),
    [
        ([32, 64, 128, 256, 512], [2, 1, 2, 1, 2], 2, 1_871_619),
        ([32, 64, 128, 256, 512], [2, 1, 2, 1, 2], 3, 1_971_972),
        ([32, 64, 128, 256, 512], [1, 2, 2, 2, 2], 2, 1_645_827),
        ([64, 128, 256, 512], [1, 2, 1, 2], 2, 2_757_123),
    ],
)
def test_counts_of_the_discriminators_variants(
    widths: list[int], strides: list[int], n_classes: int, count: int
) -> None:
    assert n_parameters(make_discriminator(widths=widths, strides=strides, n_classes=n_classes)) == count


def test_shapes_and_ranges() -> None:
    generator = make_generator(n_classes=3)
    images = generator(generator.sample_latent(2, seed=0, start=0), torch.tensor([0, 2]))
    assert images.shape == (2, 3, 112, 112)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    real, classes = make_discriminator(n_classes=3)(images)
    assert (real.shape, classes.shape) == ((2,), (2, 3))
    assert real.dtype == classes.dtype == torch.float32


def test_maps_are_the_papers() -> None:
    generator, seen = make_generator(), []
    for layer in generator.norms:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[1:])))
    generator(generator.sample_latent(1, seed=0, start=0), torch.tensor([1]))
    assert seen == [(512, 14, 14), (256, 28, 28), (128, 56, 56)]


def test_noise_has_its_deviation() -> None:
    z = make_generator(**TINY).sample_latent(10, seed=2, start=3)
    torch.testing.assert_close(z, 0.02 * normal_latents(10, 100, seed=2, start=3))


def test_the_class_changes_the_image() -> None:
    generator = make_generator(**TINY, channels=1)
    z = generator.sample_latent(3, seed=0, start=0)
    one, other = (generator(z, torch.full((3,), label)) for label in (0, 1))
    assert one.shape == (3, 1, 16, 16)
    assert not torch.equal(one, other)


def test_impossible_layouts_name_the_override() -> None:
    with pytest.raises(UserError, match=r"gan\.generator\.widths"):
        make_generator(image_size_px=100)
    with pytest.raises(UserError, match=r"gan\.discriminator\.widths"):
        make_discriminator(image_size_px=100)
    for strides in ([2, 1], [2, 1, 2, 1, 3]):
        with pytest.raises(UserError, match=r"set gan\.discriminator\.strides="):
            make_discriminator(strides=strides)


# The batch norm that follows takes these away again: they are counted by the paper and learn nothing.
INERT = {"up.0.bias", "blocks.0.bias", "blocks.4.bias"}


def test_one_step_reaches_every_parameter() -> None:
    generator, discriminator = make_generator(**TINY), tiny_discriminator(dropout=0.0)
    labels = torch.tensor([0, 1, 0, 1])
    real, classes = discriminator(generator(generator.sample_latent(4, seed=0, start=0), labels))
    ((real * torch.arange(4.0)).sum() + nn.functional.cross_entropy(classes, labels)).backward()
    for network in (generator, discriminator):
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            assert name in INERT or parameter.grad.abs().sum() > 1e-6, name
        torch.optim.Adam(network.parameters(), lr=1e-3).step()
        after = dict(network.named_parameters())
        assert not [k for k in before.keys() - INERT if torch.equal(before[k], after[k])]


def test_weights_are_a_function_of_the_seed_and_leave_the_global_state() -> None:
    state = torch.get_rng_state()
    first, second, other = (make_generator(**TINY, seed=s) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.noise.weight, other.noise.weight)
    first_d, second_d, other_d = (tiny_discriminator(seed=s) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first_d.parameters(), second_d.parameters(), strict=True))
    assert not torch.equal(first_d.real.weight, other_d.real.weight)
    assert torch.equal(torch.get_rng_state(), state)
