"""Training by projection: D hears the class, images follow it, resuming, and what does not fit is refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

from cxr.callback.atomic_checkpoint import load_checkpoint
from cxr.data.module import CXRDataModule
from cxr.errors import UserError
from cxr.gan import covidgan
from cxr.gan.strong import Discriminator, Generator
from cxr.loss.gan import discriminator_hinge, generator_critic
from cxr.task.acgan import ACGANTask
from cxr.task.gan import GANTask
from cxr.task.projection import ProjectionGANTask

Fit = Callable[..., lightning.LightningModule]
NAMES = ["OTHER", "SICK", "NORMAL"]  # of the labels; the GAN is of the last two
SIDE: dict[str, Any] = {"image_size_px": 16, "channels": 1, "seed": 0}


def tiny_task(**changes: Any) -> ProjectionGANTask:
    adam = functools.partial(torch.optim.Adam, lr=2e-3, betas=(0.0, 0.99), fused=True)
    values: dict[str, Any] = {
        "generator": Generator(n_classes=2, latent_dim=8, widths=[16, 8, 8], excitations=1, **SIDE),
        "discriminator": Discriminator(n_classes=2, widths=[8, 16], minibatch_std=True, **SIDE),
        "loss_g": generator_critic,
        "loss_d": discriminator_hinge,
        "optimizer_g": adam,
        "optimizer_d": adam,
        "clip_grad_norm": None,
        "accumulate": 1,
        "ema_half_life_images": 50,
        "ema_rampup": 0.5,
        "channels_last": True,
        "classes": ["SICK", "NORMAL"],
        "label_names": NAMES,
        "seed": 0,
    }
    return ProjectionGANTask(**(values | changes))


def tiny_data() -> CXRDataModule:
    """Bright SICK and dark NORMAL images, one after the other; 40 to train on and 16 to validate."""
    rng = np.random.default_rng(0)
    labels = np.zeros((56, 3), np.float32)
    labels[np.arange(56), 1 + np.arange(56) % 2] = 1.0
    images = np.where(labels[:, 1] == 1, 200, 60)[:, None, None] + rng.integers(0, 20, (56, 16, 16))
    return CXRDataModule(
        images=images.astype(np.uint8),
        labels=labels,
        parts={"train": np.arange(40), "val": np.arange(40, 56)},
        batch_size=8,
        eval_batch_size=8,
        num_workers=0,
        drop_last=False,
        seed=0,
    )


def test_it_learns_what_a_class_looks_like_and_d_who_is_whose(fit: Fit, tmp_path: Path) -> None:
    task = tiny_task()
    fit(tmp_path, max_epochs=25, task=task, data=tiny_data())
    images = task.sample(20, seed=1).float()
    sick, normal = images[:10].mean(), images[10:].mean()
    assert sick > normal + 60, (sick, normal)
    real = torch.from_numpy(tiny_data().images[40:])[:, None]
    labels = torch.from_numpy(tiny_data().labels[40:])
    swapped = labels[:, [0, 2, 1]]
    assert task.judge_images(real, labels).mean() > task.judge_images(real, swapped).mean()


def test_resumed_equals_never_stopped(fit: Fit, tmp_path: Path) -> None:
    fit(tmp_path / "straight", max_epochs=3, task=tiny_task(), data=tiny_data())
    fit(tmp_path / "resumed", max_epochs=1, task=tiny_task(), data=tiny_data())
    fit(tmp_path / "resumed", max_epochs=3, task=tiny_task(), data=tiny_data(), resume=True)
    one, other = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"]
        for name in ("straight", "resumed")
    )
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def test_real_and_fake_are_shown_apart_where_a_batch_is_looked_at() -> None:
    assert tiny_task()._two_passes  # the minibatch statistic
    discriminator = Discriminator(n_classes=2, widths=[8, 16], minibatch_std=False, **SIDE)
    assert not tiny_task(discriminator=discriminator)._two_passes


def test_heads_and_tasks_that_do_not_fit_name_the_override() -> None:
    with pytest.raises(UserError, match=r"gan\.discriminator: .*set gan\.discriminator\.n_classes=2"):
        tiny_task(discriminator=Discriminator(n_classes=None, widths=[8, 16], minibatch_std=True, **SIDE))
    naming = covidgan.Discriminator(
        n_classes=2, widths=[4, 8], strides=[2, 2], negative_slope=0.2, dropout=0.0, **SIDE
    )
    with pytest.raises(UserError, match=r"gan\.discriminator\.head=projection"):
        tiny_task(discriminator=naming)
    told = tiny_task()
    common: dict[str, Any] = {
        "loss_g": told.loss_g, "loss_d": told.loss_d, "optimizer_g": told.optimizer_g, "optimizer_d": told.optimizer_d,
        "clip_grad_norm": None, "accumulate": 1, "ema_half_life_images": None, "ema_rampup": None,
        "channels_last": False, "classes": ["SICK", "NORMAL"], "seed": 0,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"gan\.discriminator\.head=auxiliary"):
        ACGANTask(
            generator=told.generator, discriminator=told.discriminator, label_names=NAMES, class_weight=1.0,
            loss_class=torch.nn.functional.cross_entropy, **common,
        )  # fmt: skip
    with pytest.raises(UserError, match=r"gan\.generator: wants to be told a class"):
        GANTask(generator=told.generator, discriminator=told.discriminator, **common)
