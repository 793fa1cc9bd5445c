"""Run a trained classifier on its test images and leave predictions.parquet and result.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from cxr._memory import keep_freed_memory
from cxr.callback.atomic_checkpoint import load_checkpoint
from cxr.config import build
from cxr.data.module import CXRDataModule
from cxr.errors import UserError
from cxr.evaluation.record import RunFacts, build_record, write_result
from cxr.files import file_sha256, read_json
from cxr.metric.result import PREDICTIONS, RESULT, SCHEMA
from cxr.run import config_hash, identity, read_config, read_status
from cxr.script.history import departures, training_facts
from cxr.script.prepare import Prepared, prepare
from cxr.task.classifier import ClassifierTask
from cxr.trainer import quiet_lightning

__all__ = ["answers", "evaluate_run", "finished_classifier", "load_task", "model_key", "prepare_as_trained"]

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def evaluate_run(
    run_dir: Path,
    *,
    checkpoint: Literal["last", "best"],
    threshold: float,
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
    asked = {"threshold": threshold, "n_resamples": n_resamples, "bootstrap_seed": seed}
    done = read_json(run_dir / RESULT) if (run_dir / RESULT).is_file() else None
    same = done and done["schema"] == SCHEMA and done["checkpoint"]["sha256"] == sha256
    if done and same and asked.items() <= done["protocol"].items() and (run_dir / PREDICTIONS).is_file():
        return dict(done)
    prepared, trained = prepare_as_trained(run_dir, config)
    if len(prepared.rows["test"]) == 0:
        raise UserError(f"{run_dir}: the split has no test images; train with split.test above 0")
    predictions = _predict(config, prepared, file, accelerator)
    record = build_record(
        predictions,
        _facts(config, run_dir, trained, prepared, f"checkpoints/{file.name}", sha256),
        classes=prepared.classes,
        multi_label=bool(config["data"].get("multi_label")),
        threshold=threshold,
        n_resamples=n_resamples,
        bootstrap_seed=seed,
    )
    write_result(run_dir, predictions, record)
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
    status = read_status(run_dir)
    if status["state"] != "finished":
        raise UserError(
            f"{run_dir}: this run is {status['state']}, expected finished; run its train command again"
        )
    file = run_dir / "checkpoints" / f"{checkpoint}.ckpt"
    if not file.is_file():
        raise UserError(f"{file}: no such checkpoint; set checkpoint=last, or train the run again")
    return config, file


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
    keep_freed_memory()
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
) -> pd.DataFrame:
    """Return one row per test image: row, image_id, patient_id, target:<class>, prob:<class>; sorted by row."""
    rows, _, probabilities = answers(config, prepared.module(config), checkpoint, accelerator)
    index = prepared.cached.index
    columns: dict[str, Any] = {
        "row": rows,
        "image_id": index["image_id"].to_numpy()[rows],
        "patient_id": index["patient_id"].to_numpy()[rows],
    }
    for position, name in enumerate(prepared.classes):
        columns[f"target:{name}"] = prepared.labels[rows, position]
        columns[f"prob:{name}"] = probabilities[:, position].astype(np.float32)
    return pd.DataFrame(columns).sort_values("row", ignore_index=True)


def load_task(config: dict[str, Any], checkpoint: Path) -> ClassifierTask:
    """Return the classifier of a run's configuration with the weights of one of its checkpoints."""
    node = config["task"]
    if "pretrained" in (node.get("network") or {}):  # weights come from the checkpoint: nothing to fetch
        node = {**node, "network": {**node["network"], "pretrained": False, "checkpoint_path": None}}
    task: ClassifierTask = build(node)
    task.load_state_dict(load_checkpoint(checkpoint)["state_dict"])
    return task


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


def model_key(classifier: dict[str, Any]) -> str:
    """Name the network as reports do: our module, or timm's name bare (vgg16.tv_in1k, legacy_xception).

    An ACRnet of other widths than the paper's has a name of its own, lest it stand in the paper's row.
    """
    name = str(classifier.get("name") or str(classifier["_target_"]).split(".")[2])
    scale = classifier.get("width_multiplier", 1.0)
    return name.partition(".")[0].removeprefix("legacy_") + (f"_x{scale:g}" if scale != 1 else "")


def _weights(classifier: dict[str, Any]) -> str:
    """Say what the network started from; a frozen backbone without pretrained weights is marked `random`."""
    if classifier.get("checkpoint_path"):
        return "pretrained"
    if "pretrained" not in classifier:
        return "scratch"
    return "pretrained" if classifier["pretrained"] else ("random" if classifier.get("frozen") else "scratch")
