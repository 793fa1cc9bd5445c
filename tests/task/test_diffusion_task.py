"""Training a diffusion model: a step written out, resuming, what is left out, and what comes after the training."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from cxr.callback.atomic_checkpoint import load_checkpoint
from cxr.callback.checkpoints import CheckpointFiles
from cxr.callback.gan_alarm import GANAlarm
from cxr.data.module import CXRDataModule
from cxr.errors import UserError
from cxr.evaluation.synthesize import load_generators
from cxr.gan import covidgan
from cxr.gan.diffusion import Generator
from cxr.gan.latent import mix_seed, normal_latents
from cxr.task.by_class import class_seed
from cxr.task.diffusion import DiffusionTask
from cxr.task.gan import GANTask
from cxr.task.sampling import sample_images
from cxr.tracking.identity import job_type

Fit = Callable[..., DiffusionTask]
NAMES = ["OTHER", "SICK", "NORMAL"]  # of the labels; the model is of the last two


def tiny_generator(**changes: Any) -> Generator:
    values: dict[str, Any] = {
        "n_classes": 2,
        "image_size_px": 16,
        "channels": 1,
        "patch": 4,
        "widths": [8, 16],
        "n_blocks": 1,
        "embedding_dim": 16,
        "sigma_data": 0.5,
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "rho": 7.0,
        "n_steps": 8,
        "seed": 0,
    }
    return Generator(**(values | changes))


def tiny_task(**changes: Any) -> DiffusionTask:
    values: dict[str, Any] = {
        "generator": tiny_generator(),
        "optimizer": functools.partial(torch.optim.Adam, lr=3e-3, fused=True),
        "p_mean": -0.5,
        "p_std": 1.2,
        "ema_half_life_images": 50,
        "ema_rampup": 0.5,
        "channels_last": True,
        "classes": ["SICK", "NORMAL"],
        "label_names": NAMES,
        "seed": 0,
    }
    return DiffusionTask(**(values | changes))


def tiny_data(columns: tuple[int, ...] = (1, 2)) -> CXRDataModule:
    """Bright SICK and dark NORMAL images, one after the other; 40 to train on and 16 to validate."""
    rng = np.random.default_rng(0)
    labels = np.zeros((56, 3), np.float32)
    labels[np.arange(56), np.array(columns)[np.arange(56) % len(columns)]] = 1.0
    images = np.where(labels[:, 1] == 1, 220, 40)[:, None, None] + rng.integers(0, 20, (56, 16, 16))
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


def batch_of(labels: list[int]) -> dict[str, torch.Tensor]:
    images = np.random.default_rng(1).integers(0, 256, (len(labels), 1, 16, 16)).astype(np.uint8)
    return {"image": torch.from_numpy(images), "label": torch.eye(3)[labels]}


def run_steps(task: DiffusionTask, batches: list[dict[str, torch.Tensor]], **trainer: Any) -> None:
    lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, **trainer,
    ).fit(task, torch.utils.data.DataLoader(batches, batch_size=None))  # type: ignore[arg-type, unused-ignore]  # fmt: skip


def test_a_step_written_out() -> None:
    """One step of SGD against the same by hand: which noise, which levels, which classes, and the average after it."""
    task = tiny_task(optimizer=functools.partial(torch.optim.SGD, lr=0.1))
    by_hand = copy.deepcopy(task.generator)
    before = copy.deepcopy(task.generator.state_dict())
    batch = batch_of([1, 2, 2, 1, 2, 2, 2, 1])
    run_steps(task, [batch])
    sigma = (normal_latents(8, 1, seed=mix_seed(0, "levels", 0), start=0).flatten() * 1.2 - 0.5).exp()
    noise = normal_latents(8, 256, seed=mix_seed(0, "noise", 0), start=0).view(8, 1, 16, 16)
    real = batch["image"].float() / 127.5 - 1
    labels = torch.tensor([0, 1, 1, 0, 1, 1, 1, 0])  # in the order of the model's classes
    denoised = by_hand.denoiser(real + noise * sigma.view(-1, 1, 1, 1), sigma, labels)
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    ((denoised - real).square().flatten(1).mean(1) * weight).mean().backward()
    torch.optim.SGD(by_hand.parameters(), lr=0.1).step()
    after = by_hand.state_dict()
    decay = 0.5 ** (8 / min(50, 0.5 * 8))
    assert task.generator_ema is not None
    for name, value in task.generator.state_dict().items():
        torch.testing.assert_close(value, after[name], msg=name)
        average = decay * before[name] + (1 - decay) * value
        torch.testing.assert_close(task.generator_ema.state_dict()[name], average, msg=name)
    assert (task.g_steps, task.images_seen, task.batches_seen) == (1, 8, 1)


def test_processes_draw_what_one_would_and_batches_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny_task()
    whole = task._normal("noise", 6, 5)
    monkeypatch.setattr(DiffusionTask, "global_rank", 1)
    assert torch.equal(whole[3:], task._normal("noise", 3, 5))
    task.batches_seen = 1
    assert not torch.equal(whole[3:], task._normal("noise", 3, 5))


class KilledError(Exception):
    """Stands for kill -9."""


class Kill(Callback):
    """Save within an epoch where a step is whole, die some batches later."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        files = trainer.checkpoint_callback
        assert isinstance(files, CheckpointFiles)
        files.every_n_minutes = 0.0 if trainer.current_epoch == 2 and batch_idx < 3 else None
        if (trainer.current_epoch, batch_idx) == (2, 4):
            raise KilledError


@pytest.mark.parametrize("accumulate", [1, 2])
def test_killed_and_resumed_equals_never_stopped(accumulate: int, fit: Fit, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_epochs": 4, "accumulate_grad_batches": accumulate, "every_n_images": 60}
    fit(tmp_path / "straight", task=tiny_task(), data=tiny_data(), **options)
    with pytest.raises(KilledError):
        fit(tmp_path / "killed", task=tiny_task(), data=tiny_data(), callbacks=[Kill()], **options)
    cut = load_checkpoint(tmp_path / "killed" / "checkpoints" / "last.ckpt")["gan"]
    assert cut["batches_seen"] == (13 if accumulate == 1 else 12)  # of 5 an epoch; within the third
    torch.manual_seed(12345)
    fit(tmp_path / "killed", task=tiny_task(), data=tiny_data(), resume=True, **options)
    one, other = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("straight", "killed")
    )
    assert one["gan"] == other["gan"]
    assert (one["gan"]["g_steps"], one["gan"]["images_seen"]) == (20 if accumulate == 1 else 12, 160)
    assert (one["gan"]["conditional"], one["gan"]["classes"]) == (True, ["SICK", "NORMAL"])
    assert one["state_dict"].keys() == other["state_dict"].keys()
    assert not [k for k, v in one["state_dict"].items() if not torch.equal(v, other["state_dict"][k])]
    logs = [(tmp_path / name / "metrics.csv").read_text() for name in ("straight", "killed")]
    assert logs[0] == logs[1]
    assert {"loss", "kid_pixel4/val"} <= set(logs[0].splitlines()[0].split(","))
    assert (tmp_path / "straight" / "figures" / "samples-epoch-0004.png").is_file()


def test_it_learns_what_a_class_looks_like_and_generate_makes_the_same(fit: Fit, tmp_path: Path) -> None:
    """Bright and dark images: the model makes the one it is asked for, and so does what generate.py loads."""
    task = fit(
        tmp_path,
        max_epochs=40,
        task=tiny_task(p_mean=1.5),
        data=tiny_data(),
        monitor=None,
        every_n_images=9999,
    )
    images = task.sample(16, seed=0)
    bright, dark = images.float().mean(dim=(1, 2, 3)).split(8)
    assert bright.mean() > dark.mean() + 100
    sick, normal = load_generators(tiny_generator(), tmp_path / "checkpoints" / "last.ckpt", weights="ema")
    assert (sick.label, normal.label, sick.g_steps) == ("SICK", "NORMAL", 200)
    again = [
        sample_images(
            gan.generator, 8, seed=class_seed(0, gan.label), start=0, block=8, device=torch.device("cpu"),
            label=gan.position,
        )
        for gan in (sick, normal)
    ]  # fmt: skip
    assert torch.equal(torch.cat(again), images)
    assert task.sample(3, seed=0, label_counts=[5, 0, 2], part=(1, 3)).shape == (2, 1, 16, 16)
    assert torch.equal(task.sample(8, seed=0, label_counts=[5, 0, 2]), images[8:])


def test_a_loss_that_is_not_finite_stops_with_the_step() -> None:
    task = tiny_task(optimizer=functools.partial(torch.optim.SGD, lr=1e30))
    with pytest.raises(UserError, match=r"loss not finite at step [23].*task\.optimizer\.lr"):
        run_steps(task, [batch_of([1, 2, 1, 2])] * 4)


def test_skip_leaves_the_step_out_whole() -> None:
    """Of three batches the second has a loss of NaN: as if it had not been there, but for the counters."""
    batches = [batch_of([1, 2, 1, 2]) for _ in range(3)]
    states = []

    class Spoil(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            pl_module.p_mean = float("nan") if batch_idx == 1 else -0.5

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            states.append(copy.deepcopy(pl_module.state_dict()))

    task = tiny_task(on_not_finite="skip")
    run_steps(task, batches, callbacks=[Spoil()])
    changed = [[k for k, v in a.items() if not torch.equal(v, b[k])] for a, b in pairwise(states)]
    assert not changed[0] and changed[1]
    assert (task.guard.skipped, task.batches_seen, task.images_seen) == (1, 3, 12)


def test_clipping_is_the_trainers() -> None:
    task = tiny_task(optimizer=functools.partial(torch.optim.SGD, lr=1.0))
    before = [p.detach().clone() for p in task.generator.parameters()]
    run_steps(task, [batch_of([1, 2, 1, 2])], gradient_clip_val=0.01)
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, task.generator.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_what_does_not_fit_names_the_override(
    fit: Fit, tmp_path: Path, make_task: Callable[..., GANTask]
) -> None:
    with pytest.raises(UserError, match=r"set gan\.generator\.n_classes=3"):
        tiny_task(classes=NAMES)
    with pytest.raises(UserError, match="set gan=diffusion"):
        tiny_task(generator=torch.nn.Linear(1, 1))
    common = {"n_classes": 2, "image_size_px": 16, "channels": 1, "seed": 0}
    gan = covidgan.Generator(latent_dim=8, latent_std=1.0, embedding_dim=4, widths=[8, 4], **common)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="has none; set gan=diffusion"):
        tiny_task(generator=gan)
    with pytest.raises(UserError, match="set task=acgan"):
        make_task(generator=tiny_generator())
    with pytest.raises(UserError, match=r"set task\.p_std=1\.2"):
        tiny_task(p_std=0.0)
    with pytest.raises(UserError, match=r"20 of 40 training images.*train_classes="):
        fit(tmp_path, max_epochs=1, task=tiny_task(), data=tiny_data(columns=(0, 1)))


def test_an_alarm_that_asks_a_discriminator_is_refused(fit: Fit, tmp_path: Path) -> None:
    alarm = GANAlarm(
        collapse="warn", collapse_scores=1, overfit="warn", max_overfit=0.8, overfit_scores=1, n_images=4,
        no_gain="off", monitor="kid_*/val", mode="min", min_delta=0.0, no_gain_scores=1, seed=0,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"set callback\.gan_alarm\.overfit=off"):
        fit(tmp_path, max_epochs=1, task=tiny_task(), data=tiny_data(), callbacks=[alarm])


def test_wandb_takes_it_for_a_gan() -> None:
    assert job_type({"task": {"_target_": "cxr.task.diffusion.DiffusionTask"}}) == "gan"
