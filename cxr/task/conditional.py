"""Training of a generator that is told a class: classes of a step, of the images, and of samples.

What D makes of the classes is a subclass's: `cxr.task.acgan` has it name them, `cxr.task.projection` tells it them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cxr.errors import UserError
from cxr.task.by_class import check_classes, check_one_class_each, class_counts, sample_by_class
from cxr.task.gan import GANTask
from cxr.task.regulariser import Regulariser

__all__ = ["ConditionalGANTask"]


class ConditionalGANTask(GANTask):
    """What trainings of a class-conditional generator on images of one class each have in common.

    label_names are the columns of the batches' labels, `classes` those of them that are trained on, in the
    order of the networks' classes.
    """

    conditional: ClassVar[bool] = True
    head: ClassVar[Literal["auxiliary", "projection"]] = "projection"  # of D

    def __init__(
        self,
        *,
        generator: nn.Module,
        discriminator: nn.Module,
        loss_g: Callable[[Tensor], Tensor],
        loss_d: Callable[[Tensor, Tensor], Tensor],
        optimizer_g: Callable[[Iterable[nn.Parameter]], Optimizer],
        optimizer_d: Callable[[Iterable[nn.Parameter]], Optimizer],
        clip_grad_norm: float | None,
        accumulate: int,
        ema_half_life_images: int | None,
        ema_rampup: float | None,
        channels_last: bool,
        classes: list[str],
        label_names: list[str],
        seed: int,
        on_not_finite: Literal["stop", "skip"] = "stop",
        max_skipped: int = 10,
        steps_per_call: int = 1,
        regulariser: Regulariser | None = None,
    ) -> None:
        """Take what GANTask takes, and which classes there are."""
        super().__init__(
            generator=generator,
            discriminator=discriminator,
            loss_g=loss_g,
            loss_d=loss_d,
            optimizer_g=optimizer_g,
            optimizer_d=optimizer_d,
            clip_grad_norm=clip_grad_norm,
            accumulate=accumulate,
            ema_half_life_images=ema_half_life_images,
            ema_rampup=ema_rampup,
            channels_last=channels_last,
            classes=classes,
            seed=seed,
            on_not_finite=on_not_finite,
            max_skipped=max_skipped,
            steps_per_call=steps_per_call,
            regulariser=regulariser,
        )
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            check_classes(
                network,
                classes,
                f"gan.{name}",
                tasks="task=acgan and task=projection need",
                instead=f"gan.{name}.n_classes={len(classes)}, gan=covidgan or task=gan",
            )
        if getattr(discriminator, "head", None) != self.head:
            other = "projection" if self.head == "auxiliary" else "acgan"
            raise UserError(
                f"gan.discriminator: this task needs one with head={self.head}; "
                f"set gan.discriminator.head={self.head} (gan=covidgan has both), or task={other}"
            )
        self._columns = [label_names.index(name) for name in classes]
        self._column_index: Tensor
        self.register_buffer("_column_index", torch.tensor(self._columns), persistent=False)

    @property
    def label_columns(self) -> list[int]:
        """Which column of a batch's labels each of `classes` is."""
        return list(self._columns)

    def on_fit_start(self) -> None:
        """Refuse images that have no class, or two."""
        super().on_fit_start()
        if (data := getattr(self.trainer, "datamodule", None)) is not None:
            check_one_class_each(data, self._columns, self.classes, "a conditional GAN")

    def _make(self, n: int) -> tuple[Tensor, Tensor]:
        """Return n images and their classes, all classes being equally probable (not stated; so in Odena et al. 2017)."""
        generator = torch.Generator().manual_seed(self._step_seed("classes"))
        first = self.global_rank * n  # of the classes of the whole batch, this process's share
        labels = torch.randint(len(self.classes), (first + n,), generator=generator)[first:]
        labels = labels.to(self.device, non_blocking=True)
        return self.generator(self._latents(n), labels), labels

    def _classes_of(self, labels: Tensor) -> Tensor:
        """Return the classes int64 (B,) that labels (B, L) say."""
        return labels.index_select(1, self._column_index).argmax(dim=1)

    def sample(
        self,
        n: int,
        *,
        seed: int,
        start: int = 0,
        label_counts: Sequence[int] | None = None,
        part: tuple[int, int] | None = None,
    ) -> Tensor:
        """Return uint8 images (n, 1, H, H), one class after the other, from latent `start` of each class's seed.

        label_counts: how often each of `label_names` occurs where the images are compared with others; the
        classes share n in these proportions, without it equally. part: see GANTask.
        """
        counts = zip(self.classes, self.sample_counts(n, label_counts), strict=True)
        with self.trainer.precision_plugin.val_step_context():
            return sample_by_class(
                self.sampler, list(counts), seed=seed, start=start, part=part, device=self.device
            )

    def sample_counts(self, n: int, label_counts: Sequence[int] | None) -> list[int]:
        """Return how many of n sampled images are of each class, see `sample`."""
        return class_counts(n, self._columns, label_counts)
