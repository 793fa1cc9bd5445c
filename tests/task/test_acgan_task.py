"""Class-conditional training: what a step does, whose classes, resuming, and sampling by class."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from cxr.callback.atomic_checkpoint import load_checkpoint
from cxr.data.module import CXRDataModule
from cxr.errors import UserError
from cxr.gan.covidgan import Discriminator, Generator
from cxr.loss.gan import class_cross_entropy, discriminator_bce, generator_bce
from cxr.task.acgan import ACGANTask
from cxr.task.by_class import class_seed, shares
from cxr.task.gan import GANTask, sample_images

Fit = Callable[..., ACGANTask]
NAMES = ["OTHER", "SICK", "NORMAL"]  # of the labels; the GAN is of the last two


def tiny_task(**changes: Any) -> ACGANTask:
    common = {"n_classes": 2, "image_size_px": 16, "channels": 1, "seed": 0}
    adam = functools.partial(torch.optim.Adam, lr=1e-3, fused=True)
    values: dict[str, Any] = {
        "generator": Generator(latent_dim=8, latent_std=1.0, embedding_dim=4, widths=[8, 4], **common),  # type: ignore[arg-type]
        "discriminator": Discriminator(
            widths=[4, 8], strides=[2, 2], negative_slope=0.2, dropout=0.1, **common
        ),  # type: ignore[arg-type]
        "loss_g": generator_bce,
        "loss_d": functools.partial(discriminator_bce, real_target=1.0),
        "loss_class": class_cross_entropy,
        "class_weight": 1.0,
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
    return ACGANTask(**(values | changes))


def tiny_data(columns: tuple[int, ...] = (1, 2)) -> CXRDataModule:
    """Bright SICK and dark NORMAL images, one after the other; 40 to train on and 16 to validate."""
    rng = np.random.default_rng(0)
    labels = np.zeros((56, 3), np.float32)
    labels[np.arange(56), np.array(columns)[np.arange(56) % len(columns)]] = 1.0
    images = np.where(labels[:, 1] == 1, 230, 20)[:, None, None] + rng.integers(0, 20, (56, 16, 16))
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


class Batches(lightning.LightningDataModule):
    def __init__(self, batches: list[dict[str, torch.Tensor]]) -> None:
        super().__init__()
        self.batches = batches
        self.labels = torch.cat([batch["label"] for batch in batches]).numpy()
        self.parts = {"train": np.arange(len(self.labels))}

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


def batch_of(labels: list[int]) -> dict[str, torch.Tensor]:
    images = np.random.default_rng(1).integers(0, 256, (len(labels), 1, 16, 16)).astype(np.uint8)
    return {"image": torch.from_numpy(images), "label": torch.eye(3)[labels]}


def run_steps(task: ACGANTask, batches: list[dict[str, torch.Tensor]]) -> None:
    lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1,
    ).fit(task, datamodule=Batches(batches))  # fmt: skip


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_a_step_written_out(weight: float) -> None:
    """One step of SGD against the same with torch's losses: D on real and fake with their classes, then G."""
    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    task = tiny_task(optimizer_g=sgd, optimizer_d=sgd, class_weight=weight)
    for module in task.discriminator.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    g, d = copy.deepcopy(task.generator), copy.deepcopy(task.discriminator)
    told: list[tuple[torch.Tensor, ...]] = []
    task.generator.register_forward_pre_hook(lambda module, inputs: told.append(inputs))
    batch = batch_of([1, 2, 2, 1, 2, 2, 2, 1])
    run_steps(task, [batch])
    ((z, fake_labels),) = told
    real_labels = torch.tensor([0, 1, 1, 0, 1, 1, 1, 0])  # in the order of the GAN's classes
    bce, ce = torch.nn.functional.binary_cross_entropy_with_logits, torch.nn.functional.cross_entropy
    real, fake = batch["image"].float() / 127.5 - 1, g(z, fake_labels)
    logits, classes = d(real)
    loss_d = bce(logits, torch.ones(8)) + weight * ce(classes, real_labels)
    logits, classes = d(fake.detach())
    loss_d = 0.5 * (loss_d + bce(logits, torch.zeros(8)) + weight * ce(classes, fake_labels))
    loss_d.backward()
    torch.optim.SGD(d.parameters(), lr=0.1).step()
    logits, classes = d(fake)
    (bce(logits, torch.ones(8)) + weight * ce(classes, fake_labels)).backward()
    torch.optim.SGD(g.parameters(), lr=0.1).step()
    for ours, theirs in ((task.generator, g), (task.discriminator, d)):
        for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, msg=name)


def test_classes_asked_for_are_equally_probable_and_new_in_every_step_and_rank() -> None:
    seen: list[torch.Tensor] = []
    for rank in (0, 1):
        task = tiny_task()
        task.generator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1].clone()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GANTask, "global_rank", rank)
            run_steps(task, [batch_of([1] * 200)] * 2)  # of one class, and both are asked for
    assert len({labels.numpy().tobytes() for labels in seen}) == 4
    for labels in seen:
        assert set(labels.tolist()) == {0, 1}
        assert 70 < int(labels.sum()) < 130


class KilledError(Exception):
    """Stands for kill -9."""


class Kill(Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 2 and batch_idx == 3:
            raise KilledError


@pytest.mark.slow  # test_gan_task.py asks it of the task that this one extends; tests/test_resume.py of every moment
def test_killed_and_resumed_equals_never_stopped(fit: Fit, tmp_path: Path) -> None:
    fit(tmp_path / "straight", max_epochs=4, task=tiny_task(), data=tiny_data())
    with pytest.raises(KilledError):
        fit(tmp_path / "killed", max_epochs=4, task=tiny_task(), data=tiny_data(), callbacks=[Kill()])
    torch.manual_seed(12345)
    fit(tmp_path / "killed", max_epochs=4, task=tiny_task(), data=tiny_data(), resume=True)
    one, other = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("straight", "killed")
    )
    assert one["gan"] == other["gan"]
    assert one["gan"]["conditional"] is True
    assert one["gan"]["classes"] == ["SICK", "NORMAL"]
    assert (one["gan"]["g_steps"], one["gan"]["images_seen"]) == (20, 160)
    assert one["state_dict"].keys() == other["state_dict"].keys()
    assert not [k for k, v in one["state_dict"].items() if not torch.equal(v, other["state_dict"][k])]
    logs = [(tmp_path / name / "metrics.csv").read_text() for name in ("straight", "killed")]
    assert logs[0] == logs[1]
    columns = logs[0].splitlines()[0].split(",")
    assert {"loss_d", "loss_g", "class_real", "class_fake", "kid_pixel4/val"} <= set(columns)
    assert (tmp_path / "straight" / "figures" / "samples-epoch-0004.png").is_file()


def test_it_learns_what_a_class_looks_like(fit: Fit, tmp_path: Path) -> None:
    """Bright and dark images: after some steps D names them, and G makes the one it is asked for."""
    adam = functools.partial(torch.optim.Adam, lr=5e-3, betas=(0.5, 0.999))
    task = fit(
        tmp_path,
        max_epochs=25,
        task=tiny_task(optimizer_g=adam, optimizer_d=adam, ema_half_life_images=None),
        data=tiny_data(),
        monitor=None,
    )
    bright, dark = task.sample(16, seed=0).float().mean(dim=(1, 2, 3)).split(8)
    assert bright.mean() > dark.mean() + 50


def test_sampling_goes_class_by_class_as_generate_does() -> None:
    task = tiny_task(ema_half_life_images=None)
    run_steps(task, [batch_of([1, 2, 1, 2])])
    images = task.sample(7, seed=5, start=2)
    assert images.shape == (7, 1, 16, 16)
    assert images.dtype == torch.uint8
    kwargs = {"start": 2, "device": torch.device("cpu")}
    sick = sample_images(task.generator, 4, seed=class_seed(5, "SICK"), block=4, label=0, **kwargs)  # type: ignore[arg-type]
    normal = sample_images(task.generator, 3, seed=class_seed(5, "NORMAL"), block=3, label=1, **kwargs)  # type: ignore[arg-type]
    assert torch.equal(images, torch.cat((sick, normal)))
    only_normal = task.sample(3, seed=5, start=2, label_counts=[9, 0, 4])
    assert torch.equal(only_normal, normal)
    assert task.sample(4, seed=5, label_counts=[9, 0, 0]).shape == (4, 1, 16, 16)  # neither class: equally


def test_shares() -> None:
    assert shares(32, [1, 1, 1]) == [11, 11, 10]
    assert shares(10, [3616, 10192, 1345]) == [2, 7, 1]
    assert shares(5, [0, 3]) == [0, 5]
    assert shares(0, [2, 3]) == [0, 0]


def test_class_seeds_differ() -> None:
    assert len({class_seed(s, name) for s in (0, 1) for name in ("A", "B")}) == 4


def test_images_of_no_class_or_of_two_are_refused_before_training(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"20 of 40 training images.*train_classes="):
        fit(tmp_path / "none", max_epochs=1, task=tiny_task(), data=tiny_data(columns=(0, 1)))
    data = tiny_data()
    data.labels[:, 1:] = 1.0
    with pytest.raises(UserError, match="40 of 40"):
        fit(tmp_path / "two", max_epochs=1, task=tiny_task(), data=data)


def test_networks_that_do_not_fit_name_the_override() -> None:
    with pytest.raises(
        UserError, match=r"generator\.n_classes: got 2, expected 3.*set gan\.generator\.n_classes=3"
    ):
        tiny_task(classes=NAMES)
    unconditional = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match=r"gan\.discriminator: .*n_classes=2, gan=covidgan or task=gan"):
        tiny_task(discriminator=unconditional)


def test_an_unconditional_task_refuses_a_conditional_generator(make_task: Callable[..., GANTask]) -> None:
    with pytest.raises(UserError, match="set task=acgan"):
        make_task(generator=tiny_task().generator)
