"""The diffusion model: counts, shapes, preconditioning by hand, and its sampler where the answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cxr.errors import UserError
from cxr.gan.diffusion import Denoiser, Generator, noise_levels
from cxr.gan.latent import normal_latents
from cxr.loss.diffusion import denoising_loss

TINY = {"image_size_px": 16, "widths": [8, 16], "embedding_dim": 8}


def make_generator(**changes: object) -> Generator:
    values = {
        "n_classes": 2,
        "image_size_px": 64,
        "channels": 1,
        "patch": 2,
        "widths": [32, 64, 128],
        "n_blocks": 1,
        "embedding_dim": 128,
        "sigma_data": 0.5,
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "rho": 7.0,
        "n_steps": 20,
        "seed": 0,
    }
    return Generator(**(values | changes))  # type: ignore[arg-type]


class Gaussian(nn.Module):
    """The best denoiser of images whose pixels are N(mean, std²), each by itself: the mean of what it may have been."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.variance, self.calls = mean, std**2, 0

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        s = sigma.double().view(-1, 1, 1, 1).square()
        return (self.variance * noisy + s * self.mean) / (self.variance + s)


class Constant(nn.Module):
    """Returns its input, or nothing, and remembers what it was given."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, level: Tensor, labels: Tensor) -> Tensor:
        self.seen += [x, level]
        return self.share * x


def test_parameter_count() -> None:
    assert sum(p.numel() for p in make_generator().parameters()) == 1_120_452


def test_shapes_ranges_and_latents() -> None:
    generator = make_generator(**TINY, n_classes=3, channels=2, n_steps=2)
    assert generator.latent_dim == 2 * 16 * 16
    z = generator.sample_latent(3, seed=1, start=0)
    assert torch.equal(z[2:], normal_latents(1, 512, seed=1, start=2))
    with torch.no_grad():
        images = generator(z, torch.tensor([0, 2, 1]))
    assert images.shape == (3, 2, 16, 16)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1


@pytest.mark.parametrize(("patch", "widths", "n_blocks"), [(1, [8], 1), (2, [8, 16], 2), (4, [8, 16, 8], 1)])
def test_every_layout_keeps_the_size(patch: int, widths: list[int], n_blocks: int) -> None:
    generator = make_generator(**TINY | {"widths": widths}, patch=patch, n_blocks=n_blocks)
    noisy = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert generator.denoiser(noisy, torch.tensor([0.1, 3.0]), torch.tensor([0, 1])).shape == noisy.shape


def test_one_step_reaches_every_parameter(step_reaches_every_parameter: Callable[[nn.Module], None]) -> None:
    generator = make_generator(**TINY)
    noisy = normal_latents(4, 256, seed=0, start=0).view(4, 1, 16, 16)
    denoised = generator.denoiser(noisy, torch.tensor([0.1, 0.3, 1.0, 5.0]), torch.tensor([0, 1, 1, 0]))
    (denoised * noisy.roll(1, 0)).sum().backward()
    step_reaches_every_parameter(generator)


def test_class_and_noise_level_are_heard() -> None:
    network = make_generator(**TINY).denoiser.network
    assert isinstance(network, nn.Module)
    x = normal_latents(1, 256, seed=0, start=0).view(1, 4, 8, 8)
    told = {(level, label): network(x, torch.tensor([level]), torch.tensor([label]))
            for level in (-1.0, 0.5) for label in (0, 1)}  # fmt: skip
    answers = list(told.values())
    assert all(not torch.equal(a, b) for i, a in enumerate(answers) for b in answers[:i])


def test_weights_are_a_function_of_the_seed_and_leave_the_global_state() -> None:
    state = torch.get_rng_state()
    first, second, other = (make_generator(**TINY, seed=s) for s in (0, 0, 1))
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(
        not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True) if a.any()
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_preconditioning_by_hand() -> None:
    """At sigma = sigma_data the image is taken half from the noisy one; the network sees it divided by sqrt(2) sigma."""
    noisy = torch.arange(64.0).view(1, 1, 8, 8) / 64
    labels, sigma = torch.zeros(1, dtype=torch.long), torch.tensor([0.5])
    silent, copy = Constant(0.0), Constant(1.0)
    torch.testing.assert_close(Denoiser(silent, 2, 0.5)(noisy, sigma, labels), 0.5 * noisy)
    torch.testing.assert_close(
        Denoiser(copy, 2, 0.5)(noisy, sigma, labels), noisy
    )  # 1/2 + (0.5/√2) · 1/(0.5·√2)
    seen, level = copy.seen
    assert seen.shape == (1, 4, 4, 4)
    torch.testing.assert_close(seen[0, :, 0, 0], noisy[0, 0, :2, :2].flatten() / (0.5 * math.sqrt(2)))
    torch.testing.assert_close(level, torch.tensor([math.log(0.5) / 4]))


@pytest.mark.parametrize("sigma", [0.01, 0.5, 20.0])
def test_a_network_that_says_nothing_begins_with_a_loss_of_one(sigma: float) -> None:
    """Of images with the variance that was told: the expected error of what the preconditioning takes from the noisy."""
    images, noise = (0.5 * normal_latents(64, 64, seed=0, start=0), normal_latents(64, 64, seed=1, start=0))
    images, noise = images.view(64, 1, 8, 8), noise.view(64, 1, 8, 8)
    levels = torch.full((64,), sigma)
    denoised = Denoiser(Constant(0.0), 2, 0.5)(images + sigma * noise, levels, torch.zeros(64))
    assert denoising_loss(denoised, images, levels, sigma_data=0.5).item() == pytest.approx(1, abs=0.08)


def test_loss_by_hand() -> None:
    one, levels = torch.ones(2, 1, 4, 4), torch.tensor([0.5, 1.0])
    # (0.25 + 0.25) / 0.0625 = 8 and (1 + 0.25) / 0.25 = 5
    assert denoising_loss(one, 0 * one, levels, sigma_data=0.5).item() == pytest.approx((8 + 5) / 2)


def test_noise_levels_by_hand() -> None:
    assert noise_levels(3, 1.0, 9.0, 1.0) == pytest.approx([9, 5, 1, 0])
    assert noise_levels(3, 1.0, 9.0, 2.0) == pytest.approx([9, 4, 1, 0])
    assert noise_levels(1, 1.0, 9.0, 2.0) == pytest.approx([9, 0])


def gaussian_error(n_steps: int) -> float:
    """Return how far samples of N(0.1, 0.2²) are from what the exact flow makes of their latents."""
    generator = make_generator(**TINY, n_steps=n_steps, sigma_min=0.001)
    generator.denoiser = Gaussian(0.1, 0.2)
    z = generator.sample_latent(50, seed=3, start=0).double()
    images = generator(z, torch.zeros(50, dtype=torch.long)).flatten(1)
    assert generator.denoiser.calls == n_steps
    # dx/dσ = (x - D(x, σ)) / σ is solved by x - mean ∝ sqrt(std² + σ²)
    exact = 0.1 + (80 * z - 0.1) * 0.2 / math.sqrt(0.2**2 + 80**2)
    if n_steps >= 80:  # the distribution itself: 12,800 pixels
        assert images.mean().item() == pytest.approx(0.1, abs=0.006)
        assert images.std().item() == pytest.approx(0.2, rel=0.03)
    return float((images - exact).abs().max())


def test_sampler_is_exact_for_gaussians_and_of_second_order() -> None:
    errors = {n: gaussian_error(n) for n in (20, 40, 80, 160)}
    assert errors[160] < 1e-3
    assert (
        errors[40] / errors[80] > 3
    )  # a first-order sampler halves its error, a second-order one quarters it


def test_images_are_a_function_of_their_latents_alone() -> None:
    generator = make_generator(**TINY, n_steps=3)
    z, labels = generator.sample_latent(4, seed=0, start=0), torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        one, again, other = (
            generator(z, labels), generator(z, labels), generator(z, 1 - labels)
        )  # fmt: skip
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"widths": [32, 60]}, r"set gan\.generator\.widths=\[32,64,128\]"),
        ({"patch": 3}, r"set gan\.generator\.patch=2"),
        ({"widths": [8, 8, 8, 8, 8, 8, 8]}, r"gan\.generator\.widths"),
        ({"sigma_min": 0.0}, r"set gan\.generator\.sigma_max=80"),
        ({"n_steps": 0}, r"n_steps=0"),
    ],
)
def test_impossible_layouts_name_the_override(changes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        make_generator(**changes)
