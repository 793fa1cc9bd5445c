"""16-bit training of a GAN on a CPU: one loss scale for both networks, overflows skipped, resume exact."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from torch.optim.optimizer import register_optimizer_step_post_hook

from cxr.callback.atomic_checkpoint import AtomicCheckpointIO, load_checkpoint
from cxr.callback.checkpoints import CheckpointFiles
from cxr.callback.step_seed import StepSeed
from cxr.data.module import CXRDataModule
from cxr.errors import UserError
from cxr.task.gan import GANTask
from cxr.task.loss_scale import bare_step

Make = Callable[..., GANTask]
MakeData = Callable[[], CXRDataModule]
SGD = functools.partial(torch.optim.SGD, lr=0.05)


def half(scale: float = 2.0**10, growth_interval: int = 2000) -> MixedPrecision:
    """16-mixed as on a GPU; asked for by name, Lightning takes bf16-mixed on a CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=growth_interval)
    return MixedPrecision("16-mixed", device="cpu", scaler=scaler)


def run(
    task: GANTask,
    data: CXRDataModule,
    precision: MixedPrecision | None,
    *callbacks: Callback,
    path: Path | None = None,
    epochs: int = 1,
) -> GANTask:
    last = None if path is None else path / "checkpoints" / "last.ckpt"
    lightning.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=path is not None,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, default_root_dir=path,
        use_distributed_sampler=False, callbacks=[StepSeed(seed=0), *callbacks],
        plugins=[AtomicCheckpointIO(), *([precision] if precision else [])],
    ).fit(task, datamodule=data, ckpt_path=last if last and last.exists() else None)  # fmt: skip
    return task


class Spoil(Callback):
    """Make the gradient of one network infinite at one step, as an overflow would."""

    def __init__(self, network: str, at: int) -> None:
        self.network, self.at, self.scales = network, at, list[float]()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.scales.append(trainer.precision_plugin.scaler.get_scale())
        parameter = next(getattr(pl_module, self.network).parameters())
        if batch_idx == self.at:
            self.hook = parameter.register_hook(lambda grad: grad * float("inf"))
        elif hasattr(self, "hook"):
            self.hook.remove()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_half_precision_follows_float32(
    clip: float | None, accumulate: int, make_task: Make, make_data: MakeData
) -> None:
    """Gradients clipped before they are unscaled, or divided twice, would move weights 1,024 times too little."""
    options = {"optimizer_g": SGD, "optimizer_d": SGD, "clip_grad_norm": clip, "accumulate": accumulate}
    start = make_task(**options)
    full, mixed, unscaled = (run(make_task(**options), make_data(), p) for p in (None, half(), half(1.0)))
    assert full.g_steps == mixed.g_steps == 6 // accumulate
    for name, first in start.state_dict().items():
        if "ema" in name or name == "_log_sums":
            continue
        a, b, c = (task.state_dict()[name] for task in (full, mixed, unscaled))
        moved = (a - first).norm()
        assert moved > 0 and (a - b).norm() < 0.1 * moved, name  # 16 bits in the forward passes
        # A scale is a power of two and changes underflows only; how many, depends on how a CPU adds 16-bit products.
        assert (b - c).norm() < 1e-2 * moved, name


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_an_overflow_is_skipped_by_its_network_only(
    network: str, make_task: Make, make_data: MakeData
) -> None:
    task = make_task(ema_half_life_images=None)
    weights: list[dict[str, torch.Tensor]] = []

    class Keep(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            weights.append(copy.deepcopy(pl_module.state_dict()))

    spoil = Spoil(network, at=2)
    run(task, make_data(), half(), spoil, Keep())
    assert task.g_steps == task.trainer.global_step == (5 if network == "generator" else 6)
    assert task.images_seen == 44 and task.batches_seen == 6
    assert spoil.scales == [1024.0] * 3 + [512.0] * 3  # halved once, at the end of the step
    still = {k for k, v in weights[1].items() if torch.equal(v, weights[2][k])}
    names = {f"{network}.{k}" for k, _ in getattr(task, network).named_parameters()}
    assert names <= still
    other = "discriminator" if network == "generator" else "generator"
    assert not still & {f"{other}.{k}" for k, _ in getattr(task, other).named_parameters()}
    assert all(v.isfinite().all() for v in task.state_dict().values())


def test_the_scale_is_resumed(make_task: Make, make_data: MakeData, tmp_path: Path) -> None:
    """The scale doubles after every 4 clean steps: it and its counter are of the run, not of the process."""

    def files() -> CheckpointFiles:
        return CheckpointFiles(monitor=None, mode="min", every_n_epochs=1, every_n_minutes=None)

    for name, parts in (("straight", (2,)), ("stopped", (1, 2))):
        for epochs in parts:
            run(
                make_task(), make_data(), half(growth_interval=4), files(),
                path=tmp_path / name, epochs=epochs,
            )  # fmt: skip
    one, other = (
        load_checkpoint(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("straight", "stopped")
    )
    assert one["MixedPrecision"] == other["MixedPrecision"]
    assert one["MixedPrecision"]["scale"] == 1024.0 * 2**3  # 12 steps
    for key, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][key]), key


def test_gradients_that_overflow_at_every_scale_end_the_run(make_task: Make, make_data: MakeData) -> None:
    class Always(Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            next(pl_module.discriminator.parameters()).register_hook(lambda grad: grad * float("inf"))

    with pytest.raises(UserError, match=r"overflow 16 bits .*trainer\.precision=bf16-mixed"):
        run(make_task(), make_data(), half(scale=4.0), Always())


@pytest.mark.parametrize("kind", ["Adam", "fused Adam", "AdamW", "SGD", "RMSprop"])
def test_a_bare_step_is_the_step(kind: str) -> None:
    """Ten steps, the learning rate halved among them: weights equal to the bit, and gradients are still computed."""
    options: dict[str, Any] = {"lr": 0.1} | ({"fused": True} if "fused" in kind else {})
    weights = [torch.nn.Parameter(torch.linspace(-1.0, 1.0, 7)) for _ in range(2)]
    bare, whole = (getattr(torch.optim, kind.split()[-1])([w], **options) for w in weights)
    for number in range(10):
        for optimizer, weight, step in ((bare, weights[0], bare_step), (whole, weights[1], type(whole).step)):
            optimizer.zero_grad()
            (weight.cos() * (number + 1.0)).sum().backward()
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + number // 5)
            step(optimizer)
    assert torch.equal(*weights) and torch.is_grad_enabled()


@pytest.mark.parametrize("where", ["own", "global"])
def test_a_bare_step_asks_hooks_where_there_are_any(where: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    heard: list[str] = []
    register = {
        "own": optimizer.register_step_post_hook,
        "global": register_optimizer_step_post_hook,
    }[where]
    hook = register(lambda *_: heard.append(where))
    bare_step(optimizer)
    hook.remove()
    bare_step(optimizer)
    assert heard == [where]
