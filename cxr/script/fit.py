"""Fit the task of a run: prepare its images, build its networks, train, record what happened."""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import lightning
import torch
from lightning.pytorch.loggers import Logger

from cxr.callback.csv_log import CSVLog
from cxr.callback.early_stopping import EarlyStopping
from cxr.callback.gan_alarm import GANAlarm
from cxr.callback.preemption import StopOnSignal
from cxr.callback.pruning import Pruning
from cxr.config import build
from cxr.data.near_store import NEAR_FILE, write_prints
from cxr.errors import UserError
from cxr.files import digest, read_json, write_json
from cxr.run import Run, manifest
from cxr.run.headline import by_headline
from cxr.script.kept_features import kept_features
from cxr.script.near_guard import guard_near, training_prints
from cxr.script.prepare import Prepared, prepare
from cxr.script.ranks import Ranks
from cxr.search.trial import Pruned, current_trial
from cxr.task.checkpoint import load_checkpoint
from cxr.task.classifier import ClassifierTask
from cxr.task.precision import native_precision
from cxr.task.step_guard import StepGuard
from cxr.task.version import check_resumable
from cxr.task.weights import check_weights

__all__ = ["epochs_done", "fit"]


def fit(run: Run) -> None:
    """Train from the last checkpoint, or from the beginning, to the end; leaves a finished run.

    Raises:
        UserError: anything about the data, the split or the leak guard that the user can mend.
        KeyboardInterrupt: a signal has stopped it (SIGTERM, SIGUSR2, SIGINT); the run can be resumed. Processes
            other than the first end with SystemExit(0): Lightning kills the first when another's code is not 0.
    """
    with StopOnSignal() as stop:
        _fit(run, stop)


def _fit(run: Run, stop: StopOnSignal) -> None:
    config = run.config
    run.start()
    if run.last_checkpoint is not None:
        _say(run, f"{run.path}: goes on from checkpoints/last.ckpt")
    prepared = prepare(config)
    near, told = guard_near(prepared, config.get("near_duplicates", "off"))
    for line in [*_announcement(prepared), *told]:
        _say(run, line)
    if run.primary and config.get("gan") is not None and near.get("looked"):
        prints = training_prints(prepared)
        assert prints is not None
        near["sha256"] = write_prints(run.path / NEAR_FILE, prints)
    lightning.seed_everything(config["seed"], verbose=False)
    task: lightning.LightningModule = build(config["task"])
    if isinstance(task, ClassifierTask):
        task.fit_loss(torch.from_numpy(prepared.training_labels()))
    if run.last_checkpoint is not None:  # before the run's log is begun anew from it
        content = load_checkpoint(run.last_checkpoint)
        check_weights(content, task, run.last_checkpoint)
        kind = "classifier" if isinstance(task, ClassifierTask) else "gan"
        if (warning := check_resumable(content, kind, run.last_checkpoint)) is not None:
            _say(run, f"warning: {warning}")
        del content
    log = CSVLog(save_dir=run.path)
    loggers: list[Logger] = [log]
    if config["logger"] is not None:
        loggers.append(build(config["logger"])(save_dir=run.path, config=config))
    callbacks = [build(node) for node in config["callback"].values() if node is not None]
    trial = current_trial()
    pruning = None if trial is None else Pruning(trial)
    callbacks += [] if pruning is None else [pruning]
    if any(isinstance(c, EarlyStopping) for c in callbacks) and not len(prepared.rows["val"]):
        raise UserError("callback.early_stopping: there are no validation images to watch; "
                        "set split.val=0.1 or callback.early_stopping=null")  # fmt: skip
    module = prepared.module(config)
    features = kept_features(config, prepared, module, task, lambda line: _say(run, line))
    callbacks += [] if features is None else [features]
    trainer: lightning.Trainer = build(config["trainer"])(
        run_dir=run.path,
        logger=loggers,
        callbacks=[stop, *callbacks],
        precision=_precision(run),
    )

    def describe() -> None:
        if run.primary:
            found = _manifest(run, prepared, trainer, near)
            write_json(run.path / "manifest.json", {**found, "features": features and features.record})

    describe()
    if (processes := trainer.world_size) > 1:
        share = config["loader"]["batch_size"] // processes
        _say(
            run,
            f"{processes} processes, {share} images of each batch for each (loader.batch_size counts all)",
        )
    _train(trainer, task, module, run, loggers, stop)
    done, wanted = epochs_done(trainer), config["trainer"]["max_epochs"]
    watchers: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning's stubs hide it
    early = next((c for c in watchers if isinstance(c, (EarlyStopping, GANAlarm)) and c.stopped), None)
    stopped = None if early is None else early.reason
    if stopped is not None:
        _say(run, f"{run.path}: stopped early after {done} of {wanted} epochs: {stopped}")
    elif pruning is not None and pruning.reason is not None:
        run.fail(Pruned(pruning.reason))
        _say(run, f"{run.path}: pruned {pruning.reason}")
        raise SystemExit(0)
    elif stop.stopped and done < wanted:
        _interrupt(run, stop)
    elif done < wanted:
        _say(run, f"{run.path}: trainer.max_time is over after {done} of {wanted} epochs; "
              "the same command goes on from there")  # fmt: skip
        raise SystemExit(0)
    run.finish(_headline(_scores(trainer, log)), stopped=stopped)
    describe()
    _say(
        run,
        f"{run.path}: finished"
        + "".join(f"  {k} {v:.4f}" for k, v in list(run.metric.items())[:3] if v is not None),
    )


def _train(
    trainer: lightning.Trainer,
    task: lightning.LightningModule,
    module: lightning.LightningDataModule,
    run: Run,
    loggers: Sequence[Logger],
    stop: StopOnSignal,
) -> None:
    """Train; loggers are closed in every case, and a signal ends it as an interruption (Lightning: exit code 1)."""

    def fail(error: BaseException) -> None:
        run.fail(error)
        for logger in loggers:
            logger.finalize("failed")

    try:
        with Ranks(trainer, fail):
            trainer.fit(task, datamodule=module, ckpt_path=run.last_checkpoint, weights_only=True)
    except SystemExit:
        if trainer.interrupted:
            _interrupt(run, stop)
        raise
    finally:
        for logger in loggers:
            logger.finalize("success" if trainer.state.finished else "failed")


def _precision(run: Run) -> str:
    """Return the trainer's precision; of `auto`, what the run began with, else what this device computes in."""
    asked: dict[str, Any] = run.config["trainer"]
    if asked["precision"] != "auto":
        return str(asked["precision"])
    if run.last_checkpoint is not None:
        with suppress(UserError):  # a run goes on in what it was begun in, also on another device
            if (began := read_json(run.path / "manifest.json").get("precision")) is not None:
                return str(began)
    found, why = native_precision(asked["accelerator"], asked["devices"])
    _say(run, f"precision: {found}, since {why} (trainer.precision=auto)")
    return found


def _say(run: Run, line: str) -> None:
    """Print what several processes would otherwise all say."""
    if run.primary:
        print(line)


def _interrupt(run: Run, stop: StopOnSignal) -> NoReturn:
    """End as interrupted; only the first process says so by its exit code."""
    if run.primary:
        raise KeyboardInterrupt(stop.reason)
    raise SystemExit(0)


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


def epochs_done(trainer: lightning.Trainer) -> int:
    """Return the whole epochs behind a trainer; Lightning also counts one that `max_time` ended half-way."""
    loop: Any = trainer.fit_loop
    return int(loop.epoch_progress.current.processed) - (not loop.epoch_loop.batch_progress.is_last_batch)


def _scores(trainer: lightning.Trainer, log: CSVLog) -> dict[str, float]:
    """Return the last value of each score; from the log, where a resumed run computed it before it was stopped."""
    last: dict[str, float] = {}
    for row in csv.DictReader(io.StringIO(log.text(), newline="")):
        last |= {k: float(v) for k, v in row.items() if v and k not in ("step", "epoch")}
    return last | {k: float(v) for k, v in trainer.callback_metrics.items() if v.numel() == 1}


def _headline(scores: dict[str, float]) -> dict[str, float | None]:
    """Put validation accuracy, or a generative score, first; keep the rest."""
    return {name: scores[name] for name in by_headline(scores)}


def _manifest(
    run: Run, prepared: Prepared, trainer: lightning.Trainer, near: dict[str, Any]
) -> dict[str, Any]:
    """Return what went in, with hashes, and what it ran on."""
    seen = prepared.hashes("train")
    guard = getattr(trainer.lightning_module, "guard", None)  # None before the training
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
        "n_training_images": len(prepared.training_labels()),
        "n_validation_images": len(prepared.rows["val"]),
        "precision": trainer.precision,
        "skipped_steps": guard.skipped if isinstance(guard, StepGuard) else 0,
        "trained_on": seen,
        "leaked": prepared.leaked,
        "near_duplicates": near,
    }
