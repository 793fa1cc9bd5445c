"""How a finished run was trained: its last epoch's scores, and what in it is not its experiment's recipe."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import open_dict

from cxr.config import plain
from cxr.errors import UserError
from cxr.run import differences, identity

__all__ = ["departures", "training_facts"]

# What a recipe is swept over, where and how exactly it runs, and the copies that `task` holds of other groups.
FREE = (
    "arm", "callback", "experiment", "loader.eval_batch_size", "paper", "seed", "split.fold", "synthetic",
    "task.classes", "task.loss", "task.network", "task.optimizer", "task.scheduler", "train_classes", "trainer.accelerator",
    "trainer.deterministic", "trainer.devices", "trainer.num_nodes", "trainer.precision", "trainer.strategy",
    "trainer.sync_batchnorm",
)  # fmt: skip


def training_facts(config: Mapping[str, Any], run_dir: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return how long and on how much a run trained, and accuracy and loss of its last epoch where logged."""
    trainer = config["trainer"]
    facts: dict[str, Any] = {
        "max_epochs": trainer["max_epochs"],
        "limit_train_batches": trainer.get("limit_train_batches"),
        "images": manifest.get("n_training_images"),
    }
    if facts["images"] is None and not config["data"].get(
        "multi_label"
    ):  # an earlier manifest: one label an image
        facts["images"] = sum(sum(of.values()) for of in manifest["counts"]["train"].values())
    rows: list[dict[str, str]] = []
    if (log := run_dir / "metrics.csv").is_file():
        with log.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("train/loss") and row.get("epoch")]
    if rows:
        facts["epochs"] = int(rows[-1]["epoch"]) + 1
        if facts["images"] is not None:
            facts |= {
                k: float(rows[-1][f"train/{k}"]) for k in ("loss", "accuracy") if rows[-1].get(f"train/{k}")
            }
    return facts


def departures(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return "key: experiment → run" for each value that is not its experiment file's; None: not known.

    Keys that one of the two lacks (another version wrote it, or another choice of a group) are left out, as
    are those that a recipe leaves free.
    """
    if config.get("experiment") is None:
        return ()
    recipe = _recipe(config)
    if recipe is None:
        return None
    changed = differences(identity(recipe), identity(config))
    kept = [
        line for line in changed if not any(f"{line.partition(': ')[0]}.".startswith(f"{k}.") for k in FREE)
    ]
    known = [line for line in kept if ": absent → " not in line and not line.endswith(" → absent")]
    sizes = {line.partition(": ")[2] for line in known if line.startswith("cache.size_px: ")}
    return tuple(  # a network that takes the size of the cache is no second change
        line for line in known
        if not (line.partition(": ")[0].endswith(".image_size_px") and line.partition(": ")[2] in sizes)
    )  # fmt: skip


def _recipe(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Compose a run's experiment as it stands now, with the run's seed and fold, which other keys may follow.

    None where there is none of that name, or no program runs.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.types import RunMode

    if not GlobalHydra.instance().is_initialized():
        return None
    try:
        loader = GlobalHydra.instance().config_loader()
        given = [f"experiment={config['experiment']}", f"seed={config['seed']}"]
        if (config.get("split") or {}).get("fold") is not None:
            given.append(f"++split.fold={config['split']['fold']}")
        found = loader.load_configuration("train", given, run_mode=RunMode.RUN)
        with open_dict(found):
            del found["hydra"]
        return plain(found)
    except (HydraException, UserError):
        return None
