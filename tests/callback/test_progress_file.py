"""How far a training is, as a watcher reads it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from cxr.callback.csv_log import CSVLog
from cxr.callback.progress_file import ProgressFile
from cxr.run.progress import PROGRESS, Progress, read_progress, write_progress

HALF = Progress(
    stage="training",
    epochs_done=2,
    epochs=4,
    batches_done=0,
    batches=10,
    images_seen=640,
    scores={"train/loss": float("nan"), "val/accuracy": 0.75},
    began=1000.0,
    began_at=0.25,
    updated=1100.0,
    pid=7,
)


def test_shares_and_time_left_by_hand() -> None:
    """A quarter took 100 s, so the half that is left takes 200 s from the record on."""
    assert HALF.done == 0.5
    assert HALF.epoch == 3
    assert HALF.left_s(now=1100.0) == pytest.approx(200.0)
    assert HALF.left_s(now=1150.0) == pytest.approx(150.0)
    assert HALF.left_s(now=9999.0) == 0.0
    assert replace(HALF, batches_done=5).done == pytest.approx(0.625)
    assert replace(HALF, began_at=0.5).left_s(now=1100.0) is None  # nothing measured yet
    assert replace(HALF, epochs_done=4).epoch == 4


def test_the_headline_stands_for_the_run() -> None:
    assert HALF.headline() == ("val/accuracy", 0.75)
    assert replace(HALF, scores={"loss_d": 1.0, "loss_g": 2.0}).headline() == ("loss_d", 1.0)
    assert replace(HALF, scores={}).headline() is None


def test_what_is_written_is_read_and_nothing_else_is(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    write_progress(tmp_path, HALF)
    assert read_progress(tmp_path) == replace(HALF, scores={"train/loss": None, "val/accuracy": 0.75})
    assert [p.name for p in tmp_path.iterdir()] == [PROGRESS]
    text = (tmp_path / PROGRESS).read_text()
    for broken in (text[:40], "[]", "{}", json.dumps({**json.loads(text), "schema": 2}), '{"schema": 1}'):
        (tmp_path / PROGRESS).write_text(broken)
        assert read_progress(tmp_path) is None
    write_progress(tmp_path / "no such folder", HALF)  # a full or absent disk never stops a training


class Tiny(lightning.LightningModule):
    """One weight; what the file says is noted whenever a step, a validation or an epoch ends."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.folder, self.seen = folder, list[tuple[str, int, int, float]]()

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch[0]).square().mean()
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self._note()
        self.log("val/accuracy", 0.5, batch_size=1)

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        self._note()

    def _note(self) -> None:
        if (now := read_progress(self.folder)) is not None:
            self.seen.append((now.stage, now.epochs_done, now.batches_done, now.done))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, max_epochs: int, every_s: float, resume: Path | None = None, stop_at: int = -1) -> Tiny:
    task = Tiny(folder)
    loader = DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=1)

    class Stop(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
            trainer.should_stop = trainer.should_stop or trainer.global_step == stop_at

    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=max_epochs,
        logger=CSVLog(save_dir=folder),
        callbacks=[ProgressFile(every_s=every_s), Stop()],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(task, loader, DataLoader(TensorDataset(torch.ones(1, 1))), ckpt_path=resume)
    trainer.save_checkpoint(folder / "last.ckpt")
    return task


def test_it_follows_steps_validations_and_epochs_and_goes_on_when_resumed(tmp_path: Path) -> None:
    task = fit(tmp_path, max_epochs=2, every_s=0.0)
    first = [("training", 0, n, n / 8) for n in (1, 2, 3, 4)]
    second = [("training", 1, n, 0.5 + n / 8) for n in (1, 2, 3, 4)]
    assert task.seen == [*first, ("validation", 0, 4, 0.5), *second, ("validation", 1, 4, 1.0)]
    end = read_progress(tmp_path)
    assert end is not None
    assert (end.epochs_done, end.batches_done, end.done, end.scores) == (2, 0, 1.0, {"val/accuracy": 0.5})

    task = fit(tmp_path, max_epochs=4, every_s=999.0, resume=tmp_path / "last.ckpt")
    assert task.seen[0] == ("training", 2, 0, 0.5)  # of on_train_start
    end = read_progress(tmp_path)
    assert end is not None
    assert (end.done, end.began_at) == (1.0, 0.5)


def test_a_training_stopped_half_way_through_an_epoch(tmp_path: Path) -> None:
    fit(tmp_path, max_epochs=4, every_s=999.0, stop_at=6)
    end = read_progress(tmp_path)
    assert end is not None
    assert (end.epochs_done, end.batches_done, end.done) == (1, 2, 1.5 / 4)


def test_a_step_without_a_write_costs_next_to_nothing(tmp_path: Path) -> None:
    """The limit is 0.1 ms a step; 20 µs leaves room for a busy machine."""
    callback, trainer, task = ProgressFile(every_s=999.0), lightning.Trainer(logger=False), Tiny(tmp_path)
    callback._due = time.monotonic() + 999.0
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        for step in range(100):
            callback.on_train_batch_end(trainer, task, None, None, step)
        best = min(best, (time.perf_counter() - began) / 100)
    assert best < 20e-6
