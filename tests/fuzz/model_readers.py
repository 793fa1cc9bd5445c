"""What is tried of runs and networks: see readers.py. Imported by the child alone."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from readers import CLASSES, DATA, Reader, parquet

from cxr.errors import UserError

__all__ = ["READERS"]


def run(here: Path, name: str) -> Reader:
    """cxr.run.folder: what the next command reads of a run."""
    from cxr.run.finished import finished_run
    from cxr.run.folder import Run, open_run, read_status
    from cxr.run.planned import PlannedRun

    config = {
        "_target_": "cxr.script.train.train",
        "name": "r",
        "seed": 0,
        "optimizer": {"lr": 0.1},
        "data": {"_target_": "cxr.data.folder.Folder", "root": "x", "classes": ["a", "b"]},
    }
    made: Run = open_run(here, "r", config, config)
    made.start()
    made.finish({"test/auroc": 0.5, "val/loss": None})
    made.close()
    (here / "r" / "checkpoints").mkdir()
    (here / "r" / "checkpoints" / "last.ckpt").write_bytes(b"")
    kept = (here / "r" / name).read_bytes()
    others = {f: (here / "r" / f).read_bytes() for f in ("status.json", "config.yaml") if f != name}

    def read(data: bytes) -> None:
        (here / "r" / name).write_bytes(data)
        for other, content in others.items():
            (here / "r" / other).write_bytes(content)
        errors: list[UserError] = []
        asked: list[Callable[[], object]] = [
            lambda: read_status(here / "r")["state"],
            lambda: finished_run(here / "r", "last"),
            lambda: PlannedRun(here, "r", config, config).standing(),
            lambda: opened(),
        ]
        for ask in asked:
            try:
                ask()
            except UserError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def opened() -> None:
        with open_run(here, "r", config, config) as again:
            assert again.state in ("new", "finished", "interrupted", "failed"), again.state
            assert all(v is None or isinstance(v, (int, float)) for v in again.metric.values()), again.metric
            if again.state != "finished":
                again.start()

    return Reader([kept], ("yaml" if name.endswith("yaml") else "json", "whole"), read)


def progress(here: Path) -> Reader:
    """cxr.run.progress: how far a run is, as `status.py` asks while another process writes."""
    from cxr.run.progress import PROGRESS, Progress, read_progress, write_progress

    write_progress(
        here,
        Progress(
            **{f.name: {"auroc": 0.5} if f.name == "scores" else 2 for f in dataclasses.fields(Progress)}
        ),
    )
    kept = (here / PROGRESS).read_bytes()

    def read(data: bytes) -> None:
        (here / PROGRESS).write_bytes(data)
        found = read_progress(here)
        if found is not None:
            assert isinstance((found.left_s(1e9), found.headline(), found.epoch), tuple)

    return Reader([kept], ("json", "whole"), read)


def result(here: Path) -> Reader:
    """cxr.metric.result: the table of predictions that a report is made from."""
    from cxr.metric.result import PREDICTIONS, read_predictions, tables

    frame = pd.DataFrame(
        {
            "row": range(4),
            "image_id": list("abcd"),
            "patient_id": ["p", "p", None, "q"],
            "view": None,
            "source": None,
            **{f"{k}:{c}": np.float32([0, 1, 0, 1]) for k in ("target", "prob") for c in CLASSES},
        }
    )

    def read(data: bytes) -> None:
        (here / PREDICTIONS).write_bytes(data)
        target, prob, patients = tables(read_predictions(here, CLASSES), CLASSES)
        assert target.shape == prob.shape == (len(patients), 2) and np.isfinite(prob).all()

    return Reader([parquet(frame), parquet(frame, compression="none")], ("whole",), read)


class _Stranger:
    """What a pickle of a stranger's does: it runs a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ../touched",)


def _saved(content: Any, **options: Any) -> bytes:
    import torch

    target = io.BytesIO()
    torch.save(content, target, **options)
    return target.getvalue()


def checkpoint(here: Path) -> Reader:
    """cxr.task.checkpoint: of a classifier that Lightning trained for two steps, as evaluation and a resumed run read it."""
    from functools import partial as lacking

    import lightning
    import torch
    from torch import Tensor, nn
    from torch.utils.data import DataLoader

    from cxr.callback.atomic_checkpoint import AtomicCheckpointIO
    from cxr.classifier.base import Classifier
    from cxr.loss.classification import BCE
    from cxr.task.checkpoint import load_checkpoint
    from cxr.task.classifier import ClassifierTask
    from cxr.task.weights import check_weights

    class Dense(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.image_size_px, self.channels, self.n_outputs = 8, 1, 1
            self.weights, self.last_conv = "random", "dense"
            self.dense = nn.Linear(64, 1)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.dense(images.flatten(1))
            return logits

    task = ClassifierTask(
        network=Dense(),
        loss=BCE(pos_weight=None, label_smoothing=0.0),
        optimizer=lacking(torch.optim.Adam, lr=0.01),
        scheduler=None,
        classes=CLASSES,
        multi_label=False,
        channels_last=True,
    )
    batch = {
        "image": torch.zeros(4, 1, 8, 8, dtype=torch.uint8),
        "label": torch.eye(2).repeat(2, 1),
        "row": torch.arange(4),
    }
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
    )
    trainer.fit(task, train_dataloaders=DataLoader([batch, batch], batch_size=None))  # type: ignore[arg-type]  # a list is a dataset
    file = here / "last.ckpt"
    trainer.save_checkpoint(file)
    good = file.read_bytes()
    old = _saved(torch.load(file, weights_only=True), _use_new_zipfile_serialization=False)

    def read(data: bytes) -> None:
        file.write_bytes(data)
        content = load_checkpoint(file)
        check_weights(content, task, file)
        task.load_state_dict(content["state_dict"])

    return Reader([good, old], ("whole", "pickle", "storage"), read)


def strangers_pickle(here: Path) -> Reader:
    """cxr.task.checkpoint: a checkpoint whose pickle runs a command, edited; none of it may run."""
    from cxr.task.checkpoint import load_checkpoint

    file = here / "last.ckpt"
    evil = {"state_dict": {}, "x": _Stranger()}
    seeds = [
        _saved(evil),
        _saved(evil, _use_new_zipfile_serialization=False),
        pickle.dumps(evil),
        pickle.dumps(evil, protocol=0),
    ]

    def read(data: bytes) -> None:
        file.write_bytes(data)
        try:
            load_checkpoint(file)
        finally:
            assert not (here.parent / "touched").exists() and not (here / "touched").exists(), (
                "a command was run"
            )

    return Reader(seeds, ("whole", "pickle"), read)


def generator(here: Path) -> Reader:
    """cxr.evaluation.synthesize: a GAN's checkpoint, as `generate.py` reads it."""
    from cxr.evaluation.synthesize import load_generators
    from cxr.gan.talukdar import Generator

    network = Generator(
        latent_dim=2,
        image_size_px=64,
        channels=1,
        widths=[2, 2, 2, 2],
        negative_slope=0.2,
        init="dcgan",
        seed=0,
    )
    state = {
        f"{part}.{k}": v for part in ("generator", "generator_ema") for k, v in network.state_dict().items()
    }
    record = {"g_steps": 2, "images_seen": 8, "classes": ["sick"], "conditional": False, "seed": 0}
    file = here / "last.ckpt"
    seeds = [
        _saved({"state_dict": state, "gan": record}),
        _saved({"state_dict": state, "gan": {**record, "classes": CLASSES, "conditional": True}}),
    ]

    def read(data: bytes) -> None:
        file.write_bytes(data)
        for made in load_generators(network, file, weights="ema"):
            assert isinstance(made.label, str) and isinstance(made.latent_seed(0), int)

    return Reader(seeds, ("whole", "pickle", "storage"), read)


def weights(here: Path) -> Reader:
    """cxr.classifier.weights: a local file of weights, torch's or safetensors'."""
    import torch
    from safetensors.torch import save
    from torch import nn

    from cxr.classifier.weights import load_local

    body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    state = body.state_dict()
    seeds = [
        _saved(state),
        _saved({"state_dict": {f"network.body.{k}": v for k, v in state.items()}}),
        save(state),
    ]

    def read(data: bytes) -> None:
        file = here / ("body.pth" if data[:2] == b"PK" or data[8:9] != b"{" else "body.safetensors")
        file.write_bytes(data)
        load_local(body, file, 1)
        assert all(isinstance(v, torch.Tensor) for v in body.state_dict().values())

    return Reader(seeds, ("whole", "pickle", "storage"), read)


READERS: dict[str, Callable[[Path], Reader]] = {
    **DATA,
    "run: status.json": lambda here: run(here, "status.json"),
    "run: config.yaml": lambda here: run(here, "config.yaml"),
    "run: progress.json": progress,
    "run: predictions.parquet": result,
    "checkpoint": checkpoint,
    "checkpoint that is a program": strangers_pickle,
    "checkpoint of a GAN": generator,
    "file of weights": weights,
}
