"""Scores within an epoch: at which images, what they do to best.ckpt, after a kill, and among processes."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

import cxr
from cxr.callback.atomic_checkpoint import load_checkpoint
from cxr.task.gan import GANTask

Fit = Callable[..., GANTask]
EVERY = 30
KID = "kid_pixel4/val"
BATCHES = [8, 8, 8, 8, 8, 4]


class KilledError(Exception):
    """Stands for kill -9."""


class Kill(Callback):
    """Save after the batch before `save_at`, die before `batch`, of one epoch."""

    def __init__(self, epoch: int, batch: int, save_at: int | None) -> None:
        self.epoch, self.batch, self.save_at = epoch, batch, save_at

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.checkpoint_callback.every_n_minutes = 0.0 if batch_idx == self.save_at else None
            if batch_idx == self.batch:
                raise KilledError


def scores(path: Path) -> dict[int, dict[str, str]]:
    """Return the scored rows of the log by step."""
    with (path / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): row for row in csv.DictReader(file) if row.get(KID)}


def due(epochs: int, every: int) -> dict[int, int]:
    """Return images seen by the step at which a score is due."""
    found, seen = {}, 0
    for step, n in enumerate(BATCHES * epochs):
        if (seen + n) // every > seen // every:
            found[step] = seen + n
        seen += n
    return found | {len(BATCHES) * epochs - 1: seen}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Fit], Path]:
    path = tmp_path_factory.mktemp("straight")

    def get(fit: Fit) -> Path:
        if not (path / "checkpoints").exists():
            fit(path, max_epochs=2, every_n_images=EVERY)
        return path

    return get


def test_the_best_is_saved_the_moment_it_is_scored(straight: Callable[[Fit], Path], fit: Fit) -> None:
    path = straight(fit)
    found, expected = scores(path), due(2, EVERY)
    assert list(found) == list(expected) == [3, 7, 11]  # two within an epoch, and the end
    best = min(found, key=lambda step: float(found[step][KID]))
    checkpoint = load_checkpoint(path / "checkpoints" / "best.ckpt")
    assert checkpoint["gan"]["images_seen"] == expected[best]
    state = next(v for k, v in checkpoint["callbacks"].items() if k.startswith("CheckpointFiles"))
    assert state["best_score"] == float(found[best][KID])
    assert {"fid_n12to9_pixel4/val", "collapsed", "msssim_pairs4_scales1_window11/synthetic"} <= set(found[3])
    assert [row["epoch"] for row in found.values()] == ["0", "1", "1"]


@pytest.mark.parametrize(
    "kill",
    [
        Kill(epoch=0, batch=5, save_at=3),  # the checkpoint holds the score of its own step
        Kill(epoch=0, batch=5, save_at=2),  # and one just before a score, which is computed again
        Kill(epoch=1, batch=5, save_at=1),
        Kill(epoch=1, batch=5, save_at=4),
        Kill(epoch=1, batch=0, save_at=None),
    ],
    ids=lambda k: f"epoch{k.epoch}-save{k.save_at}",
)
def test_killed_and_resumed_scores_what_a_straight_run_scores(
    kill: Kill, straight: Callable[[Fit], Path], fit: Fit, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        fit(tmp_path, max_epochs=2, every_n_images=EVERY, callbacks=[kill])
    torch.manual_seed(12345)
    fit(tmp_path, max_epochs=2, every_n_images=EVERY, resume=True)
    one, other = straight(fit), tmp_path
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    for name in ("last", "best"):
        a, b = (load_checkpoint(path / "checkpoints" / f"{name}.ckpt") for path in (one, other))
        assert a["callbacks"] == b["callbacks"] and a["gan"] == b["gan"]
        assert all(torch.equal(v, b["state_dict"][k]) for k, v in a["state_dict"].items())


def test_scores_do_not_change_the_training(straight: Callable[[Fit], Path], fit: Fit, tmp_path: Path) -> None:
    fit(tmp_path, max_epochs=2, every_n_images=10**6)
    a, b = (load_checkpoint(path / "checkpoints" / "last.ckpt") for path in (straight(fit), tmp_path))
    assert all(torch.equal(v, b["state_dict"][k]) for k, v in a["state_dict"].items())
    assert list(scores(tmp_path)) == [11]  # the end is always scored


def test_pending_gradients_are_waited_for(
    fit: Fit, make_task: Callable[..., GANTask], tmp_path: Path
) -> None:
    fit(tmp_path, max_epochs=1, every_n_images=8, task=make_task(accumulate=2))
    assert list(scores(tmp_path)) == [1, 3, 5]  # due after every batch


def test_a_part_of_a_sample_has_the_bytes_of_the_whole(
    fit: Fit, make_task: Callable[..., GANTask], tmp_path: Path
) -> None:
    task = fit(tmp_path, max_epochs=1, every_n_images=10**6)
    whole = task.sample(9, seed=3)
    pieces = [task.sample(9, seed=3, part=part) for part in ((0, 4), (4, 4), (4, 9))]
    assert torch.equal(torch.cat(pieces), whole)


DDP = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
import cxr, lightning, numpy as np, torch
sys.path.insert(0, sys.argv[1])
from conftest import score_of, tiny_data, tiny_task
from cxr.callback.generative_score import GenerativeScore
from cxr.gan.acrnet import Discriminator, Generator

def values(trainer):
    return {k: float(v) for k, v in trainer.callback_metrics.items() if "/" in k or k == "collapsed"}

class Alone(lightning.Callback):
    '''After each score, what one process alone makes of the same generator, each process for itself.'''
    found = []
    def on_train_batch_end(self, trainer, task, *args):
        score = next(c for c in trainer.callbacks if isinstance(c, GenerativeScore))
        if score.scored_at == task.images_seen:
            fake = SimpleNamespace(
                datamodule=trainer.datamodule, global_rank=0, world_size=1, strategy=trainer.strategy, loggers=[],
                callback_metrics={}, progress_bar_metrics={}, current_epoch=0,
            )
            alone = score_of(1)
            alone.on_fit_start(fake, task)
            alone._score(fake, task, step=0)
            self.found.append((task.images_seen, values(trainer), values(fake)))

sizes = {"image_size_px": 16, "channels": 3, "n_batch_norm": 1, "seed": 0}
task = tiny_task(
    generator=Generator(latent_dim=8, widths=[4, 4], **sizes),
    discriminator=Discriminator(widths=[4, 4], negative_slope=0.2, **sizes),
)
data = tiny_data()
data.parts = {"train": np.arange(43), "val": np.arange(43, 56)}
lightning.Trainer(
    accelerator="cpu", devices=2, strategy="ddp_find_unused_parameters_true", max_epochs=1, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    use_distributed_sampler=False, callbacks=[score_of(30), Alone()],
).fit(task, datamodule=data)
Path(sys.argv[2], f"rank{task.global_rank}.json").write_text(json.dumps(Alone.found))
"""


@pytest.mark.slow  # two processes that import everything; threads stand for them in tests/callback
def test_two_processes_score_as_one_does(tmp_path: Path) -> None:
    """13 validation and 9 generated images, 4 pairs: nothing divides evenly."""
    script = tmp_path / "ddp.py"
    script.write_text(DDP)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(cxr.__file__).parents[1])}
    here = str(Path(__file__).parent)
    subprocess.run(
        [sys.executable, str(script), here, str(tmp_path)], env=environment, check=True, timeout=180
    )
    ranks = [json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1)]
    assert [seen for seen, *_ in ranks[0]] == [32]
    _, together, alone = ranks[0][0]
    assert set(together) == set(alone) and len(together) == 6
    for name, value in alone.items():
        assert math.isfinite(value)
        for rank in ranks:
            assert rank[0][1][name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
            assert rank[0][2][name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
