"""A loss or a gradient that is NaN or infinite: training ends with a good checkpoint named, or passes over the step."""

from __future__ import annotations

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from cxr.callback.atomic_checkpoint import load_checkpoint
from cxr.callback.checkpoints import CheckpointFiles
from cxr.callback.csv_log import CSVLog
from cxr.callback.step_seed import StepSeed
from cxr.classifier.base import Classifier
from cxr.data.module import CXRDataModule
from cxr.errors import UserError
from cxr.gan import covidgan, talukdar
from cxr.loss.classification import BCE
from cxr.loss.gan import class_cross_entropy, discriminator_bce, generator_bce
from cxr.task.acgan import ACGANTask
from cxr.task.classifier import ClassifierTask
from cxr.task.gan import GANTask
from cxr.task.step_guard import StepGuard, finite_gradients
from cxr.trainer import make_trainer

ADAM = functools.partial(torch.optim.Adam, lr=1e-2, fused=True)
Task = lightning.LightningModule


class Tiny(Classifier):
    """Logits from 16 px images; its batch norm remembers what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size_px, self.channels, self.n_outputs = 16, 1, 1
        self.weights, self.last_conv = "random", "0"
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(196, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


class NormD(nn.Module):
    """A discriminator whose batch norm remembers what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(196, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images).squeeze(1)
        return logits


def classifier(**changes: Any) -> ClassifierTask:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "loss": BCE(pos_weight=None, label_smoothing=0.0), "optimizer": ADAM, "scheduler": None,
        "classes": ["A", "B"], "multi_label": False, "channels_last": True,
    }  # fmt: skip
    return ClassifierTask(network=Tiny(), **(values | changes))


COMMON: dict[str, Any] = {"image_size_px": 16, "channels": 1, "seed": 0}
ADVERSARIAL: dict[str, Any] = {
    "loss_g": generator_bce, "loss_d": functools.partial(discriminator_bce, real_target=1.0),
    "optimizer_g": ADAM, "optimizer_d": ADAM, "clip_grad_norm": None, "accumulate": 1, "ema_half_life_images": 50,
    "ema_rampup": 0.5, "channels_last": True, "seed": 0,
}  # fmt: skip


def gan(**changes: Any) -> GANTask:
    torch.manual_seed(0)
    generator = talukdar.Generator(
        latent_dim=8, widths=[4, 4, 4], negative_slope=0.2, init="glorot", **COMMON
    )
    values = {"generator": generator, "discriminator": NormD(), "classes": ["A"], **ADVERSARIAL}
    return GANTask(**(values | changes))


def acgan(**changes: Any) -> ACGANTask:
    torch.manual_seed(0)
    values = {
        "generator": covidgan.Generator(
            n_classes=2, latent_dim=8, latent_std=1.0, embedding_dim=4, widths=[8, 4], **COMMON
        ),
        "discriminator": covidgan.Discriminator(
            n_classes=2, widths=[4, 8], strides=[2, 2], negative_slope=0.2, dropout=0.0, **COMMON
        ),
        "loss_class": class_cross_entropy, "class_weight": 1.0, "classes": ["A", "B"], "label_names": ["A", "B"],
        **ADVERSARIAL,
    }  # fmt: skip
    return ACGANTask(**(values | changes))


MAKE: dict[str, Callable[..., Any]] = {"classifier": classifier, "gan": gan, "acgan": acgan}


def data(n_val: int = 8) -> CXRDataModule:
    """40 training images: 10 batches of 4 an epoch."""
    rng = np.random.default_rng(0)
    n = 40 + n_val
    return CXRDataModule(
        images=rng.integers(0, 256, (n, 16, 16), dtype=np.uint8),
        labels=np.eye(2, dtype=np.float32)[np.arange(n) % 2],
        parts={"train": np.arange(40), "val": np.arange(40, n)},
        batch_size=4, eval_batch_size=8, num_workers=0, drop_last=False, seed=0,
    )  # fmt: skip


def state(task: Any) -> dict[str, Any]:
    """Return copies of weights, buffers but running logs, optimiser states and gradients' absence."""
    own = {k: v.clone() for k, v in task.state_dict().items() if not k.startswith(("_log_sums", "metrics."))}
    for i, optimizer in enumerate(task.trainer.optimizers):
        for j, values in enumerate(optimizer.state.values()):
            own |= {f"{i}/{j}/{k}": v.clone() for k, v in values.items()}
    return own


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Plant(Callback):
    """Spoil training steps: the n-th calls of a network, by a NaN or infinity in what it gives or in its gradient."""

    def __init__(self, steps: set[int], where: str = "loss", part: str = "") -> None:
        self.steps, self.where, self.part = steps, where, part
        self.now = -1
        self.kept: list[bool] = []  # of each step: was everything as before it
        self.before: dict[str, Any] = {}

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        network = getattr(pl_module, self.part or "network")

        def spoil(module: Any, given: Any, out: Any) -> Any:
            if self.now not in self.steps or not module.training or not torch.is_grad_enabled():
                return out
            logits = out[0] if isinstance(out, tuple) else out
            if self.where == "loss":
                spoilt = logits * float("inf")
            else:
                spoilt = logits.clone()
                if spoilt.requires_grad:
                    spoilt.register_hook(lambda g: g * float("nan"))
            return (spoilt, *out[1:]) if isinstance(out, tuple) else spoilt

        network.register_forward_hook(spoil)
        if self.where == "loss":  # what it sees is broken, too: its batch norm would not forget
            network.register_forward_pre_hook(
                lambda m, a: (
                    (a[0] * float("nan"), *a[1:])
                    if self.now in self.steps and m.training and torch.is_grad_enabled()
                    else a
                )
            )

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.now = trainer.current_epoch * 10 + batch_idx
        if batch_idx % (getattr(pl_module, "accumulate", 1) * trainer.accumulate_grad_batches) == 0:
            self.before = state(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.kept.append(same(self.before, state(pl_module)))


def fit(
    folder: Path,
    task: Task,
    *callbacks: Callback,
    epochs: int = 1,
    accumulate: int = 1,
    n_val: int = 8,
    **changes: Any,
) -> lightning.Trainer:
    """Train as train.py does, from last.ckpt if there is one."""
    files = CheckpointFiles(
        monitor=changes.pop("monitor", None), mode="max", every_n_epochs=1, every_n_minutes=None
    )
    options: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true", "max_time": None,
        "gradient_clip_val": None, "check_val_every_n_epoch": 1, "log_every_n_steps": 2, "limit_train_batches": None,
        "deterministic": False, "sync_batchnorm": False, "progress": "none",
    }  # fmt: skip
    trainer = make_trainer(
        **(options | changes), max_epochs=epochs, accumulate_grad_batches=accumulate, run_dir=folder,
        logger=[CSVLog(save_dir=folder)], callbacks=[*callbacks, files, StepSeed(seed=0)],
    )  # fmt: skip
    last = folder / "checkpoints/last.ckpt"
    trainer.fit(task, datamodule=data(n_val), ckpt_path=str(last) if last.is_file() else None)
    return trainer


def finite(file: Path) -> bool:
    """Say whether every weight of a checkpoint is finite; fail where it cannot be read."""
    weights = load_checkpoint(file)["state_dict"]
    return bool(weights) and all(bool(v.isfinite().all()) for v in weights.values())


PARTS = [("classifier", ""), ("gan", "discriminator"), ("gan", "generator"), ("acgan", "discriminator")]


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_stop_names_the_step_and_a_checkpoint_that_is_finite(kind: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        fit(tmp_path, MAKE[kind](), Plant({13}, part=part), epochs=2)
    line = str(caught.value)
    step = 14 if "gan" in kind else 13  # the first is 1, and 0
    named = re.search(rf"not finite at step {step}\b.*last (?:good )?checkpoint: (\S+);", line)
    assert named, line
    assert "\n" not in line and "lr" in line
    assert load_checkpoint(Path(named[1]))["global_step"] == 10 and finite(Path(named[1]))


@pytest.mark.parametrize(("kind", "part"), [("classifier", ""), ("gan", "generator")])
def test_weights_broken_by_the_last_step_before_a_save_are_not_saved(
    kind: str, part: str, tmp_path: Path
) -> None:
    """Its loss was finite, its gradient not, and no validation follows that would see it."""
    with pytest.raises(UserError, match="the weights are not finite after step 20") as caught:
        fit(tmp_path, MAKE[kind](), Plant({19}, "gradient", part), epochs=2, check_val_every_n_epoch=9)
    [named] = re.findall(r"last good checkpoint: (\S+);", str(caught.value))
    assert load_checkpoint(Path(named))["global_step"] == 10 and finite(Path(named))


def test_only_best_ckpt_is_there_to_be_named(tmp_path: Path) -> None:
    task = classifier()
    fit(tmp_path, task, monitor="val/auroc")
    (tmp_path / "checkpoints/last.ckpt").unlink()
    with pytest.raises(UserError, match=r"last checkpoint: \S+/best\.ckpt; lower"):
        fit(tmp_path, classifier(), Plant({3}), monitor="val/auroc")


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_a_step_that_is_skipped_changes_nothing_and_is_counted(
    kind: str, part: str, where: str, tmp_path: Path
) -> None:
    """The first step (optimisers without a state), two in a row, and the last before a checkpoint."""
    bad = {0, 4, 5, 9}
    plant = Plant(bad, where, part)
    task = MAKE[kind](on_not_finite="skip", max_skipped=2)
    fit(tmp_path, task, plant)
    assert {i for i, kept in enumerate(plant.kept) if kept} == bad
    assert task.guard.skipped == 4 and task.guard.in_a_row == 1
    assert finite(tmp_path / "checkpoints/last.ckpt")
    log = (tmp_path / "metrics.csv").read_text()
    header, *rows = [line.split(",") for line in log.splitlines()]
    column = header.index("train/skipped_steps")
    assert [row[column] for row in rows if row[column]][-1] == "4"
    assert "nan" not in log and "inf" not in log
    if kind != "classifier":
        assert task.g_steps == task.trainer.global_step == 6 and task.images_seen == 40


@pytest.mark.parametrize("kind", ["classifier", "gan"])
def test_with_accumulated_batches_the_step_is_all_of_them(kind: str, tmp_path: Path) -> None:
    """Batch 4 spoils the step of batches 4 and 5, 7 that of 6 and 7; without a moving average, which moves at each."""
    changes = {} if kind == "classifier" else {"accumulate": 2, "ema_half_life_images": None}
    plant = Plant({4, 7}, part="" if kind == "classifier" else "discriminator")
    task = MAKE[kind](on_not_finite="skip", max_skipped=2, **changes)
    fit(tmp_path, task, plant, accumulate=2 if kind == "classifier" else 1)
    assert [plant.kept[i] for i in (1, 3, 5, 7, 9)] == [False, False, True, True, False]
    assert task.guard.skipped == 2 and finite(tmp_path / "checkpoints/last.ckpt")


@pytest.mark.parametrize("kind", ["classifier", "gan"])
def test_too_many_in_a_row_end_it(kind: str, tmp_path: Path) -> None:
    """Two epochs; the row begins before the checkpoint, and goes on after a resume from it."""
    part = "" if kind == "classifier" else "discriminator"
    make = functools.partial(MAKE[kind], on_not_finite="skip", max_skipped=3)
    fit(tmp_path, make(), Plant({8, 9}, part=part))
    with pytest.raises(
        UserError, match=r"not finite in 4 steps in a row, the last is step \d+ \(task\.max_skipped=3\)"
    ) as caught:
        fit(tmp_path, make(), Plant({10, 11, 12, 13}, part=part), epochs=2)
    [named] = re.findall(r"last good checkpoint: (\S+);", str(caught.value))
    assert finite(Path(named)) and load_checkpoint(Path(named))["skipped_steps"] == {
        "total": 2,
        "in_a_row": 2,
    }


@pytest.mark.parametrize("kind", ["classifier", "gan"])
def test_resumed_it_equals_a_run_never_stopped(kind: str, tmp_path: Path) -> None:
    part = "" if kind == "classifier" else "discriminator"
    make = functools.partial(MAKE[kind], on_not_finite="skip", max_skipped=3)
    calm, rough = make(), make()
    fit(tmp_path / "calm", calm, Plant({3, 9, 10, 15}, part=part), epochs=2)
    fit(tmp_path / "rough", make(), Plant({3, 9}, part=part), epochs=1)
    fit(tmp_path / "rough", rough, Plant({10, 15}, part=part), epochs=2)
    assert same(state(calm), state(rough)) and rough.guard.skipped == 4
    assert (tmp_path / "calm/metrics.csv").read_text() == (tmp_path / "rough/metrics.csv").read_text()


@pytest.mark.parametrize("kind", ["classifier", "gan"])
def test_a_policy_that_has_nothing_to_do_changes_nothing(kind: str, tmp_path: Path) -> None:
    stop, skip = MAKE[kind](), MAKE[kind](on_not_finite="skip")
    fit(tmp_path / "stop", stop)
    fit(tmp_path / "skip", skip)
    assert same(state(stop), state(skip))


def test_gradients_by_hand() -> None:
    """Huge gradients whose squares overflow are finite; one NaN or infinity among many is not; none at all are."""
    a, b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))
    assert finite_gradients([a, b])
    a.grad = torch.tensor([3e38, -3e38, 0.0])
    assert finite_gradients([a, b])
    for bad in (float("nan"), float("inf"), float("-inf")):
        b.grad = torch.tensor([1.0, bad])
        assert not finite_gradients([a, b])


def test_a_bound_below_zero_is_refused() -> None:
    with pytest.raises(UserError, match=r"task\.max_skipped: got -1, expected 0 or more"):
        StepGuard("skip", -1)
