"""A GAN small enough to be trained in a test, on the real data module."""

from __future__ import annotations

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

from cxr.callback.atomic_checkpoint import AtomicCheckpointIO
from cxr.callback.checkpoints import CheckpointFiles
from cxr.callback.csv_log import CSVLog
from cxr.callback.generative_score import GenerativeScore
from cxr.callback.sample_grid import SampleGrid
from cxr.callback.step_seed import StepSeed
from cxr.data.module import CXRDataModule
from cxr.extractor.pixel import PixelExtractor
from cxr.gan.talukdar import Discriminator, Generator
from cxr.loss.gan import discriminator_bce, generator_bce
from cxr.task.gan import GANTask


def tiny_task(**changes: Any) -> GANTask:
    """A 16 px GAN with a few thousand parameters."""
    common = {"image_size_px": 16, "channels": 3, "negative_slope": 0.2, "init": "glorot", "seed": 0}
    adam = functools.partial(torch.optim.Adam, lr=1e-3, fused=True)
    values: dict[str, Any] = {
        "generator": Generator(latent_dim=8, widths=[4, 4, 4], **common),  # type: ignore[arg-type]
        "discriminator": Discriminator(widths=[4, 4], dropout=0.2, **common),  # type: ignore[arg-type]
        "loss_g": generator_bce,
        "loss_d": functools.partial(discriminator_bce, real_target=1.0),
        "optimizer_g": adam,
        "optimizer_d": adam,
        "clip_grad_norm": None,
        "accumulate": 1,
        "ema_half_life_images": 50,
        "ema_rampup": 0.5,
        "channels_last": True,
        "classes": ["NORMAL"],
        "seed": 0,
    }
    return GANTask(**(values | changes))


def tiny_data() -> CXRDataModule:
    """44 training images in 5 batches of 8 and one of 4; 12 validation images."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 16, dtype=np.uint8)[None, :, None]
    return CXRDataModule(
        images=(ramp + rng.integers(0, 55, (56, 16, 16))).astype(np.uint8),
        labels=np.ones((56, 1), np.float32),
        parts={"train": np.arange(44), "val": np.arange(44, 56)},
        batch_size=8,
        eval_batch_size=8,
        num_workers=0,
        drop_last=False,
        seed=0,
    )


def score_of(every_n_images: int) -> GenerativeScore:
    """Scores of a few images; 88 are two epochs of the tiny data, 30 fall into epochs."""
    return GenerativeScore(
        every_n_images=every_n_images,
        n_images=9,  # odd: two processes share it unevenly
        extractor=PixelExtractor(size_px=4),
        scores=["kid", "fid"],
        n_subsets=3,
        n_pairs=4,
        seed=0,
    )


def train(
    run_dir: Path,
    *,
    max_epochs: int,
    task: lightning.LightningModule | None = None,
    data: lightning.LightningDataModule | None = None,
    callbacks: list[lightning.Callback] | None = None,
    resume: bool = False,
    monitor: str | None = "kid_*/val",
    every_n_images: int = 88,
    **trainer: Any,
) -> lightning.LightningModule:
    """Train into `run_dir` as train.py does; return the task."""
    gan = task is None or hasattr(task, "sampler")
    watchers: list[lightning.Callback] = [
        CheckpointFiles(monitor=monitor, mode="min", every_n_epochs=1, every_n_minutes=None),
        StepSeed(seed=0),
    ]
    if gan:
        watchers += [
            SampleGrid(every_n_epochs=2, rows=2, columns=3, seed=0),
            score_of(every_n_images),
        ]
    options: dict[str, Any] = {
        "log_every_n_steps": 2,
        "precision": "32-true",
        "enable_progress_bar": False,
        **trainer,
    }
    plugins = options.pop("plugins", [])
    task = task or tiny_task()
    lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=max_epochs,
        default_root_dir=run_dir,
        logger=[CSVLog(save_dir=run_dir)],
        callbacks=[*(callbacks or []), *watchers],
        plugins=[AtomicCheckpointIO(), *plugins],
        enable_checkpointing=True,  # with CheckpointFiles there, Lightning adds none of its own
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **options,
    ).fit(
        task,
        datamodule=data or tiny_data(),
        ckpt_path=str(run_dir / "checkpoints" / "last.ckpt") if resume else None,
    )
    return task


@pytest.fixture
def make_task() -> Callable[..., GANTask]:
    return tiny_task


@pytest.fixture
def make_data() -> Callable[[], CXRDataModule]:
    return tiny_data


@pytest.fixture
def fit() -> Callable[..., lightning.LightningModule]:
    return train
