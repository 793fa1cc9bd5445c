"""When last.ckpt and best.ckpt are written, and what a task that logs through Lightning gets back."""

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
from cxr.callback.step_seed import StepSeed
from cxr.errors import UserError

SCORES = {0: None, 1: 5.0, 2: None, 3: 3.0, 4: None, 5: 4.0}


class Line(lightning.LightningModule):
    """A regression with dropout and automatic optimisation that logs in every way there is."""

    def __init__(self, scores: dict[int, float | None], logs_at: str = "train_epoch_end") -> None:
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
        torch.nn.init.ones_(self.layer[1].weight)
        torch.nn.init.zeros_(self.layer[1].bias)
        self.scores, self.logs_at = scores, logs_at

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.layer(batch).square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("loss_mean", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch).square().mean())

    def on_train_epoch_end(self) -> None:
        score = self.scores.get(self.current_epoch)
        if score is not None:
            self.log("score", score)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class Die(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise KeyError("killed")


class DieAfterSaving(AtomicCheckpointIO):
    """Die in the instant between a checkpoint and whatever Lightning does next."""

    def __init__(self, n_saves: int) -> None:
        self.n_saves = n_saves

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super().save_checkpoint(*args, **kwargs)
        self.n_saves -= 1
        if self.n_saves == 0:
            raise KeyError("killed")


def fit(
    path: Path,
    *,
    mode: str = "min",
    epochs: int = 6,
    minutes: float | None = None,
    io: AtomicCheckpointIO | None = None,
    callbacks: tuple[Callback, ...] = (),
    scores: dict[int, float | None] | None = None,
    val_every: int = 2,
    resume: bool = False,
    monitor: str = "score",
) -> CheckpointFiles:
    files = CheckpointFiles(monitor=monitor, mode=mode, every_n_epochs=1, every_n_minutes=minutes)  # type: ignore[arg-type]
    x = torch.linspace(-1, 1, 48).view(12, 4)
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=path,
        logger=[CSVLog(save_dir=path)],
        callbacks=[*callbacks, StepSeed(seed=0), files],
        plugins=[io or AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=val_every,
        log_every_n_steps=2,
    ).fit(
        Line(SCORES if scores is None else scores),
        torch.utils.data.DataLoader(x, batch_size=4),
        torch.utils.data.DataLoader(x, batch_size=4),
        ckpt_path=str(path / "checkpoints" / "last.ckpt") if resume else None,
    )
    return files


def epoch_of(path: Path) -> int:
    return int(load_checkpoint(path)["epoch"])


@pytest.mark.parametrize(("mode", "best"), [("min", 3), ("max", 1)])
def test_best_is_an_epoch_that_was_scored(mode: str, best: int, tmp_path: Path) -> None:
    files = fit(tmp_path, mode=mode)
    assert (files.best_epoch, files.best_score) == (best, SCORES[best])
    assert epoch_of(tmp_path / "checkpoints" / "best.ckpt") == best
    assert epoch_of(tmp_path / "checkpoints" / "last.ckpt") == 5


def test_a_stale_score_names_no_best(tmp_path: Path) -> None:
    """The score of epoch 1 stays in Lightning's table; it must not count in epoch 2."""
    saved: list[int] = []

    class Note(AtomicCheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            if Path(path).name == "best.ckpt":
                saved.append(checkpoint["epoch"])
            super().save_checkpoint(checkpoint, path, storage_options)

    fit(tmp_path, io=Note())
    assert saved == [1, 3]


def test_the_monitor_may_be_a_pattern_of_one_score(tmp_path: Path) -> None:
    assert fit(tmp_path / "a", monitor="sc*e").best_score == 3.0
    with pytest.raises(
        UserError, match=r"loss\* is loss.* and .*expected one score; set 'callback.checkpoints"
    ):
        fit(tmp_path / "b", monitor="loss*", epochs=1)
    assert (
        fit(tmp_path / "c", monitor="s[c]ore", epochs=2).best_score is None
    )  # brackets hold protocols, not choices


def test_nan_is_no_best(tmp_path: Path) -> None:
    files = fit(tmp_path, epochs=2, scores={0: float("nan"), 1: 2.0})
    assert (files.best_epoch, files.best_score) == (1, 2.0)


def test_no_score_writes_no_best(tmp_path: Path) -> None:
    fit(tmp_path, epochs=2, scores={})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("n_saves", range(1, 9))
def test_killed_right_after_any_checkpoint(n_saves: int, tmp_path: Path) -> None:
    """Values that Lightning logs only after the checkpoint are in the resumed run's log all the same."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    fit(straight)
    with pytest.raises(KeyError, match="killed"):
        fit(killed, io=DieAfterSaving(n_saves))
    fit(killed, resume=(killed / "checkpoints" / "last.ckpt").exists())
    assert (killed / "metrics.csv").read_text() == (straight / "metrics.csv").read_text()
    for name in ("last", "best"):
        a, b = (load_checkpoint(p / "checkpoints" / f"{name}.ckpt") for p in (straight, killed))
        assert all(torch.equal(v, b["state_dict"][k]) for k, v in a["state_dict"].items())
        assert a["callbacks"] == b["callbacks"]


def test_log_has_every_value_once(tmp_path: Path) -> None:
    fit(tmp_path, epochs=2)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert set(rows[0].split(",")) == {
        "step", "epoch", "loss_step", "loss_epoch", "loss_mean", "val_loss", "score",
    }  # fmt: skip
    assert [r.split(",")[0] for r in rows[1:]] == ["1", "2", "3", "5"]  # every 2 steps, and each epoch's end


def test_saves_within_an_epoch(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="killed"):
        fit(tmp_path, minutes=0.0, callbacks=(Die(step=5),))
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 5


def test_step_seed_is_a_function_of_seed_epoch_and_batch() -> None:
    draws = []
    for seed, epoch, batch, rank in [
        (0, 0, 0, 0),
        (0, 0, 0, 0),
        (1, 0, 0, 0),
        (0, 1, 0, 0),
        (0, 0, 1, 0),
        (0, 0, 0, 1),
    ]:
        trainer: Any = type("FakeTrainer", (), {"current_epoch": epoch, "global_rank": rank})
        trainer.strategy = type("FakeStrategy", (), {"root_device": torch.device("cpu")})
        StepSeed(seed=seed).on_train_batch_start(trainer, trainer, None, batch)
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1]
    assert len(set(draws)) == 5
