"""Projection: finds the latent of an image that the generator made, and leaves the generator alone."""

from __future__ import annotations

import functools
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxr.data.convert import to_uint8
from cxr.evaluation.project import Projection, passes_gradients, project
from cxr.gan.covidgan import Generator as Conditional
from cxr.gan.salehinejad import Generator as Uniform
from cxr.gan.talukdar import Generator
from cxr.metric.pixel_distance import rms

CPU = torch.device("cpu")
TALUKDAR: dict[str, Any] = {
    "latent_dim": 4, "image_size_px": 16, "channels": 3, "widths": [8, 8], "negative_slope": 0.2, "init": "glorot", "seed": 5,
}  # fmt: skip


def pixels(generator: nn.Module, z: Tensor, *labels: Tensor) -> Any:
    with torch.no_grad():
        return to_uint8(generator.eval()(z, *labels))[:, 0].numpy()


def livened(generator: nn.Module) -> nn.Module:
    """A generator with larger weights: first ones make images that are all nearly gray."""
    with torch.no_grad():
        for weight in generator.parameters():
            if weight.ndim > 1:
                weight.mul_(3.0)
    return generator


run = functools.partial(project, labels=None, law="normal", scale=1.0, steps=60, device=CPU)


def test_finds_its_own_images_again_from_elsewhere() -> None:
    generator = livened(Generator(**TALUKDAR))
    z = cast(Any, generator).sample_latent(11, seed=1, start=0)
    images = pixels(generator, z[:2])
    starts = z[2:10].view(2, 4, 4)
    calls: list[int] = []
    found = run(generator, images, starts, advance=lambda: calls.append(1))
    at_start = pixels(generator, starts.view(8, 4)).reshape(2, 4, 16, 16)
    assert (rms(at_start, images[:, None]).min(axis=1) > 5).all(), "the starts are far"
    assert (rms(found.images, images) < 2).all()
    assert (found.objective[:, 1] < 0.2 * found.objective[:, 0]).all()
    np.testing.assert_array_equal(found.images, pixels(generator, found.latents))
    assert len(calls) == 60


def test_a_start_that_is_the_image_stays() -> None:
    generator = livened(Generator(**TALUKDAR))
    z = cast(Any, generator).sample_latent(3, seed=1, start=0)
    found = run(generator, pixels(generator, z[:1]), z[None], steps=5)
    assert found.start.tolist() == [0]
    assert rms(found.images[0], pixels(generator, z[:1])[0]) < 1
    assert found.objective[0, 1] <= found.objective[0, 0] + 1e-6  # the last bits depend on the batch


def test_same_arguments_same_latents_and_the_generator_is_left_alone() -> None:
    generator = livened(Generator(**TALUKDAR)).train()
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    z = cast(Any, generator).sample_latent(4, seed=1, start=0)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16), dtype=np.uint8)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    one, two = (run(generator, images, z.view(2, 2, 4), steps=8) for _ in range(2))
    assert torch.equal(one.latents, two.latents)
    assert torch.equal(state, torch.random.get_rng_state())
    assert generator.training and all(p.grad is None for p in generator.parameters())
    assert all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())


def test_latents_stay_where_the_generator_was_trained() -> None:
    images = np.zeros((1, 16, 16), np.uint8)  # black: farther than the generator goes
    images[:, ::2] = 255
    generator = livened(Generator(**TALUKDAR))
    near = run(generator, images, cast(Any, generator).sample_latent(1, seed=0, start=0)[None], steps=60)
    assert float(near.latents.norm()) < 4.3  # chi(4) at 99.9 %: 4.297
    uniform = livened(Uniform(latent_dim=6, image_size_px=16, channels=1, widths=[8, 4], seed=2))
    start = cast(Any, uniform).sample_latent(1, seed=0, start=0)[None]
    held = run(uniform, images, start, law="uniform", steps=40)
    assert float(held.latents.abs().max()) <= 1


def test_the_class_is_told_and_the_scale_is_the_generators() -> None:
    generator = livened(
        Conditional(n_classes=2, latent_dim=4, latent_std=0.02, embedding_dim=3, image_size_px=16, channels=1,
                    widths=[8, 8], seed=1)
    )  # fmt: skip
    with torch.no_grad():
        cast(Any, generator).noise.weight.mul_(50.0)  # else latents of 0.02 change nothing
        cast(Any, generator).embedding.weight.mul_(50.0)
    z = cast(Any, generator).sample_latent(6, seed=1, start=0)
    images = pixels(generator, z[:2], torch.tensor([0, 1]))

    def projected(labels: list[int]) -> Projection:
        return run(generator, images, z[2:].view(2, 2, 4), labels=labels, scale=0.02)

    right, wrong = projected([0, 1]), projected([1, 0])
    assert (rms(right.images, images) < rms(wrong.images, images)).all()
    assert float(right.latents.abs().max()) < 0.02 * 4.3


def test_a_generator_without_gradients_is_known() -> None:
    class Cut(Generator):
        @torch.no_grad()
        def forward(self, z: Tensor) -> Tensor:
            return super().forward(z)

    z = torch.zeros(1, 4)
    assert passes_gradients(Generator(**TALUKDAR), z, None, CPU)
    assert passes_gradients(Generator(**TALUKDAR).requires_grad_(False), z, None, CPU)
    assert not passes_gradients(Cut(**TALUKDAR), z, None, CPU)
    with torch.inference_mode(), pytest.raises(RuntimeError):
        run(Generator(**TALUKDAR), np.zeros((1, 16, 16), np.uint8), z[None])
