"""Images of the same latents, epoch after epoch: what the generator is learning, to look at."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger

from cxr.data.picture import tile, write_png
from cxr.task.gan import GANTask

__all__ = ["SampleGrid", "tile", "write_png"]


class SampleGrid(Callback):
    """Write figures/samples-epoch-NNNN.png into the run's folder, and W&B, every k epochs and after the last."""

    def __init__(self, *, every_n_epochs: int, rows: int, columns: int, seed: int) -> None:
        self.every_n_epochs, self.rows, self.columns, self.seed = every_n_epochs, rows, columns, seed

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw the grid."""
        epoch = trainer.current_epoch + 1
        if (epoch % self.every_n_epochs and epoch != trainer.max_epochs) or not trainer.is_global_zero:
            return
        images = cast(GANTask, pl_module).sample(self.rows * self.columns, seed=self.seed)
        file = Path(trainer.default_root_dir) / "figures" / f"samples-epoch-{epoch:04d}.png"
        write_png(file, tile(images[:, 0].numpy(), self.columns))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("samples", [str(file)], step=trainer.global_step, caption=[f"epoch {epoch}"])
