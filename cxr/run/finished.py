"""Finds the checkpoint of a finished run, for whoever goes on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from cxr.errors import UserError
from cxr.run.folder import read_config, read_status

__all__ = ["finished_run", "model_key"]


def finished_run(run_dir: Path, checkpoint: Literal["last", "best"]) -> tuple[dict[str, Any], Path]:
    """Return the configuration of a finished run, a GAN's or a classifier's, and its checkpoint.

    Raises:
        UserError: no such run, one that is not finished, no such checkpoint.
    """
    config = read_config(run_dir)
    status = read_status(run_dir)
    if status["state"] != "finished":
        raise UserError(
            f"{run_dir}: this run is {status['state']}, expected finished; run its train command again"
        )
    file = run_dir / "checkpoints" / f"{checkpoint}.ckpt"
    if not file.is_file():
        raise UserError(f"{file}: no such checkpoint; set checkpoint=last, or train the run again")
    return config, file


def model_key(classifier: dict[str, Any]) -> str:
    """Name the network as reports do: our module, or timm's name bare (vgg16.tv_in1k, legacy_xception).

    An ACRnet of other widths than the paper's has a name of its own, lest it stand in the paper's row.
    """
    name = str(classifier.get("name") or str(classifier["_target_"]).split(".")[-2])
    scale = classifier.get("width_multiplier", 1.0)
    return name.partition(".")[0].removeprefix("legacy_") + (f"_x{scale:g}" if scale != 1 else "")
