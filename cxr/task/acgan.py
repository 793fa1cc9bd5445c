"""Training of an auxiliary classifier GAN (Odena et al. 2017): G is told a class, D names it.

D returns (real logits (B,), class logits (B, K)). Both networks learn to have the class named right, D on real
and fake images, beside the adversarial losses; the rest (counters, moving average, order of a step) is GANTask's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Literal, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from cxr.task.conditional import ConditionalGANTask
from cxr.task.gan import GANTask
from cxr.task.regulariser import Regulariser

__all__ = ["ACGANTask"]


class ACGANTask(ConditionalGANTask):
    """Train a class-conditional generator against a discriminator that names the class."""

    logged: ClassVar[tuple[str, ...]] = (*GANTask.logged, "class_real", "class_fake")
    head: ClassVar[Literal["auxiliary", "projection"]] = "auxiliary"

    def __init__(
        self,
        *,
        generator: nn.Module,
        discriminator: nn.Module,
        loss_g: Callable[[Tensor], Tensor],
        loss_d: Callable[[Tensor, Tensor], Tensor],
        loss_class: Callable[[Tensor, Tensor], Tensor],
        class_weight: float,
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
        """Take what GANTask takes, and a loss on (class logits, classes); `class_weight` is its share in both losses."""
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
            label_names=label_names,
            seed=seed,
            on_not_finite=on_not_finite,
            max_skipped=max_skipped,
            steps_per_call=steps_per_call,
            regulariser=regulariser,
        )
        self.loss_class, self.class_weight = loss_class, class_weight

    def _judge(
        self, batch: dict[str, Tensor], real: Tensor, fake: Tensor, fake_labels: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return adversarial loss plus weighted class loss, the mean over real and fake; batch "label" (B, L)."""
        real, fake = self._shown(real, "real"), self._shown(fake, "fake")
        real_labels = self._classes_of(batch["label"])
        real_logits, real_classes = self.discriminator(real)
        fake_logits, fake_classes = self.discriminator(fake)
        class_real = self.loss_class(real_classes, real_labels)
        class_fake = self.loss_class(fake_classes, cast(Tensor, fake_labels))
        loss = self.loss_d(real_logits, fake_logits) + self.class_weight * 0.5 * (class_real + class_fake)
        loss = self._penalised(loss, real, fake, real_labels, real_logits)
        return loss, [real_logits.mean(), fake_logits.mean(), class_real, class_fake]

    def _deceive(self, fake: Tensor, fake_labels: Tensor | None) -> Tensor:
        """Return the loss of images that should look real, and like their class."""
        logits, classes = self.discriminator(self._shown(fake, "deceive"))
        return self.loss_g(logits) + self.class_weight * self.loss_class(classes, cast(Tensor, fake_labels))

    def _logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return D's logits (B,) of images in [-1, 1]."""
        return cast(Tensor, self.discriminator(images)[0])
