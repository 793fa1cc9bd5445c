"""Fit the task of a run: prepare its images, build its networks, train, record what happened."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import Logger

from cxr.callback.csv_log import CSVLog
from cxr.config import build
from cxr.files import digest, write_json
from cxr.run import Run, manifest
from cxr.script.prepare import Prepared, prepare

__all__ = ["fit"]


def fit(run: Run) -> None:
    """Train from the last checkpoint, or from the beginning, to the end; leaves a finished run.

    Raises:
        UserError: anything about the data, the split or the leak guard that the user can mend.
    """
    config = run.config
    run.start()
    if run.last_checkpoint is not None:
        print(f"{run.path}: goes on from checkpoints/last.ckpt")
    prepared = prepare(config, Path(config["synthetic_dir"]))
    for line in _announcement(prepared):
        print(line)
    lightning.seed_everything(config["seed"], verbose=False)
    task: lightning.LightningModule = build(config["task"])
    loggers: list[Logger] = [CSVLog(save_dir=run.path)]
    if config["logger"] is not None:
        loggers.append(build(config["logger"])(save_dir=run.path, config=config))
    trainer: lightning.Trainer = build(config["trainer"])(
        run_dir=run.path,
        logger=loggers,
        callbacks=[build(node) for node in config["callback"].values() if node is not None],
    )
    if run.primary:
        write_json(run.path / "manifest.json", _manifest(run, prepared, trainer))
    _train(trainer, task, prepared, run, loggers)
    if trainer.current_epoch < config["trainer"]["max_epochs"]:
        print(f"{run.path}: trainer.max_time is over after {trainer.current_epoch} of "
              f"{config['trainer']['max_epochs']} epochs; the same command goes on from there")  # fmt: skip
        raise SystemExit(0)
    scores = {k: float(v) for k, v in trainer.callback_metrics.items() if v.numel() == 1}
    run.finish(_headline(scores))
    if run.primary:
        write_json(run.path / "manifest.json", _manifest(run, prepared, trainer))
    print(
        f"{run.path}: finished"
        + "".join(f"  {k} {v:.4f}" for k, v in list(run.metric.items())[:3] if v is not None)
    )


def _train(
    trainer: lightning.Trainer,
    task: lightning.LightningModule,
    prepared: Prepared,
    run: Run,
    loggers: Sequence[Logger],
) -> None:
    """Train; loggers are closed in every case, and Ctrl-C stays what it is (Lightning makes it exit code 1)."""
    module = prepared.module(run.config)
    try:
        trainer.fit(task, datamodule=module, ckpt_path=run.last_checkpoint, weights_only=True)
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        for logger in loggers:
            logger.finalize("success" if trainer.state.finished else "failed")


def _announcement(prepared: Prepared) -> list[str]:
    """Return one line per fact that the user should see before hours of training."""
    train = prepared.counts()["train"]
    made = ", ".join(
        f"{name} {n['real']} real" + "".join(f" + {n[k]} {k}" for k in ("synthetic", "duplicated") if n[k])
        for name, n in train.items()
    )
    sizes = ", ".join(f"{len(prepared.rows[part])} {part}" for part in ("val", "test"))
    lines = [f"split {prepared.split.name} {prepared.split.fingerprint[:12]}: trains on {made}; {sizes}"]
    lines += [f"warning: {warning}" for warning in prepared.split.warnings]
    if prepared.leaked:
        lines.append(f"warning: leakage=allow: the GAN saw {len(prepared.leaked)} validation or test images")
    return lines


def _headline(scores: dict[str, float]) -> dict[str, float | None]:
    """Put validation accuracy, or a generative score, first; keep the rest."""
    first = [k for k in scores if k == "val/accuracy" or k.startswith("kid_")]
    return {k: scores[k] for k in [*first, *(k for k in sorted(scores) if k not in first)]}


def _manifest(run: Run, prepared: Prepared, trainer: lightning.Trainer) -> dict[str, Any]:
    """Return what went in, with hashes, and what it ran on."""
    seen = prepared.hashes("train")
    device = (
        torch.cuda.get_device_name()
        if trainer.strategy.root_device.type == "cuda"
        else platform.processor() or "cpu"
    )
    return {
        **manifest(
            inputs={
                "cache": prepared.cached.key,
                "training images": digest(seen),
                **{f"synthetic/{one.path.name}": one.manifest["images_sha256"] for one in prepared.synthetic},
            },
            split_fingerprint=prepared.split.fingerprint,
            seed=run.config["seed"],
            device=f"{device} x {trainer.world_size}, {torch.get_num_threads()} threads, {trainer.precision}",
            wall_s=run.status.get("wall_s"),
        ),
        "split": {"name": prepared.split.name, "warnings": list(prepared.split.warnings)},
        "counts": prepared.counts(),
        "trained_on": seen,
        "leaked": prepared.leaked,
    }
