"""When a run stops early, that only whole epochs count, and that a killed run stops where it would have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from cxr.callback.atomic_checkpoint import AtomicCheckpointIO, load_checkpoint
from cxr.callback.checkpoints import CheckpointFiles
from cxr.callback.csv_log import CSVLog
from cxr.callback.early_stopping import EarlyStopping
from cxr.callback.step_seed import StepSeed
from cxr.errors import UserError
from cxr.script.fit import epochs_done

LOSSES = [
    5.0,
    4.0,
    4.5,
    3.9,
    3.95,
    3.92,
    3.97,
    3.0,
    2.0,
]  # with patience 3: the best is epoch 3, the end epoch 6


class Scripted(lightning.LightningModule):
    """Logs given validation losses; trains a little beside."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.layer, self.losses = torch.nn.Linear(4, 1), losses
        torch.nn.init.ones_(self.layer.weight)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.dropout(self.layer(batch)).square().mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.losses[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class StopInEpoch(Callback):
    """Do what max_time does: ask the trainer to stop after a batch in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.current_epoch == self.epoch and not trainer.is_last_batch:
            trainer.should_stop = True


class DieAfterSaving(AtomicCheckpointIO):
    def __init__(self, n_saves: int) -> None:
        self.n_saves = n_saves

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super().save_checkpoint(*args, **kwargs)
        self.n_saves -= 1
        if self.n_saves == 0:
            raise KeyError("killed")


def stopping(**changes: Any) -> EarlyStopping:
    return EarlyStopping(**{"monitor": "val/loss", "mode": "min", "patience": 3, "min_delta": 0.0, **changes})


def fit(
    path: Path,
    *callbacks: Callback,
    early: EarlyStopping | None = None,
    io: AtomicCheckpointIO | None = None,
    losses: list[float] = LOSSES,
    epochs: int = 9,
    val_every: int = 1,
) -> tuple[lightning.Trainer, EarlyStopping]:
    """Train; go on from last.ckpt where there is one."""
    early, last = early or stopping(), path / "checkpoints" / "last.ckpt"
    files = CheckpointFiles(monitor="val/loss", mode="min", every_n_epochs=1, every_n_minutes=None)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=path,
        logger=[CSVLog(save_dir=path)],
        callbacks=[*callbacks, StepSeed(seed=0), early, files],
        plugins=[io or AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=val_every,
        log_every_n_steps=2,
    )
    torch.manual_seed(0)
    x = torch.utils.data.DataLoader(torch.linspace(-1, 1, 48).view(12, 4), batch_size=4)
    trainer.fit(Scripted(losses), x, x, ckpt_path=last if last.is_file() else None)
    return trainer, early


def test_stops_after_patience(tmp_path: Path) -> None:
    trainer, early = fit(tmp_path)
    assert early.stopped
    assert epochs_done(trainer) == 7
    assert early.wait_count == 3
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 6
    assert load_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["epoch"] == 3


@pytest.mark.parametrize(
    ("change", "n_epochs"), [({"patience": 4}, 9), ({"min_delta": 0.5}, 5), ({"mode": "max"}, 4)]
)
def test_patience_gain_and_mode(change: dict[str, Any], n_epochs: int, tmp_path: Path) -> None:
    trainer, early = fit(tmp_path, early=stopping(**change))
    assert epochs_done(trainer) == n_epochs
    assert early.stopped is (n_epochs < 9)


def test_counts_validations_not_epochs(tmp_path: Path) -> None:
    """Validated every second epoch: 4.0, 3.9, 3.92, 3.0 never wait for 3."""
    _, early = fit(tmp_path, val_every=2)
    assert not early.stopped


def test_undefined_scores_are_no_gain(tmp_path: Path) -> None:
    trainer, early = fit(tmp_path, losses=[1.0, *[float("nan")] * 8])
    assert early.stopped and epochs_done(trainer) == 4


@pytest.mark.parametrize("n_saves", [1, 6, 9, 10])
def test_killed_right_after_a_checkpoint_ends_where_undisturbed(n_saves: int, tmp_path: Path) -> None:
    """The tenth save is the last of the whole run: the decision to stop is in it, and the run stays stopped."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    fit(straight)
    with pytest.raises(KeyError, match="killed"):
        fit(killed, io=DieAfterSaving(n_saves))
    trainer, early = fit(killed)
    assert early.stopped and epochs_done(trainer) == 7
    assert (killed / "metrics.csv").read_text() == (straight / "metrics.csv").read_text()
    a, b = (load_checkpoint(p / "checkpoints" / "last.ckpt") for p in (straight, killed))
    assert all(torch.equal(v, b["state_dict"][k]) for k, v in a["state_dict"].items())
    assert a["callbacks"] == b["callbacks"]


@pytest.mark.parametrize("epoch", [2, 6, 8])
def test_an_epoch_that_max_time_ended_half_way_does_not_count(epoch: int, tmp_path: Path) -> None:
    """Lightning validates it and counts it as an epoch; neither may end the run, or change how it goes on."""
    losses = LOSSES if epoch < 8 else [9.0 - e for e in range(9)]
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    fit(straight, losses=losses)
    trainer, early = fit(cut, StopInEpoch(epoch), losses=losses)
    assert not early.stopped
    assert epochs_done(trainer) == epoch
    trainer, early = fit(cut, losses=losses)
    assert early.stopped is (epoch < 8)
    assert epochs_done(trainer) == (7 if epoch < 8 else 9)
    a, b = (load_checkpoint(p / "checkpoints" / "last.ckpt") for p in (straight, cut))
    assert a["callbacks"] == b["callbacks"]


def test_what_cannot_be_watched_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="computes no 'val/los'; did you mean 'val/loss'"):
        fit(tmp_path / "b", early=stopping(monitor="val/los"))
    with pytest.raises(UserError, match=r"set callback\.early_stopping\.monitor=val/loss"):
        stopping(monitor="train/loss")
    with pytest.raises(UserError, match=r"set callback\.early_stopping\.patience="):
        stopping(patience=0)
