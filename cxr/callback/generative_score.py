"""A score of the generator against validation images every k epochs; test images are never touched."""

from __future__ import annotations

from typing import cast

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from cxr.data.dataset import EpochLoader
from cxr.errors import UserError
from cxr.metric.generative import Floats, kid, pixel_features, subset_size
from cxr.task.gan import GANTask

__all__ = ["GenerativeScore"]


class GenerativeScore(Callback):
    """Log `kid_pixel<size>/val`: KID on block-averaged pixels, validation part against generated images.

    A conditional GAN makes each class as often as it is in the validation part.
    Every process computes the same value from the same images, so nothing is communicated.
    """

    def __init__(
        self, *, every_n_epochs: int, n_images: int, feature_px: int, n_subsets: int, seed: int
    ) -> None:
        """`n_images` are generated for each score, always from the same latents (of `seed`)."""
        self.every_n_epochs, self.n_images = every_n_epochs, n_images
        self.feature_px, self.n_subsets, self.seed = feature_px, n_subsets, seed
        self.name = f"kid_pixel{feature_px}/val"
        self._real: Floats | None = None
        self._label_counts: list[int] = []

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Read the validation images once; too few for a score is refused before any training."""
        data = getattr(trainer, "datamodule", None)
        loader = data.val_dataloader() if data is not None else []
        if isinstance(loader, EpochLoader):  # a process's share would score differently from the others'
            loader.sampler.rank, loader.sampler.world_size = 0, 1
        parts, labels = [], []
        for batch in loader or []:
            parts.append(pixel_features(batch["image"][:, 0].numpy(), self.feature_px))
            labels.append((batch["label"] == 1).sum(dim=0))
        self._label_counts = torch.stack(labels).sum(dim=0).tolist() if labels else []
        self._real = np.concatenate(parts) if parts else np.zeros((0, self.feature_px**2))
        if subset_size(len(self._real), self.n_images) < 2:
            raise UserError(
                f"callback.generative_score: {len(self._real)} validation and {self.n_images} generated "
                "images, expected at least 4 of each; raise split.val, or drop it: ~callback.generative_score"
            )

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Score and log."""
        epoch = trainer.current_epoch + 1
        if (epoch % self.every_n_epochs and epoch != trainer.max_epochs) or self._real is None:
            return
        images = cast(GANTask, pl_module).sample(
            self.n_images, seed=self.seed, label_counts=self._label_counts
        )
        fake = pixel_features(images[:, 0].numpy(), self.feature_px)
        score = kid(self._real, fake, n_subsets=self.n_subsets, seed=self.seed)
        pl_module.log(self.name, torch.tensor(score.value, dtype=torch.float64), prog_bar=True)
