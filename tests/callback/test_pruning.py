"""When a search ends a run: after whole epochs, saved, never in the last, and by the score of that search."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
import lightning
import torch

from cxr.callback.atomic_checkpoint import AtomicCheckpointIO, load_checkpoint
from cxr.callback.checkpoints import CheckpointFiles
from cxr.callback.pruning import Pruning
from cxr.run.headline import find_score
from cxr.search.trial import TrialOf


@dataclass
class Scripted:
    """A trial that is told to end after some epochs; remembers what was reported."""

    end_after: int
    metric: str | None = None
    told: list[tuple[int, str, float]] = field(default_factory=list)

    def score(self, values: dict[str, float]) -> tuple[str, float] | None:
        name = find_score(values, self.metric)
        return None if name is None else (name, values[name])

    def report(self, epochs: int, name: str, value: float) -> str | None:
        self.told.append((epochs, name, round(value, 4)))
        return "behind" if epochs >= self.end_after else None


class Module(lightning.LightningModule):
    """Logs 0.1, 0.2, … as accuracy; nothing that is a number in the epoch `nan_at`."""

    def __init__(self, nan_at: int | None = None) -> None:
        super().__init__()
        self.layer, self.nan_at = torch.nn.Linear(4, 1), nan_at

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).square().mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        score = float("nan") if self.current_epoch == self.nan_at else (self.current_epoch + 1) / 10
        self.log_dict({"val/accuracy": score, "val/loss": 1 - score})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def fit(tmp_path: Path, trial: Scripted, module: Module) -> tuple[Pruning, lightning.Trainer]:
    pruning = Pruning(cast(TrialOf, trial))
    checkpoints = CheckpointFiles(monitor=None, mode="max", every_n_epochs=10, every_n_minutes=None)
    data: Any = torch.utils.data.DataLoader(torch.ones(4, 4), batch_size=2)
    trainer = lightning.Trainer(
        max_epochs=4,
        accelerator="cpu",
        callbacks=[checkpoints, pruning],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data, data)
    return pruning, trainer


def test_it_ends_after_a_whole_epoch_with_a_checkpoint(tmp_path: Path) -> None:
    trial = Scripted(end_after=2)
    pruning, trainer = fit(tmp_path, trial, Module())
    assert pruning.reason == "behind"
    assert trainer.current_epoch == 2
    assert trial.told == [(1, "val/accuracy", 0.1), (2, "val/accuracy", 0.2)]
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 1  # the second, from 0


def test_the_last_epoch_is_a_result_and_a_score_that_is_no_number_is_not_reported(tmp_path: Path) -> None:
    trial = Scripted(end_after=4, metric="val/loss")
    pruning, trainer = fit(tmp_path, trial, Module(nan_at=1))
    assert pruning.reason is None
    assert trainer.current_epoch == 4
    assert trial.told == [(1, "val/loss", 0.9), (3, "val/loss", 0.7)]


def test_a_score_that_is_not_computed_ends_nothing(tmp_path: Path) -> None:
    trial = Scripted(end_after=1, metric="val/dice")
    assert fit(tmp_path, trial, Module())[0].reason is None
    assert trial.told == []
