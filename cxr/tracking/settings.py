"""conf/logger/wandb.yaml: where W&B runs go, and what may leave this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cxr.errors import UserError
from cxr.share import ShareIds

if TYPE_CHECKING:
    from cxr.tracking.training import RunWandbLogger

__all__ = ["Policy", "Wandb"]

Policy = Literal["none", "reference", "upload"]


@dataclass(frozen=True)
class Wandb:
    """What `logger=wandb` asks for; every key is explained in the YAML.

    Called with a run's folder and configuration, it returns the logger of its training.
    """

    project: str
    entity: str | None
    group: str | None
    mode: Literal["auto", "online", "offline"]
    artifacts: Policy
    worst_errors: int
    share_ids: ShareIds

    def __post_init__(self) -> None:
        if self.worst_errors < 0:
            raise UserError(
                f"logger.worst_errors: got {self.worst_errors}, expected 0 (none) or more; set logger.worst_errors=16"
            )

    def __call__(self, *, save_dir: Path, config: Mapping[str, Any]) -> RunWandbLogger:
        """Return the logger of the training in `save_dir`; its W&B run begins when training does."""
        from cxr.tracking.training import RunWandbLogger

        return RunWandbLogger(self, save_dir=save_dir, config=config)
