"""What D is shown and penalised for: each switch by itself, repeatable, off by default, and on any of our GANs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cxr.callback.atomic_checkpoint import load_checkpoint
from cxr.errors import UserError
from cxr.gan.augment import ADA, DiffAugment
from cxr.loss.gan import discriminator_hinge, discriminator_wasserstein, generator_critic, gradient_penalty
from cxr.task.gan import GANTask
from cxr.task.regulariser import Regulariser, normalise_spectrum

Fit = Callable[..., GANTask]
Make = Callable[..., GANTask]
STRENGTHS: dict[str, Any] = {
    "brightness": 0.2,
    "contrast": 0.2,
    "translation": 0.125,
    "zoom": 0.0,
    "rotation_deg": 0.0,
    "cutout": 0.0,
}


def regulariser(**changes: Any) -> Regulariser:
    values: dict[str, Any] = {
        "spectral_norm": False,
        "r1_gamma": 0.0,
        "r1_every": 2,
        "penalty": None,
        "instance_noise": 0.0,
        "instance_noise_images": None,
        "augment": None,
    }
    return Regulariser(**(values | changes))


def ada(**changes: Any) -> ADA:
    rest: dict[str, Any] = {
        "target": 0.6,
        "ramp_images": 100,
        "every_steps": 2,
        "initial_p": 0.5,
        "max_p": 0.8,
    }
    return ADA(**STRENGTHS, **(rest | changes))


def everything() -> Regulariser:
    penalty = functools.partial(gradient_penalty, weight=1.0)
    return regulariser(
        spectral_norm=True, r1_gamma=1.0, penalty=penalty, instance_noise=0.1, instance_noise_images=100, augment=ada()
    )  # fmt: skip


def test_off_is_the_training_without(fit: Fit, make_task: Make, tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", max_epochs=1)
    off = fit(tmp_path / "off", max_epochs=1, task=make_task(regulariser=regulariser()))
    assert plain.state_dict().keys() == off.state_dict().keys()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, off.state_dict()[key]), key


SWITCHES: dict[str, Callable[[], dict[str, Any]]] = {
    "spectral norm": lambda: {"regulariser": regulariser(spectral_norm=True)},
    "r1": lambda: {"regulariser": regulariser(r1_gamma=1.0)},
    "instance noise": lambda: {"regulariser": regulariser(instance_noise=0.3)},
    "diffaugment": lambda: {"regulariser": regulariser(augment=DiffAugment(**STRENGTHS))},
    "ada": lambda: {"regulariser": regulariser(augment=ada())},
    "hinge": lambda: {"loss_d": discriminator_hinge, "loss_g": generator_critic},
    "wgan_gp": lambda: {
        "loss_d": discriminator_wasserstein,
        "loss_g": generator_critic,
        "regulariser": regulariser(penalty=functools.partial(gradient_penalty, weight=10.0)),
    },
}


@pytest.mark.parametrize("name", SWITCHES)
def test_each_switch_trains_and_changes_the_training(
    name: str, fit: Fit, make_task: Make, tmp_path: Path
) -> None:
    plain = fit(tmp_path / "plain", max_epochs=1)
    other = fit(tmp_path / "other", max_epochs=1, task=make_task(**SWITCHES[name]()))
    assert other.g_steps == plain.g_steps
    weights = [
        torch.cat([p.detach().flatten() for p in t.discriminator.parameters()]) for t in (plain, other)
    ]
    assert all(w.isfinite().all() for w in weights) and not torch.equal(*weights)


@pytest.mark.parametrize("steps_per_call", [1, 3])
def test_all_at_once_killed_and_resumed_equals_never_stopped(
    steps_per_call: int, fit: Fit, make_task: Make, tmp_path: Path
) -> None:
    def task() -> GANTask:
        return make_task(regulariser=everything(), steps_per_call=steps_per_call)

    fit(tmp_path / "straight", max_epochs=3, task=task())
    fit(tmp_path / "resumed", max_epochs=1, task=task())
    torch.manual_seed(99)
    fit(tmp_path / "resumed", max_epochs=3, task=task(), resume=True)
    one, other = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"]
        for name in ("straight", "resumed")
    )
    assert any("regulariser.augment.p" in key for key in one)
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def test_lazy_r1_counts_as_often_as_it_is_made_heavier() -> None:
    slope = torch.tensor(2.0)

    def judge(images: torch.Tensor) -> torch.Tensor:
        return images.sum(dim=(1, 2, 3)) * slope

    images = torch.zeros(4, 1, 1, 1)
    lazy = regulariser(r1_gamma=1.0, r1_every=4)
    found = [lazy.penalty(judge, images, images, step=k, seed=0).item() for k in range(8)]
    assert found == [8.0, 0, 0, 0, 8.0, 0, 0, 0]  # 4 x 1/2 x 2²
    every = regulariser(r1_gamma=1.0, r1_every=1)
    assert sum(found) == sum(every.penalty(judge, images, images, step=k, seed=0).item() for k in range(8))


def test_instance_noise_falls_to_nothing_and_is_a_function_of_its_seed() -> None:
    images = torch.zeros(2, 1, 64, 64)
    noisy = regulariser(instance_noise=0.5, instance_noise_images=1000)
    stds = [noisy.show(images, seed=1, images_seen=n).std().item() for n in (0, 500, 1000, 5000)]
    assert stds == pytest.approx([0.5, 0.25, 0.0, 0.0], rel=0.05)
    assert torch.equal(noisy.show(images, seed=1, images_seen=0), noisy.show(images, seed=1, images_seen=0))
    assert not torch.equal(
        noisy.show(images, seed=1, images_seen=0), noisy.show(images, seed=2, images_seen=0)
    )


def test_spectral_norm_is_the_largest_singular_value() -> None:
    state = torch.get_rng_state()
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 4))
    normalise_spectrum(network, 0)
    torch.set_rng_state(state)
    network.train()
    x = torch.randn(2, 3, 3, 3)
    for _ in range(300):  # a step of power iteration each
        network(x)
    for layer in (network[0], network[2]):
        weight: torch.Tensor = layer.weight  # type: ignore[assignment, union-attr]
        assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1.0, abs=1e-3)


def test_spectral_norm_begins_from_its_seed_and_leaves_the_global_state() -> None:
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(7)
        network = nn.Linear(30, 20)
        state = torch.get_rng_state()
        normalise_spectrum(network, seed)
        assert torch.equal(torch.get_rng_state(), state)
        networks.append(torch.cat([b.flatten() for b in network.buffers()]))
    assert torch.equal(networks[0], networks[1]) and not torch.equal(networks[0], networks[2])


def test_ada_is_told_what_d_says_of_real_images(fit: Fit, make_task: Make, tmp_path: Path) -> None:
    sure = ada(initial_p=0.0, target=0.001)
    fit(tmp_path / "sure", max_epochs=2, task=make_task(regulariser=regulariser(augment=sure)))
    unsure = ada(initial_p=0.5, target=0.999)
    fit(tmp_path / "unsure", max_epochs=2, task=make_task(regulariser=regulariser(augment=unsure)))
    assert sure.probability > 0.0 and unsure.probability < 0.5


def test_d_says_of_images_what_it_would_in_training_without_regulariser(
    fit: Fit, make_task: Make, make_data: Callable[[], Any], tmp_path: Path
) -> None:
    task = fit(tmp_path, max_epochs=1, task=make_task(regulariser=everything()))
    images = torch.from_numpy(make_data().images[:5])[:, None]
    found = task.judge_images(images)
    task.discriminator.eval()
    with torch.no_grad():
        expected = task.discriminator((images.float() / 127.5 - 1).expand(-1, 3, -1, -1))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"r1_gamma": -1.0}, r"task\.regulariser\.r1_gamma: got -1, expected 0 \(off\) or more"),
        ({"r1_every": 0}, r"task\.regulariser\.r1_every: got 0"),
        ({"instance_noise": -0.1}, r"task\.regulariser\.instance_noise"),
        ({"instance_noise_images": 0}, r"task\.regulariser\.instance_noise_images"),
    ],
)
def test_mistakes_name_the_override(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        regulariser(**changes)
