"""Who a W&B run is: its id, kept beside what it describes, its group, its tags."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from cxr.files import read_json, write_json
from cxr.run import SWEEP, model_key

__all__ = [
    "FILE",
    "JobType",
    "describe_model",
    "group_of",
    "job_type",
    "remember",
    "remembered",
    "run_id",
    "tags",
]

FILE = "wandb.json"
JobType = Literal["gan", "classifier", "generate", "evaluate"]
AGENT = (
    "WANDB_SWEEP_ID",
    "WANDB_RUN_ID",
)  # a W&B agent gives both; the run must have this id to be its sweep's
LONGEST_TAG = 64  # characters, W&B's limit


def job_type(config: Mapping[str, Any]) -> JobType:
    """Return the kind of a training."""
    name = str(config["task"]["_target_"]).rpartition(".")[2]
    return "gan" if "GAN" in name or name == "DiffusionTask" else "classifier"


def describe_model(config: Mapping[str, Any]) -> str | None:
    """Return the network's name as reports give it, a GAN's by its generator's module; None where there is none."""
    if isinstance(config.get("classifier"), Mapping):
        return model_key(dict(config["classifier"]))
    generator = (config.get("gan") or {}).get("generator") or {}
    target = str(generator.get("_target_", ""))
    return target.split(".")[-2] if "." in target else None


def tags(config: Mapping[str, Any]) -> list[str]:
    """Return paper, arm, model and seed, those that are known."""
    known = [config.get("paper"), config.get("arm"), describe_model(config), f"seed{config['seed']}"]
    return list(dict.fromkeys(str(tag)[:LONGEST_TAG] for tag in known if tag))


def group_of(asked: str | None, config: Mapping[str, Any], trained: Mapping[str, Any]) -> str | None:
    """Return what was asked for, else the sweep this job is one of, else the group of its training, else the experiment.

    trained: what `remembered` says of the training.
    """
    sweep = os.environ.get(SWEEP) or os.environ.get("WANDB_SWEEP_ID")
    return asked or sweep or trained.get("group") or config.get("experiment") or None


def run_id(folder: Path, kind: JobType, key: str) -> str:
    """Return the W&B id of a stage in `folder`, the same every time for the same `key` (a hash of its configuration).

    It is drawn once and kept in wandb.json: a path would name two runs of two machines alike. Under a W&B agent it is
    the agent's, without which the sweep would not know the run.
    """
    known = remembered(folder, kind)
    if all(os.environ.get(name) for name in AGENT):
        return os.environ["WANDB_RUN_ID"]
    return str(known["id"]) if known.get("key") == key else uuid.uuid4().hex[:12]


def remembered(folder: Path, kind: JobType) -> dict[str, Any]:
    """Return what wandb.json of a folder says of a stage; {} where it says nothing."""
    stored = read_json(folder / FILE) if (folder / FILE).is_file() else {}
    found = stored.get(kind, {})
    return dict(found)


def remember(folder: Path, kind: JobType, facts: Mapping[str, Any]) -> None:
    """Put a stage's facts into wandb.json; those of other stages stay."""
    stored = read_json(folder / FILE) if (folder / FILE).is_file() else {}
    write_json(folder / FILE, {**stored, kind: dict(facts)})
