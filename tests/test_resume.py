"""A run stopped by a signal anywhere and resumed, again and again, equals one never stopped, bit for bit."""

from __future__ import annotations

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from cxr.callback.atomic_checkpoint import load_checkpoint
from cxr.callback.checkpoints import CheckpointFiles
from cxr.callback.csv_log import CSVLog
from cxr.callback.early_stopping import EarlyStopping
from cxr.callback.generative_score import GenerativeScore
from cxr.callback.preemption import StopOnSignal
from cxr.callback.step_seed import StepSeed
from cxr.classifier.base import Classifier
from cxr.data.module import CXRDataModule
from cxr.errors import UserError
from cxr.extractor.pixel import PixelExtractor
from cxr.gan.talukdar import Discriminator, Generator
from cxr.loss.classification import BCE
from cxr.loss.gan import discriminator_bce, generator_bce
from cxr.run.signals import STOPS, as_ctrl_c, stop_if_heard
from cxr.task.classifier import ClassifierTask
from cxr.task.gan import GANTask
from cxr.trainer import cluster_environment, make_trainer

EPOCHS = 4
ADAM = functools.partial(torch.optim.Adam, lr=1e-2)
PLATEAU = functools.partial(torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=0, threshold=0.5)


class Tiny(Classifier):
    """Logits from 16 px images, by way of a batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size_px, self.channels, self.n_outputs = 16, 1, 1
        self.weights, self.last_conv = "random", "0"
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(196, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


def noise(batch: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """An augmentation that any other random state would change."""
    noisy: np.ndarray[Any, Any] = batch // 2 + rng.integers(0, 128, batch.shape)
    return noisy.astype(np.uint8)


def classifier(**changes: Any) -> ClassifierTask:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "loss": BCE(pos_weight=None, label_smoothing=0.0), "optimizer": ADAM, "scheduler": PLATEAU,
        "classes": ["NORMAL", "SICK"], "multi_label": False, "channels_last": True,
    }  # fmt: skip
    return ClassifierTask(network=Tiny(), **(values | changes))


def gan(**changes: Any) -> GANTask:
    common: dict[str, Any] = {
        "image_size_px": 16, "channels": 3, "negative_slope": 0.2, "init": "glorot", "seed": 0
    }  # fmt: skip
    values: dict[str, Any] = {
        "generator": Generator(latent_dim=8, widths=[4, 4, 4], **common),
        "discriminator": Discriminator(widths=[4, 4], dropout=0.2, **common),
        "loss_g": generator_bce, "loss_d": functools.partial(discriminator_bce, real_target=1.0),
        "optimizer_g": ADAM, "optimizer_d": ADAM, "clip_grad_norm": None, "accumulate": 1,
        "ema_half_life_images": 50, "ema_rampup": 0.5, "channels_last": True, "classes": ["NORMAL"], "seed": 0,
    }  # fmt: skip
    return GANTask(**(values | changes))


def data(workers: int = 0) -> CXRDataModule:
    """36 training images in 4 batches of 8 and one of 4; 12 validation images."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 48)
    return CXRDataModule(
        images=rng.integers(0, 256, (48, 16, 16), dtype=np.uint8),
        labels=np.stack([1 - labels, labels], axis=1).astype(np.float32),
        parts={"train": np.arange(36), "val": np.arange(36, 48)},
        batch_size=8, eval_batch_size=8, num_workers=workers, drop_last=False, seed=0, augment=noise,
    )  # fmt: skip


def score() -> GenerativeScore:
    """Due within epochs and at their ends: an epoch shows 36 images."""
    return GenerativeScore(
        every_n_images=12, n_images=9, extractor=PixelExtractor(size_px=4), scores=["kid", "fid"], n_subsets=3,
        n_pairs=4, seed=0,
    )  # fmt: skip


class Send(Callback):
    """Sends a signal to this process at the n-th call of a hook, in the middle of everything."""

    def __init__(self, hook: str, n: int, number: signal.Signals = signal.SIGTERM) -> None:
        self.left = n

        def called(*_: Any, **__: Any) -> None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), number)

        setattr(self, hook, called)


def fit(
    folder: Path,
    make: Callable[..., lightning.LightningModule],
    *sent: Callback,
    workers: int = 0,
    accumulate: int = 1,
    early: int | None = None,
    every_n_epochs: int = 1,
    epochs: int = EPOCHS,
) -> bool:
    """Train as train.py does, from last.ckpt if there is one; return whether a signal stopped it short of the end."""
    is_gan = make is gan
    callbacks: list[Callback] = [
        CheckpointFiles(
            monitor="kid_*/val" if is_gan else "val/auroc", mode="min" if is_gan else "max",
            every_n_epochs=every_n_epochs, every_n_minutes=None,
        ),
        StepSeed(seed=0),
    ]  # fmt: skip
    if is_gan:
        callbacks.append(score())
    if early is not None:
        callbacks.append(EarlyStopping(monitor="val/loss", mode="min", patience=early, min_delta=10.0))
    task = make(accumulate=accumulate) if is_gan else make()
    last = folder / "checkpoints/last.ckpt"
    with StopOnSignal() as stop:
        trainer = make_trainer(
            accelerator="cpu", devices=1, num_nodes=1, strategy="auto", precision="32-true", max_epochs=epochs,
            max_time=None, gradient_clip_val=None, accumulate_grad_batches=1 if is_gan else accumulate,
            check_val_every_n_epoch=1, log_every_n_steps=2, limit_train_batches=None, deterministic=False,
            sync_batchnorm=False, progress="none", run_dir=folder, logger=[CSVLog(save_dir=folder)],
            callbacks=[stop, *sent, *callbacks],
        )  # fmt: skip
        try:
            trainer.fit(task, datamodule=data(workers), ckpt_path=str(last) if last.is_file() else None)
        except SystemExit:
            assert stop.heard is not None
            return True
    return stop.stopped and trainer.current_epoch < epochs


def differences(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """Yield where two checkpoint trees differ in a bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(k for k in b if k not in a)]:
            if key not in a or key not in b:
                yield f"{path}/{key} in one only"
            else:
                yield from differences(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{path}/{i}")
    elif isinstance(a, Tensor) and isinstance(b, Tensor):
        if not torch.equal(a, b):
            yield path
    elif a != b:
        yield f"{path}: {a!r} != {b!r}"


def assert_equal(calm: Path, rough: Path) -> None:
    """Weights, optimisers, schedulers, counters, positions, bests and curves."""
    for name in ("last.ckpt", "best.ckpt"):
        a, b = (load_checkpoint(folder / "checkpoints" / name) for folder in (calm, rough))
        assert not list(differences(a, b)), name
    assert (calm / "metrics.csv").read_text() == (rough / "metrics.csv").read_text()


KINDS = {"classifier": classifier, "gan": gan}


@pytest.fixture(
    scope="module", params=[("classifier", 1), ("classifier", 2), ("gan", 1), ("gan", 2)], ids=str
)
def calm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int, Path]:
    kind, accumulate = request.param
    folder = tmp_path_factory.mktemp("calm")
    assert not fit(folder, KINDS[kind], accumulate=accumulate)
    return kind, accumulate, folder


def test_signals_at_every_kind_of_moment(calm: tuple[str, int, Path], tmp_path: Path) -> None:
    """One run, stopped by one signal after the other; each attempt gets at least a step further."""
    kind, accumulate, straight = calm
    total = load_checkpoint(straight / "checkpoints/last.ckpt")["global_step"]
    moments = [
        Send("on_train_batch_start", 2, signal.SIGUSR2),
        Send("on_train_batch_end", 1, signal.SIGINT),
        Send("on_save_checkpoint", 1),
        Send("on_train_epoch_end", 1, signal.SIGUSR2),
        Send("on_train_batch_end", 7),
        Send("on_validation_batch_end" if kind == "classifier" else "on_train_batch_start", 1),
        Send("on_train_epoch_start", 1, signal.SIGINT),
    ]
    stopped, step = 0, 0
    for moment in moments:
        stopped += fit(tmp_path, KINDS[kind], moment, accumulate=accumulate)
        before, step = step, load_checkpoint(tmp_path / "checkpoints/last.ckpt")["global_step"]
        assert moment.left > 0 or step > before or step == total, "nothing was saved"
    assert stopped >= 4
    fit(tmp_path, KINDS[kind], accumulate=accumulate)
    assert_equal(straight, tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_rare_checkpoints(workers: int, tmp_path: Path) -> None:
    """Within the second of two epochs that share a checkpoint, at the end of the first, and in its validation."""
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    fit(calm, classifier, every_n_epochs=2, epochs=3)
    moments = (
        Send("on_validation_start", 1),
        Send("on_train_batch_end", 3),
        Send("on_train_epoch_end", 1, signal.SIGINT),
    )
    for moment in moments:
        assert fit(rough, classifier, moment, workers=workers, every_n_epochs=2, epochs=3) or moment.left > 0
    fit(rough, classifier, workers=workers, every_n_epochs=2, epochs=3)
    assert_equal(calm, rough)


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_early_stopping_that_is_pending(moment: int, tmp_path: Path) -> None:
    """A signal in a validation before the one that ends the run, in that one, and where there is none any more."""
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    fit(calm, classifier, early=1)
    assert load_checkpoint(calm / "checkpoints/last.ckpt")["epoch"] == 1, (
        "patience 1: the second epoch ends it"
    )
    fit(rough, classifier, Send("on_validation_start", moment), early=1)
    fit(rough, classifier, early=1)
    assert_equal(calm, rough)


def test_a_score_in_the_making_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal while images are judged: what is due is logged before the checkpoint, so it is not lost."""
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    fit(calm, gan, epochs=2)
    plain, calls = GenerativeScore._features, iter(range(1000))

    def interrupted(self: GenerativeScore, *values: Any) -> Any:
        if next(calls) in (2, 6, 9):  # each attempt looks once at the real images
            os.kill(os.getpid(), signal.SIGUSR2)
        return plain(self, *values)

    monkeypatch.setattr(GenerativeScore, "_features", interrupted)
    stopped = [fit(rough, gan, epochs=2) for _ in range(4)]
    assert sum(stopped) == 3
    assert_equal(calm, rough)


def test_a_second_ctrl_c_while_saving_stops_at_once_and_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    fit(calm, gan, epochs=2)
    fit(rough, gan, Send("on_train_batch_end", 2), epochs=2)
    before = (rough / "checkpoints/last.ckpt").read_bytes()
    plain = torch.save

    def slow(checkpoint: Any, path: Path) -> None:
        plain(checkpoint, path)
        os.kill(os.getpid(), signal.SIGINT)
        path.write_bytes(b"never reached")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", slow)
        with pytest.raises(AssertionError, match="at once"):
            fit(rough, gan, Send("on_train_batch_end", 2, signal.SIGINT), FailAtOnce(), epochs=2)
    assert (rough / "checkpoints/last.ckpt").read_bytes() == before
    fit(rough, gan, epochs=2)
    assert_equal(calm, rough)


class FailAtOnce(Callback):
    """Marks the exception that Lightning saw: it turns KeyboardInterrupt into SystemExit."""

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        assert not isinstance(exception, KeyboardInterrupt), "at once"


def test_before_training_a_signal_ends_it_at_once_and_handlers_are_given_back() -> None:
    before = [signal.getsignal(n) for n in STOPS]
    for number in STOPS:
        with pytest.raises(KeyboardInterrupt, match=f"stopped by {number.name}"), StopOnSignal():
            os.kill(os.getpid(), number)
    assert [signal.getsignal(n) for n in STOPS] == before


def test_a_signal_that_python_swallowed_is_not_lost() -> None:
    class Swallows:
        def __del__(self) -> None:
            with contextlib.suppress(
                KeyboardInterrupt
            ):  # as Python does itself in such a callback, and says so
                os.kill(os.getpid(), signal.SIGUSR2)

    before = [signal.getsignal(n) for n in STOPS]
    with as_ctrl_c():
        stop_if_heard()
        Swallows()
        with pytest.raises(KeyboardInterrupt, match="stopped by SIGUSR2"), StopOnSignal():
            pytest.fail("trains")
    assert [signal.getsignal(n) for n in STOPS] == before
    with as_ctrl_c():
        stop_if_heard()  # the next program in this process has heard nothing


def _agree(rank: int, rendezvous: str, out: Any) -> None:
    """Step in one of two processes; the second hears a signal at its step 5."""
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    progress = SimpleNamespace(is_last_batch=False, total=SimpleNamespace(ready=0))
    loop = SimpleNamespace(batch_progress=progress)
    trainer: Any = type("Fake", (), {"world_size": 2, "accumulate_grad_batches": 1, "is_last_batch": False})()
    trainer.fit_loop, trainer.should_stop = type("Loop", (), {"epoch_loop": loop})(), False
    with StopOnSignal(every_n_steps=4) as stop:
        stop.on_train_start(trainer, None)  # type: ignore[arg-type]
        for step in range(100):
            if rank == 1 and step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            progress.total.ready = step + 1
            stop.on_train_batch_end(trainer, None, None, None, step)  # type: ignore[arg-type]
            if trainer.should_stop:
                break
    out.put((rank, step, stop.reason))


def test_processes_stop_at_the_same_step(tmp_path: Path) -> None:
    """Flags are summed after steps 4, 8, …; the sum that has rank 1's is that of step 8, read at step 12."""
    context: Any = torch.multiprocessing.get_context("fork")
    out = context.SimpleQueue()
    processes = [
        context.Process(target=_agree, args=(rank, f"file://{tmp_path}/meet", out)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted(out.get() for _ in processes) == [
        (0, 11, "stopped by a signal to another process"),
        (1, 11, "stopped by SIGTERM"),
    ]


SRUN = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "train"}


@pytest.mark.parametrize(
    ("variables", "devices", "num_nodes", "kind"),
    [
        ({}, 1, 1, None),
        ({"SLURM_NTASKS": "2", **SRUN}, 2, 1, SLURMEnvironment),  # srun --ntasks=2
        ({"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", **SRUN}, 1, 2, SLURMEnvironment),
        ({"SLURM_NTASKS": "1", **SRUN}, "auto", 1, SLURMEnvironment),
        ({"SLURM_NTASKS": "1", **SRUN}, 2, 1, LightningEnvironment),  # one task that starts its own
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train"}, 1, 1, LightningEnvironment),  # salloc
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, 1, 1, LightningEnvironment),  # sbatch, without srun
        (
            {"SLURM_NTASKS": "1", **SRUN, "SLURM_JOB_NAME": "bash"},
            1,
            1,
            LightningEnvironment,
        ),  # srun --pty bash
        ({"SLURM_NTASKS": "2", **SRUN}, 1, 1, UserError),
    ],
)
def test_environment_under_slurm(
    variables: dict[str, str], devices: Any, num_nodes: int, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "")
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")  # so that what is set is unset again
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if kind is UserError:
        with pytest.raises(UserError, match=r"srun started 2 tasks.*--ntasks-per-node=1"):
            cluster_environment(devices, num_nodes)
        return
    found = cluster_environment(devices, num_nodes)
    assert [type(one) for one in found] == ([kind] if kind else [])
    if kind is SLURMEnvironment:
        assert not found[0].auto_requeue  # type: ignore[attr-defined]
