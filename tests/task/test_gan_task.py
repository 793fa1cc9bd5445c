"""Training a GAN: what a step does, what is counted, and that resuming equals never having stopped."""

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
from lightning.pytorch.callbacks import Callback, Timer

from cxr.callback.atomic_checkpoint import load_checkpoint
from cxr.callback.checkpoints import CheckpointFiles
from cxr.errors import UserError
from cxr.gan import acrnet
from cxr.task.gan import GANTask, ema_decay, sample_images
from cxr.task.sampling import LatentsAhead

Fit = Callable[..., GANTask]
Make = Callable[..., GANTask]
BATCHES = 6  # an epoch of the tiny data


class KilledError(Exception):
    """Stands for kill -9."""


class Kill(Callback):
    """Save within the epoch at one batch, die at another."""

    def __init__(
        self, epoch: int, batch: int, save_at: int | None = None, at_epoch_end: bool = False
    ) -> None:
        self.epoch, self.batch, self.save_at, self.at_epoch_end = epoch, batch, save_at, at_epoch_end

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch != self.epoch or self.at_epoch_end:
            return
        files = trainer.checkpoint_callback
        assert isinstance(files, CheckpointFiles)
        files.every_n_minutes = 0.0 if batch_idx == self.save_at else None
        if batch_idx == self.batch:
            raise KilledError

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.at_epoch_end and trainer.current_epoch == self.epoch:
            raise KilledError


def assert_same_run(one: Path, other: Path) -> None:
    a, b = (load_checkpoint(path / "checkpoints" / "last.ckpt") for path in (one, other))
    assert_equal(a["state_dict"], b["state_dict"])
    assert_equal(a["optimizer_states"], b["optimizer_states"])
    for key in ("gan", "global_step", "epoch", "callbacks"):
        assert a.get(key) == b.get(key), key
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    names = [sorted(p.name for p in (path / "figures").glob("*")) for path in (one, other)]
    assert names[0] == names[1]
    best = [load_checkpoint(path / "checkpoints" / "best.ckpt") for path in (one, other)]
    assert_equal(best[0]["state_dict"], best[1]["state_dict"])


def assert_equal(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Fit], Path]:
    """Four epochs without a stop, trained once."""
    path = tmp_path_factory.mktemp("straight")

    def get(fit: Fit) -> Path:
        if not (path / "checkpoints").exists():
            fit(path, max_epochs=4)
        return path

    return get


@pytest.mark.parametrize(
    "kill",
    [
        Kill(epoch=2, batch=0),  # after an epoch's checkpoint
        Kill(epoch=2, batch=3),  # and some way on
        Kill(epoch=1, batch=5, save_at=2),  # after a checkpoint within the epoch
        Kill(epoch=1, batch=4, save_at=3),  # one at which values are logged
        Kill(epoch=0, batch=5, save_at=0),
        Kill(epoch=1, batch=0, at_epoch_end=True),  # before the epoch's checkpoint
    ],
    ids=lambda k: f"epoch{k.epoch}-batch{k.batch}-save{k.save_at}",
)
def test_killed_and_resumed_equals_never_stopped(
    kill: Kill, straight: Callable[[Fit], Path], fit: Fit, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        fit(tmp_path, max_epochs=4, callbacks=[kill])
    torch.manual_seed(12345)  # another process has another state
    fit(tmp_path, max_epochs=4, resume=True)
    assert_same_run(straight(fit), tmp_path)


def test_killed_twice(straight: Callable[[Fit], Path], fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        fit(tmp_path, max_epochs=4, callbacks=[Kill(epoch=1, batch=4, save_at=1)])
    with pytest.raises(KilledError):
        fit(tmp_path, max_epochs=4, callbacks=[Kill(epoch=1, batch=5, save_at=3)], resume=True)
    fit(tmp_path, max_epochs=4, resume=True)
    assert_same_run(straight(fit), tmp_path)


def test_more_epochs_continue_a_finished_run(
    straight: Callable[[Fit], Path], fit: Fit, tmp_path: Path
) -> None:
    fit(tmp_path, max_epochs=2)
    fit(tmp_path, max_epochs=4, resume=True)
    assert_same_run(straight(fit), tmp_path)


def test_stopped_by_max_time_within_an_epoch(
    straight: Callable[[Fit], Path], fit: Fit, tmp_path: Path
) -> None:
    class StopAt(Timer):
        def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
            trainer.should_stop = trainer.global_step == BATCHES + 3

        def on_train_epoch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
            pass

    fit(tmp_path, max_epochs=4, callbacks=[StopAt(duration="00:01:00:00")])
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["gan"]["g_steps"] == BATCHES + 3
    fit(tmp_path, max_epochs=4, resume=True)
    assert_same_run(straight(fit), tmp_path)


def test_counters_and_files(straight: Callable[[Fit], Path], fit: Fit) -> None:
    path = straight(fit)
    checkpoint = load_checkpoint(path / "checkpoints" / "last.ckpt")  # weights_only: no pickled code
    assert checkpoint["gan"]["g_steps"] == 4 * BATCHES == checkpoint["global_step"]  # not twice
    assert checkpoint["gan"]["images_seen"] == 4 * 44
    assert checkpoint["gan"]["classes"] == ["NORMAL"]
    assert sorted(p.name for p in (path / "figures").iterdir()) == [
        "samples-epoch-0002.png",
        "samples-epoch-0004.png",
    ]
    rows = (path / "metrics.csv").read_text().splitlines()
    header = rows[0].split(",")
    assert {"step", "epoch", "loss_d", "loss_g", "kid_pixel4/val"} <= set(header)
    assert len(rows) == 1 + 4 * BATCHES // 2
    scored = [row.split(",")[header.index("kid_pixel4/val")] != "" for row in rows[1:]]
    assert scored == [False] * 5 + [True] + [False] * 5 + [True]  # epochs 2 and 4 only


def batch_of(n: int = 8) -> dict[str, torch.Tensor]:
    images = np.random.default_rng(1).integers(0, 256, (n, 1, 16, 16)).astype(np.uint8)
    return {"image": torch.from_numpy(images)}


class OneBatch(lightning.LightningDataModule):
    def __init__(self, batches: list[dict[str, torch.Tensor]]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


def run_steps(task: GANTask, batches: list[dict[str, torch.Tensor]], **options: Any) -> GANTask:
    lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, **options,
    ).fit(task, datamodule=OneBatch(batches))  # fmt: skip
    return task


def test_step_is_d_on_detached_fakes_then_g_on_the_same(make_task: Make) -> None:
    """One step of SGD against the same step written out, with the latents of the task."""
    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    task = make_task(optimizer_g=sgd, optimizer_d=sgd)
    task.discriminator.dropout.p = 0.0
    g, d = copy.deepcopy(task.generator), copy.deepcopy(task.discriminator)
    latents: list[torch.Tensor] = []
    hook = task.generator.register_forward_pre_hook(lambda module, inputs: latents.append(inputs[0].clone()))
    run_steps(task, [batch_of()])
    hook.remove()
    assert len(latents) == 1  # one pass of G
    real = batch_of()["image"].float().expand(-1, 3, -1, -1) / 127.5 - 1
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    fake = g(latents[0])
    loss_d = 0.5 * (bce(d(real), torch.ones(8)) + bce(d(fake.detach()), torch.zeros(8)))
    loss_d.backward()
    torch.optim.SGD(d.parameters(), lr=0.1).step()
    bce(d(fake), torch.ones(8)).backward()
    torch.optim.SGD(g.parameters(), lr=0.1).step()
    for ours, theirs in ((task.generator, g), (task.discriminator, d)):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b)
    assert all(p.requires_grad for p in task.discriminator.parameters())


def test_accumulated_halves_equal_the_whole_batch(make_task: Make) -> None:
    """Plain SGD on two half batches, accumulated, moves D as the whole batch does."""
    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    whole, half = batch_of(8)["image"], [{"image": x} for x in batch_of(8)["image"].chunk(2)]
    tasks = [make_task(optimizer_g=sgd, optimizer_d=sgd, accumulate=k) for k in (1, 2)]
    z = tasks[0].generator.sample_latent(8, seed=0, start=0)
    for task, pieces in zip(tasks, (iter([z]), iter(z.chunk(2))), strict=True):
        task.discriminator.dropout.p = 0.0
        task.generator.sample_latent = lambda n, seed, start, pieces=pieces: next(pieces, z)
    run_steps(tasks[0], [{"image": whole}])
    run_steps(tasks[1], half)
    assert [t.g_steps for t in tasks] == [1, 1]
    assert [t.images_seen for t in tasks] == [8, 8]
    for a, b in zip(tasks[0].discriminator.parameters(), tasks[1].discriminator.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_left_over_batches_still_make_a_step(make_task: Make) -> None:
    task = run_steps(make_task(accumulate=2), [batch_of()] * 3)
    assert (task.g_steps, task.batches_seen, task.in_accumulation) == (2, 3, False)


def test_clipping_bounds_the_step(make_task: Make) -> None:
    sgd = functools.partial(torch.optim.SGD, lr=1.0)
    task = make_task(optimizer_g=sgd, optimizer_d=sgd, clip_grad_norm=1e-3)
    before = [copy.deepcopy(n.state_dict()) for n in (task.generator, task.discriminator)]
    run_steps(task, [batch_of()])
    for network, old in zip((task.generator, task.discriminator), before, strict=True):
        moved = torch.stack([(p - old[k]).square().sum() for k, p in network.state_dict().items()]).sum()
        assert 0.99e-3 < moved.sqrt() < 1.01e-3


def test_moving_average_is_by_images_and_of_g_only(make_task: Make) -> None:
    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    task = make_task(optimizer_g=sgd, optimizer_d=sgd, ema_half_life_images=8, ema_rampup=None)
    first = [p.clone() for p in task.generator.parameters()]
    run_steps(task, [batch_of(8)])
    assert task.generator_ema is not None
    for old, new, average in zip(
        first, task.generator.parameters(), task.generator_ema.parameters(), strict=True
    ):
        torch.testing.assert_close(average, 0.5 * (old + new))  # 8 images = one half-life
    assert not any("discriminator_ema" in k for k in task.state_dict())


def with_batch_norms(make_task: Make, **changes: Any) -> GANTask:
    sizes = {"image_size_px": 16, "channels": 3, "n_batch_norm": 1, "seed": 0}
    return make_task(
        generator=acrnet.Generator(latent_dim=8, widths=[4, 4], **sizes),  # type: ignore[arg-type]
        discriminator=acrnet.Discriminator(widths=[4, 4], negative_slope=0.2, **sizes),  # type: ignore[arg-type]
        **changes,
    )


@pytest.mark.parametrize("norms", [True, False])
def test_batch_norms_of_d_never_see_real_and_fake_together(norms: bool, make_task: Make) -> None:
    task = with_batch_norms(make_task) if norms else make_task()
    seen: list[int] = []
    task.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    run_steps(task, [batch_of(8)])
    assert seen == ([8, 8, 8] if norms else [16, 8])


def test_statistics_of_batch_norms_are_averaged_as_the_weights(make_task: Make) -> None:
    task = with_batch_norms(make_task, ema_half_life_images=8, ema_rampup=None)
    run_steps(task, [batch_of(8)])
    assert task.generator_ema is not None
    now, average = (dict(g.named_buffers()) for g in (task.generator, task.generator_ema))
    first = {"layers.1.running_mean": 0.0, "layers.1.running_var": 1.0}
    for name, begin in first.items():
        assert not torch.allclose(now[name], torch.tensor(begin))
        torch.testing.assert_close(average[name], 0.5 * (begin + now[name]))  # 8 images = one half-life
    assert average["layers.1.num_batches_tracked"] == now["layers.1.num_batches_tracked"] == 1


def test_decay() -> None:
    assert ema_decay(32, 1000, 64, None) == pytest.approx(0.5**0.5)
    assert ema_decay(32, 1000, 64, None) ** 2 == pytest.approx(ema_decay(64, 1000, 64, None))
    assert ema_decay(32, 100, 10_000, 0.05) == pytest.approx(0.5 ** (32 / 5))


def test_without_moving_average(make_task: Make) -> None:
    task = make_task(ema_half_life_images=None)
    assert task.sampler is task.generator
    run_steps(task, [batch_of()])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_divergence_stops_with_the_step_and_the_last_checkpoint(
    value: float, fit: Fit, make_task: Make, tmp_path: Path
) -> None:
    steps: list[int] = []

    def loss_g(logits: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        return logits.mean() * (value if len(steps) == BATCHES + 2 else 1.0)

    with pytest.raises(UserError, match=r"loss_g not finite at step 8; .*last\.ckpt.*task\.optimizer_g\.lr"):
        fit(tmp_path, max_epochs=4, task=make_task(loss_g=loss_g))
    checkpoint = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert checkpoint["gan"]["g_steps"] == BATCHES
    assert all(v.isfinite().all() for v in checkpoint["state_dict"].values())


def test_a_precision_that_is_not_honoured_is_refused(make_task: Make) -> None:
    task = make_task()
    task.trainer = type("FakeTrainer", (), {"precision": "16-true"})()
    with pytest.raises(UserError, match=r"trainer\.precision=bf16-mixed"):
        GANTask.on_fit_start(task)


def test_bf16_trains_and_weights_stay_float32(make_task: Make) -> None:
    task = run_steps(make_task(), [batch_of()] * 2, precision="bf16-mixed")
    assert {p.dtype for p in task.parameters()} == {torch.float32}
    assert task.sample(3, seed=0).shape == (3, 1, 16, 16)


def test_latents_differ_between_steps_and_ranks(make_task: Make) -> None:
    seen: list[bytes] = []
    for rank in (0, 1):
        task = make_task()
        task.generator.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].numpy().tobytes()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GANTask, "global_rank", rank)
            run_steps(task, [batch_of()] * 2)
    assert len(set(seen)) == 4


def test_latents_drawn_ahead_are_those_of_each_step(make_task: Make) -> None:
    """Whatever the order, the size of a batch and where a resumed training begins."""
    generator = make_task().generator
    ahead = LatentsAhead(generator, lambda step: 100 + step)
    for step, n, start in [(5, 4, 0), (6, 4, 0), (7, 2, 0), (8, 4, 4), (40, 4, 0), (6, 4, 0), (6, 4, 0)]:
        expected = generator.sample_latent(n, seed=100 + step, start=start)
        assert torch.equal(ahead.take(step, n, start), expected), (step, n, start)


def test_sampled_images_do_not_depend_on_what_is_around_them(make_task: Make) -> None:
    generator, cpu = make_task().generator, torch.device("cpu")
    sample = functools.partial(sample_images, generator, seed=5, block=4, device=cpu)
    whole = sample(11, start=0)
    assert whole.dtype == torch.uint8 and whole.shape == (11, 1, 16, 16)
    assert torch.equal(sample(5, start=3), whole[3:8])
    assert generator.training
