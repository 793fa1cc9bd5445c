"""What an evaluation needs to be logged to W&B beside its record: the images of its errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.script.predict import prepare_as_trained, run_config
from cxr.tracking.evaluation import log_evaluation
from cxr.tracking.settings import Wandb

__all__ = ["track_evaluation"]


def track_evaluation(wandb: Wandb, run_dir: Path, record: Mapping[str, Any], data_root: Path | None) -> None:
    """Log a run's record, curves and worst errors; its images are opened only where errors are to be shown."""

    def images() -> npt.NDArray[np.uint8]:
        return prepare_as_trained(run_dir, run_config(run_dir, data_root))[0].cached.images

    log_evaluation(wandb, run_dir, record, images)
