"""Run a trained classifier on its test and validation images; leave predictions (of each) and result.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from cxr.data.module import CXRDataModule
from cxr.errors import UserError
from cxr.evaluation.record import RunFacts, build_record, write_result
from cxr.files import file_sha256, read_json
from cxr.metric.result import PREDICTIONS, RESULT, SCHEMA
from cxr.run import config_hash, finished_run, identity, model_key, read_config
from cxr.script.history import departures, training_facts
from cxr.script.prepare import Prepared, prepare
from cxr.task.checkpoint import load_task
from cxr.trainer import quiet_lightning

__all__ = ["answers", "evaluate_run", "finished_classifier", "load_task", "model_key", "prepare_as_trained"]

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def evaluate_run(
    run_dir: Path,
    *,
    checkpoint: Literal["last", "best"],
    threshold: float,
    at_specificity: float,
    n_resamples: int,
    seed: int,
    accelerator: Literal["auto", "cpu", "gpu"],
    data_root: Path | None,
) -> dict[str, Any]:
    """Return the record of a finished classifier run, computing it unless the same one is there.

    Raises:
        UserError: the run is not finished, is no classifier, or its images have changed since.
    """
    config, file = finished_classifier(run_dir, checkpoint, data_root)
    sha256 = file_sha256(file)
    asked = {"threshold": threshold, "at_specificity": at_specificity, "n_resamples": n_resamples}
    asked["bootstrap_seed"] = seed
    done = read_json(run_dir / RESULT) if (run_dir / RESULT).is_file() else None
    same = done and done["schema"] == SCHEMA and done["checkpoint"]["sha256"] == sha256
    if done and same and asked.items() <= done["protocol"].items() and (run_dir / PREDICTIONS).is_file():
        return dict(done)
    prepared, trained = prepare_as_trained(run_dir, config)
    if len(prepared.rows["test"]) == 0:
        raise UserError(f"{run_dir}: the split has no test images; train with split.test above 0")
    predictions, validation = _predict(config, prepared, file, accelerator)
    record = build_record(
        predictions,
        _facts(config, run_dir, trained, prepared, f"checkpoints/{file.name}", sha256),
        classes=prepared.classes,
        multi_label=bool(config["data"].get("multi_label")),
        threshold=threshold,
        at_specificity=at_specificity,
        n_resamples=n_resamples,
        bootstrap_seed=seed,
        validation=validation,
    )
    write_result(run_dir, predictions, record, validation)
    return record


def run_config(run_dir: Path, data_root: Path | None) -> dict[str, Any]:
    """Return the configuration a run was trained with, its images at `data_root` if they have moved."""
    config = read_config(run_dir)
    if not isinstance(config.get("classifier"), dict):
        raise UserError(f"{run_dir}: not a classifier run; GANs are judged through the classifiers they feed")
    if data_root is not None:
        config["data"]["root"] = str(data_root)
    return config


def finished_classifier(
    run_dir: Path, checkpoint: Literal["last", "best"], data_root: Path | None
) -> tuple[dict[str, Any], Path]:
    """Return the configuration of a finished classifier run (see `run_config`) and its checkpoint."""
    config = run_config(run_dir, data_root)
    return config, finished_run(run_dir, checkpoint)[1]


def prepare_as_trained(run_dir: Path, config: dict[str, Any]) -> tuple[Prepared, dict[str, Any]]:
    """Return a run's real images, refusing others than it was trained with, and its manifest."""
    prepared = prepare({**config, "mix": None, "synthetic": []})  # nothing is trained: no more is needed
    trained: dict[str, Any] = read_json(run_dir / "manifest.json")
    if prepared.split.fingerprint != trained["split_fingerprint"]:
        raise UserError(f"{run_dir}: its test images are not those of training (split {prepared.split.fingerprint[:12]}, "
                        f"then {trained['split_fingerprint'][:12]}); set data_root=… to the same data")  # fmt: skip
    return prepared, trained


def answers(
    config: dict[str, Any],
    module: CXRDataModule,
    checkpoint: Path,
    accelerator: Literal["auto", "cpu", "gpu"],
) -> tuple[Rows, Floats, Floats]:
    """Return rows (N,), logits (N, n_outputs), probabilities (N, n_classes) of a module's prediction batches."""
    task = load_task(config, checkpoint)
    quiet_lightning()
    trainer = lightning.Trainer(
        accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, precision="32-true",
    )  # fmt: skip
    batches: Any = trainer.predict(task, datamodule=module)
    rows = torch.cat([b["row"] for b in batches]).numpy().astype(np.int64)
    logits = torch.cat([b["logits"] for b in batches]).float()
    return rows, logits.numpy(), task.probabilities(logits).numpy()


def _predict(
    config: dict[str, Any], prepared: Prepared, checkpoint: Path, accelerator: Literal["auto", "cpu", "gpu"]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the answers on the test images and on the validation images, predicted in one pass.

    A row per image: row, image_id, patient_id, view, source, target:<class>, prob:<class>; sorted by row.
    """
    module = prepared.module(config)
    parts = [prepared.rows[part] for part in ("test", "val")]
    module.parts["test"] = np.concatenate(parts)  # the part that is predicted
    rows, _, probabilities = answers(config, module, checkpoint, accelerator)
    index = prepared.cached.index
    columns: dict[str, Any] = {"row": rows}
    for name in ("image_id", "patient_id", "view", "source"):
        columns[name] = index[name].to_numpy()[rows]
    for position, name in enumerate(prepared.classes):
        columns[f"target:{name}"] = prepared.labels[rows, position]
        columns[f"prob:{name}"] = probabilities[:, position].astype(np.float32)
    frame = pd.DataFrame(columns).sort_values("row", ignore_index=True)
    test, val = (frame[frame["row"].isin(part)].reset_index(drop=True) for part in parts)
    return test, val


def _facts(
    config: dict[str, Any], run_dir: Path, trained: dict[str, Any], prepared: Prepared, file: str, sha256: str
) -> RunFacts:
    leaked = trained.get("leaked") or []
    classifier = config["classifier"]
    return RunFacts(
        run=run_dir.name,
        paper=config["paper"],
        experiment=config.get("experiment"),
        arm=config["arm"] or "real_only",
        model=model_key(classifier),
        weights=_weights(classifier),
        seed=int(config["seed"]),
        fold=config["split"].get("fold"),
        config_hash=config_hash(identity(config)),
        split_fingerprint=prepared.split.fingerprint,
        split_name=prepared.split.name,
        checkpoint_file=file,
        checkpoint_sha256=sha256,
        counts=trained["counts"],
        wall_s=float(trained.get("wall_s") or 0.0),
        leakage=f"the GAN saw {len(leaked)} validation or test images" if leaked else None,
        protocol={
            "size_px": config["cache"]["size_px"],
            "fit": config["cache"]["fit"],
            "checkpoint": Path(file).stem,
        },
        warnings=tuple(prepared.split.warnings),
        kfold=prepared.split.kfold,
        training=training_facts(config, run_dir, trained),
        departures=departures(config),
    )


def _weights(classifier: dict[str, Any]) -> str:
    """Say what the network started from; a frozen backbone without pretrained weights is marked `random`."""
    if classifier.get("checkpoint_path"):
        return "pretrained"
    if "pretrained" not in classifier:
        return "scratch"
    return "pretrained" if classifier["pretrained"] else ("random" if classifier.get("frozen") else "scratch")
