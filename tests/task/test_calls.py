"""Several steps in one call of training_step: the same training to the bit, whatever happens between two of them."""

from __future__ import annotations

import functools
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision

from cxr.callback.atomic_checkpoint import load_checkpoint
from cxr.callback.bar import PlainBar, RichBar
from cxr.callback.preemption import StopOnSignal, Stopped
from cxr.callback.step_seed import StepSeed
from cxr.gan import acrnet
from cxr.task.average import MovingAverage
from cxr.task.calls import BetweenSteps, batch_number
from cxr.task.gan import GANTask

Fit = Callable[..., GANTask]
Make = Callable[..., GANTask]
BATCHES = 6  # an epoch of the tiny data
EPOCHS = 3
LOG = 4  # every 4th step: a call ends there, at the last batch of an epoch, and where a score is due


class Calls(Callback):
    """Where calls end: the batch of the last step of each."""

    def __init__(self) -> None:
        self.ends: list[int] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.ends.append(batch_number(trainer))


def noted(folder: Path) -> dict[str, Any]:
    """Everything that a run leaves, but for the numbers of a process: which attempt it was and its clock."""
    left = {name: load_checkpoint(folder / "checkpoints" / name) for name in ("last.ckpt", "best.ckpt")}
    return {**left, "metrics.csv": (folder / "metrics.csv").read_text()}


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Return where two trees differ in a bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{path}: {sorted(map(str, a))} != {sorted(map(str, b))}"]
        return [found for key in a for found in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [found for i in range(len(a)) for found in differences(a[i], b[i], f"{path}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    return [] if a == b else [f"{path}: {a!r} != {b!r}"]


def norms(make_task: Make, **changes: Any) -> GANTask:
    """A GAN whose networks have batch norms."""
    sizes = {"image_size_px": 16, "channels": 3, "n_batch_norm": 1, "seed": 0}
    return make_task(
        generator=acrnet.Generator(latent_dim=8, widths=[4, 4], **sizes),
        discriminator=acrnet.Discriminator(widths=[4, 4], negative_slope=0.2, **sizes),
        **changes,
    )


def nan_at(*calls: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a loss of G that is NaN at these of its calls."""
    seen: list[int] = []

    def loss_g(logits: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return logits.mean() * (float("nan") if len(seen) in calls else 1.0)

    return loss_g


def half() -> dict[str, Any]:
    """16-mixed with a scale that moves within the training."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    return {"precision": None, "plugins": [MixedPrecision("16-mixed", device="cpu", scaler=scaler)]}


CASES: dict[str, tuple[Callable[[Make], Callable[..., GANTask]], Callable[[], dict[str, Any]]]] = {
    "plain": (lambda make: make, dict),
    "bf16": (lambda make: make, lambda: {"precision": "bf16-mixed"}),
    "half": (lambda make: make, half),
    "norms, accumulated": (lambda make: functools.partial(norms, make, accumulate=2), dict),
    "skipped": (
        lambda make: lambda **changes: make(on_not_finite="skip", loss_g=nan_at(2, 3, 9), clip_grad_norm=1.0, **changes),
        dict,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_same_training_to_the_bit(case: str, fit: Fit, make_task: Make, tmp_path: Path) -> None:
    """Weights, optimisers, moving average, counters, loops, position, scores and log; calls end where they must."""
    maker, options = CASES[case]
    ends = {}
    for most in (1, 10):
        calls = Calls()
        task = maker(make_task)(steps_per_call=most)
        fit(tmp_path / str(most), max_epochs=EPOCHS, task=task, callbacks=[calls], every_n_images=30,
            log_every_n_steps=LOG, **options())  # fmt: skip
        ends[most] = calls.ends
    one, ten = noted(tmp_path / "1"), noted(tmp_path / "10")
    assert not differences(one, ten)
    assert ten["last.ckpt"]["global_step"] == ten["last.ckpt"]["gan"]["g_steps"] > 0
    assert ten["last.ckpt"]["gan"]["batches_seen"] == EPOCHS * BATCHES
    assert "kid_pixel4/val" in ten["metrics.csv"]
    assert ends[1] == [*range(BATCHES)] * EPOCHS
    if (
        case == "plain"
    ):  # logged after 4, 8, 12, 16; scored, every 30 images, after batches 4, 2, 5 (then after 2)
        assert len(ends[10]) < 2 * len(ends[1]) / 3
        assert all(end in ends[10] for end in (3, 5))


def test_a_run_goes_on_with_another_number_of_steps(fit: Fit, make_task: Make, tmp_path: Path) -> None:
    """Killed inside a call, resumed from a checkpoint written within an epoch, by one that has other calls."""

    class KilledError(Exception):
        pass

    class Kill(Callback, BetweenSteps):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            files = trainer.checkpoint_callback
            files.every_n_minutes = 0.0 if trainer.global_step == BATCHES + 2 else None

        def before_step(self, trainer: Any, task: Any, batch_idx: int) -> None:
            if trainer.global_step == BATCHES + 4:
                raise KilledError

        def ends_call(self, trainer: Any, task: Any) -> bool:
            return bool(trainer.global_step == BATCHES + 2)

    options: dict[str, Any] = {"max_epochs": EPOCHS, "every_n_images": 88, "log_every_n_steps": 50}
    fit(tmp_path / "straight", task=make_task(steps_per_call=1), **options)
    with pytest.raises(KilledError):
        fit(tmp_path / "killed", task=make_task(steps_per_call=5), callbacks=[Kill()], **options)
    assert load_checkpoint(tmp_path / "killed/checkpoints/last.ckpt")["gan"]["g_steps"] == BATCHES + 2
    torch.manual_seed(12345)
    fit(tmp_path / "killed", task=make_task(steps_per_call=3), resume=True, **options)
    assert not differences(noted(tmp_path / "straight"), noted(tmp_path / "killed"))


def test_a_signal_inside_a_call_ends_it_after_that_step(fit: Fit, make_task: Make, tmp_path: Path) -> None:
    class Send(Callback, BetweenSteps):
        def before_step(self, trainer: Any, task: Any, batch_idx: int) -> None:
            if trainer.global_step == BATCHES + 2:  # before the third step of the second epoch
                os.kill(os.getpid(), signal.SIGTERM)

    options: dict[str, Any] = {"max_epochs": EPOCHS, "every_n_images": 88, "log_every_n_steps": 50}
    fit(tmp_path / "calm", task=make_task(), **options)
    with StopOnSignal() as stop, pytest.raises(Stopped, match="SIGTERM"):
        fit(tmp_path / "rough", task=make_task(steps_per_call=10), callbacks=[stop, Send()], **options)
    assert load_checkpoint(tmp_path / "rough/checkpoints/last.ckpt")["gan"]["g_steps"] == BATCHES + 3
    fit(tmp_path / "rough", task=make_task(steps_per_call=10), resume=True, **options)
    assert not differences(noted(tmp_path / "calm"), noted(tmp_path / "rough"))


def test_hooks_of_backward_passes_and_steps_are_still_called(
    fit: Fit, make_task: Make, tmp_path: Path
) -> None:
    """Without any, Lightning's rounds through the callbacks are left out: nothing else changes."""

    class Hooks(Callback):
        called = 0

        def on_after_backward(self, *_: Any) -> None:
            self.called += 1

        def on_before_optimizer_step(self, *_: Any) -> None:
            self.called += 1

    hooks = Hooks()
    fit(tmp_path / "hooked", max_epochs=2, callbacks=[hooks])
    fit(tmp_path / "free", max_epochs=2)
    assert hooks.called == 2 * BATCHES * (2 + 1)  # of D's optimiser, which is stepped directly, there is none
    assert not differences(noted(tmp_path / "hooked"), noted(tmp_path / "free"))


def test_a_seed_is_that_of_torch() -> None:
    """Seeding the CPU's generator alone gives the CPU what torch.manual_seed gives it."""
    trainer: Any = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    drawn = []
    for seed in (0, 1):
        for _ in range(2):
            StepSeed(seed=seed).on_train_batch_start(trainer, None, None, 3)  # type: ignore[arg-type]
            first = torch.initial_seed()
            drawn.append((torch.rand(2).tolist(), np.random.rand(), random.random()))  # noqa: NPY002
            torch.manual_seed(first)
            assert drawn[-1][0] == torch.rand(2).tolist()
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]


def test_the_average_is_torchs() -> None:
    """Against torch.optim.swa_utils, and by hand."""
    torch.manual_seed(0)
    net: Any = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    theirs = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=cast(Any, torch.optim.swa_utils).get_ema_multi_avg_fn(0.75), use_buffers=True
    )
    theirs.update_parameters(net)  # the first copies
    ours: Any = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).requires_grad_(False)
    ours.load_state_dict(net.state_dict())
    average, before = MovingAverage(ours, net), net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight.add_(1.0)
    net(torch.randn(5, 3))
    theirs.update_parameters(net)
    average.update(0.75)
    torch.testing.assert_close(ours[0].weight, before + 0.25)
    for name, value in ours.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == 1
        else:
            torch.testing.assert_close(value, theirs.module.state_dict()[name])


@pytest.mark.parametrize("bar", [PlainBar, RichBar])
def test_bars_show_the_last_batch_of_a_call(
    bar: type[Any], fit: Fit, make_task: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[int] = []

    class Bar(bar):  # type: ignore[misc]
        def _update(self, progress_bar_id: Any, current: int, *rest: Any, **named: Any) -> None:
            shown.append(current)
            super()._update(progress_bar_id, current, *rest, **named)

        def _should_update(self, current: int, total: int) -> bool:
            due = bool(super()._should_update(current, total))
            shown.extend([current] if due else [])
            return due

    fit(tmp_path, max_epochs=2, task=make_task(steps_per_call=4), callbacks=[Bar()], enable_progress_bar=True)
    assert shown.count(BATCHES) == 2
