"""The Lightning Trainer as cxr uses it: our checkpoints, our samplers, no hidden files."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, Literal

import lightning
from lightning.pytorch.callbacks import Checkpoint, RichProgressBar, Timer, TQDMProgressBar

from cxr._memory import keep_freed_memory
from cxr.callback.atomic_checkpoint import AtomicCheckpointIO

__all__ = ["make_trainer", "quiet_lightning"]

# Each is a false alarm here: why, beside it.
_FALSE_ALARMS = (
    ".*does not have many workers.*",  # pixels come from a memory-map: a worker is slower
    ".*isinstance\\(treespec, LeafSpec\\).*",  # lightning calls a deprecated torch name
    ".*ModelCheckpoint.*",  # checkpoints are ours: cxr.callback.checkpoints
    ".*number of training batches.*smaller than the logging interval.*",  # small sets are normal here
    ".*You passed in a `val_dataloader` but have no `validation_step`.*",  # a GAN's are for its score
)


def quiet_lightning() -> None:
    """Silence false alarms, absent devices, tips and advertisements; real warnings stay."""
    for message in _FALSE_ALARMS:
        warnings.filterwarnings("ignore", message=message)
    for chatter in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(chatter).setLevel(logging.WARNING)  # which devices are absent, tips, advertisements


class AttemptTimer(Timer):
    """`max_time` of this attempt: Lightning's own counts those before too, and the same command ends at once."""

    def state_dict(self) -> dict[str, Any]:
        """Keep nothing in checkpoints."""
        return {}


def make_trainer(
    *,
    accelerator: Literal["auto", "cpu", "gpu"],
    devices: int | list[int] | Literal["auto"],
    num_nodes: int,
    strategy: str,
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"],
    max_epochs: int,
    max_time: str | None,
    gradient_clip_val: float | None,
    accumulate_grad_batches: int,
    check_val_every_n_epoch: int,
    log_every_n_steps: int,
    limit_train_batches: int | float | None,
    deterministic: bool | Literal["warn"],
    sync_batchnorm: bool,
    progress: Literal["rich", "plain", "none"],
    run_dir: Path,
    logger: Any,
    callbacks: list[Any],
) -> lightning.Trainer:
    """Return a Trainer; `run_dir`, `logger` and `callbacks` come from the run, the rest from conf/trainer."""
    quiet_lightning()
    bars: dict[str, list[Any]] = {
        "rich": [RichProgressBar(refresh_rate=5)],
        "plain": [TQDMProgressBar(refresh_rate=20)],
    }
    timer = [] if max_time is None else [AttemptTimer(max_time)]
    keep_freed_memory()
    return lightning.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        precision=precision,
        max_epochs=max_epochs,
        gradient_clip_val=gradient_clip_val,
        accumulate_grad_batches=accumulate_grad_batches,
        check_val_every_n_epoch=check_val_every_n_epoch,
        log_every_n_steps=log_every_n_steps,
        limit_train_batches=limit_train_batches,
        deterministic=deterministic,
        sync_batchnorm=sync_batchnorm,
        logger=logger,
        callbacks=[*bars.get(progress, []), *timer, *callbacks],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=run_dir,
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),  # never Lightning's own
        enable_progress_bar=progress != "none",
        enable_model_summary=False,
        use_distributed_sampler=False,  # EpochSampler shares the order among ranks itself
        num_sanity_val_steps=0,  # it would move random state before step 0
    )
