"""Training of a generator that is told a class: classes of a step, of the images, and of samples.

What D makes of the classes is a subclass's: `cxr.task.acgan` has it name them, `cxr.task.projection` tells it them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cxr.errors import UserError
from cxr.gan.latent import mix_seed
from cxr.task.gan import GANTask, sample_images
from cxr.task.regulariser import Regulariser

__all__ = ["ConditionalGANTask", "class_seed", "shares"]


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
            found = getattr(network, "n_classes", None)
            if found is None:
                raise UserError(
                    f"gan.{name}: task=acgan and task=projection need networks with classes, got "
                    f"{type(network).__name__} without; set gan.{name}.n_classes={len(classes)}, gan=covidgan or task=gan"
                )
            if found != len(classes):
                raise UserError(
                    f"gan.{name}.n_classes: got {found}, expected {len(classes)} ({', '.join(classes)}); "
                    f"set gan.{name}.n_classes={len(classes)}"
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
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is None:
            return
        chosen: npt.NDArray[np.float32] = data.labels[data.parts["train"]][:, self._columns]
        if bad := int(((chosen == 1).sum(axis=1) != 1).sum()):
            raise UserError(
                f"task: a conditional GAN needs exactly one of {', '.join(self.classes)} per image, and {bad} of "
                f"{len(chosen)} training images have none or several; choose classes that exclude each other: "
                "set train_classes=[…], or train a GAN per class with task=gan"
            )

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
        first, last = part or (0, n)
        pieces, before = [], 0
        with self.trainer.precision_plugin.val_step_context():
            for label, (name, count) in enumerate(
                zip(self.classes, self.sample_counts(n, label_counts), strict=True)
            ):
                begin, end = (min(max(edge - before, 0), count) for edge in (first, last))
                before += count
                pieces.append(
                    sample_images(
                        self.sampler, end - begin, seed=class_seed(seed, name), start=start + begin,
                        block=min(max(count, 1), 64), device=self.device, label=label,
                    )
                )  # fmt: skip
        return torch.cat(pieces)

    def sample_counts(self, n: int, label_counts: Sequence[int] | None) -> list[int]:
        """Return how many of n sampled images are of each class, see `sample`."""
        weights = [1] * len(self.classes)
        if label_counts is not None and any(label_counts[column] for column in self._columns):
            weights = [label_counts[column] for column in self._columns]
        return shares(n, weights)


def class_seed(seed: int, name: str) -> int:
    """Return the seed of a class's latents: with one for all, image i of each class would be made from the same."""
    return mix_seed(seed, "class", name)


def shares(n: int, weights: Sequence[int]) -> list[int]:
    """Divide n in proportion to non-negative weights, not all zero; what is left over goes by largest remainder."""
    total = sum(weights)
    counts = [n * weight // total for weight in weights]
    order = sorted(range(len(weights)), key=lambda k: (-(n * weights[k] % total), k))
    for k in order[: n - sum(counts)]:
        counts[k] += 1
    return counts
