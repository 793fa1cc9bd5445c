"""The moving average of a generator: of its weights, and of the batch norm statistics that belong to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MovingAverage", "ema_decay"]


class MovingAverage:
    """Moves one network towards another of the same shape.

    Their tensors are looked up once, when training starts: walking over two networks takes longer than averaging small
    ones. Neither network may get new tensors afterwards (a copy in place, as loading a checkpoint makes, is none).
    """

    def __init__(self, average: nn.Module, source: nn.Module) -> None:
        pairs = [
            *zip(average.parameters(), source.parameters(), strict=True),
            *zip(average.buffers(), source.buffers(), strict=True),
        ]
        moved = [(a, b) for a, b in pairs if a.is_floating_point()]
        # Views without gradients, of the same memory.
        self._averages: list[Tensor] = [a.detach() for a, _ in moved]
        self._values: list[Tensor] = [b.detach() for _, b in moved]
        self._counters = [
            (a, b) for a, b in pairs if not a.is_floating_point()
        ]  # batches a batch norm has seen

    def update(self, decay: float) -> None:
        """Set each tensor to decay x itself + (1 - decay) x the other's; counters become the other's."""
        torch._foreach_lerp_(self._averages, self._values, 1.0 - decay)
        for average, value in self._counters:
            average.copy_(value)


def ema_decay(images: int, images_seen: int, half_life_images: int, rampup: float | None) -> float:
    """Return the decay of a moving average for an update that stands for `images` new images.

    `rampup` shortens the half-life to that share of the images seen so far (Karras et al. 2020: 0.05), so
    that the first weights are forgotten early on.
    """
    half_life = float(half_life_images)
    if rampup is not None:
        half_life = min(half_life, rampup * images_seen)
    return float(0.5 ** (images / max(half_life, 1e-8)))
