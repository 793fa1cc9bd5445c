"""Lightning's WandbLogger, told what a run of cxr is: a stable id, its kind, its tags, its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger

from cxr.files import digest

__all__ = ["RunWandbLogger", "wandb_log"]


class RunWandbLogger(WandbLogger):
    """Ends its W&B run when training ends: a second job in one process must not go on in it."""

    def finalize(self, status: str) -> None:
        """Upload what is pending and close the run."""
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None


def wandb_log(
    *,
    save_dir: Path,
    config: Mapping[str, Any],
    project: str,
    entity: str | None,
    group: str | None,
    mode: Literal["auto", "online", "offline"],
) -> RunWandbLogger:
    """Return a logger whose W&B id is a function of the run's folder and name: resuming goes on in the same run.

    `auto` is online when an API key is configured, else offline, and says so once.
    """
    offline = mode == "offline" or (mode == "auto" and not _logged_in())
    if offline:
        print(
            f"W&B: offline ({'asked for' if mode == 'offline' else 'not logged in'}); `wandb sync` uploads it later"
        )
    task = str(config["task"]["_target_"]).rpartition(".")[2]
    logger = RunWandbLogger(
        name=save_dir.name,
        id=digest([str(save_dir.resolve()), save_dir.name], 12),
        save_dir=str(save_dir),
        project=project,
        entity=entity,
        offline=offline,
        group=group or config.get("experiment"),
        job_type="gan" if "GAN" in task else "classifier",
        tags=[str(t) for t in (config.get("paper"), config.get("arm"), f"seed{config['seed']}") if t],
        resume=None if offline else "allow",  # offline runs cannot resume: `wandb sync` joins them by id
        log_model=False,
    )
    logger.log_hyperparams(dict(config))
    return logger


def _logged_in() -> bool:
    import os

    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return False
    import wandb

    return bool(wandb.api.api_key)
