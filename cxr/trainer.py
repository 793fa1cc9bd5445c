"""The Lightning Trainer as cxr uses it: our checkpoints, our samplers, no hidden files."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import lightning
from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Checkpoint, Timer

from cxr.callback.atomic_checkpoint import AtomicCheckpointIO
from cxr.callback.bar import PlainBar, RichBar
from cxr.callback.compile import CompileNetworks
from cxr.callback.no_profiler import NoProfiler
from cxr.callback.progress_file import ProgressFile
from cxr.errors import UserError
from cxr.task.precision import Precision, native_precision
from cxr.task.sync_norm import SyncedBatchNorms

__all__ = ["cluster_environment", "make_trainer", "quiet_lightning"]

# Each is a false alarm here: why, beside it.
_FALSE_ALARMS = (
    ".*does not have many workers.*",  # pixels come from a memory-map: a worker is slower
    ".*isinstance\\(treespec, LeafSpec\\).*",  # lightning calls a deprecated torch name
    ".*ModelCheckpoint.*",  # checkpoints are ours: cxr.callback.checkpoints
    ".*number of training batches.*smaller than the logging interval.*",  # small sets are normal here
    ".*You passed in a `val_dataloader` but have no `validation_step`.*",  # a GAN's are for its score
    ".*in eval mode at the start of training.*",  # a frozen backbone is meant to be
    ".*You have overridden `transfer_batch_to_device` in `LightningModule`.*",  # the data module has none
    ".*The `srun` command is available on your system but is not used.*",  # on a login node it should not be
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


def cluster_environment(
    devices: int | list[int] | Literal["auto"], num_nodes: int
) -> list[ClusterEnvironment]:
    """Return the trainer's environment plugin under SLURM; [] elsewhere, where Lightning finds out by itself.

    Under `srun` its tasks are the processes. Requeueing is the launcher's (submitit's): Lightning's own would
    answer USR1 by a second kind of checkpoint. In the shell of an allocation (sbatch, salloc), and for one task with
    several devices, processes are started here: Lightning takes SLURM_NTASKS there for tasks that nobody started.

    Raises:
        UserError: the tasks of `srun` are not those that `devices` and `num_nodes` ask for.
    """
    if TorchElasticEnvironment.detect() or "SLURM_NTASKS" not in os.environ:
        return []
    tasks = int(os.environ["SLURM_NTASKS"])
    under_srun = "SLURM_STEP_ID" in os.environ and "SLURM_PROCID" in os.environ
    interactive = SLURMEnvironment.job_name() in ("bash", "interactive")  # srun --pty bash
    wanted = (
        None if devices == "auto" else num_nodes * (devices if isinstance(devices, int) else len(devices))
    )
    if not under_srun or interactive or (tasks == 1 and num_nodes == 1 and wanted not in (1, None)):
        return [LightningEnvironment()]
    if wanted is not None and tasks != wanted:
        raise UserError(
            f"trainer.devices: {num_nodes} x {wanted // num_nodes} processes are configured, and srun started {tasks} "
            f"tasks; set trainer.num_nodes and trainer.devices, or srun --nodes={num_nodes} "
            f"--ntasks-per-node={wanted // num_nodes}"
        )
    # Lightning takes the number of tasks only so; `srun --ntasks=2` leaves it unset.
    os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(tasks // num_nodes))
    return [SLURMEnvironment(auto_requeue=False)]


def make_trainer(
    *,
    accelerator: Literal["auto", "cpu", "gpu"],
    devices: int | list[int] | Literal["auto"],
    num_nodes: int,
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"],
    precision: Precision,
    compile: bool = False,  # noqa: A002 - the word of the config
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
    if precision == "auto":
        precision = native_precision(accelerator, devices)[0]
    bars: dict[str, list[Any]] = {
        "rich": [RichBar()],
        "plain": [PlainBar()],
    }
    timer = [] if max_time is None else [AttemptTimer(max_time)]
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
        logger=logger,
        callbacks=[
            *bars.get(progress, []),
            *timer,
            *callbacks,
            *([CompileNetworks()] if compile else []),
            ProgressFile(),
        ],
        plugins=[
            AtomicCheckpointIO(),
            *cluster_environment(devices, num_nodes),
            *([SyncedBatchNorms()] if sync_batchnorm else []),  # Lightning's own refuses a CPU
        ],
        profiler=NoProfiler(),
        default_root_dir=run_dir,
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),  # never Lightning's own
        enable_progress_bar=progress != "none",
        enable_model_summary=False,
        use_distributed_sampler=False,  # EpochSampler shares the order among ranks itself
        num_sanity_val_steps=0,  # it would move random state before step 0
    )
