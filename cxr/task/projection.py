"""Training of a conditional GAN whose D is told the class too, by projection (Miyato & Koyama 2018).

D(images, classes) returns logits (B,): does this look real, for its class? No loss names a class, so none can be won by
images that are easy to name, which is how an auxiliary classifier's loses diversity.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from cxr.task.conditional import ConditionalGANTask

__all__ = ["ProjectionGANTask"]


class ProjectionGANTask(ConditionalGANTask):
    """Train a class-conditional generator against a discriminator that is told the class."""

    def _judge(
        self, batch: dict[str, Tensor], real: Tensor, fake: Tensor, fake_labels: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return D's loss; batch "label" (B, L)."""
        real, fake = self._shown(real, "real"), self._shown(fake, "fake")
        real_labels, made = self._classes_of(batch["label"]), cast(Tensor, fake_labels)
        if self._two_passes:
            real_logits, fake_logits = self._logits(real, real_labels), self._logits(fake, made)
        else:
            both, labels = torch.cat((real, fake)), torch.cat((real_labels, made))
            real_logits, fake_logits = self._logits(both, labels).split(len(real))  # type: ignore[no-untyped-call]  # torch's
        loss = self._penalised(self.loss_d(real_logits, fake_logits), real, fake, real_labels, real_logits)
        return loss, [real_logits.mean(), fake_logits.mean()]

    def _deceive(self, fake: Tensor, fake_labels: Tensor | None) -> Tensor:
        """Return G's loss of images that should look real, for their class."""
        return self.loss_g(self._logits(self._shown(fake, "deceive"), fake_labels))

    def _logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return D's logits (B,) of images in [-1, 1] and classes int64 (B,)."""
        return cast(Tensor, self.discriminator(images, labels))
