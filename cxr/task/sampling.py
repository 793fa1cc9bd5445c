"""Images of a generator: image i depends on the seed and on i, whatever is asked for around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from cxr.data.convert import to_uint8
from cxr.gan.latent import Law, truncated

__all__ = ["LatentsAhead", "gan_record", "latent_law", "sample_images", "sample_latent"]

AHEAD = 64


def sample_latent(
    generator: nn.Module, n: int, *, seed: int, start: int, truncation: float | None = None
) -> Tensor:
    """Return latents (n, latent_dim) of the generator's own kind; latent i is a function of (seed, i, truncation)."""
    z = cast(Tensor, cast(Any, generator).sample_latent(n, seed=seed, start=start))
    if truncation is None:
        return z
    law, scale = latent_law(generator)
    return truncated(z, truncation, law, scale=scale)


def latent_law(generator: nn.Module) -> tuple[Law, float]:
    """Return the law of a generator's latents and what multiplies it: N(0, latent_std²), unless it says `latent_law`."""
    law = cast(Law, getattr(generator, "latent_law", "normal"))
    return law, float(getattr(generator, "latent_std", 1.0))


class LatentsAhead:
    """The latents of a training's steps, drawn for `AHEAD` steps at once, each from its own step's seed.

    A draw after another takes a quarter of the time of one between the passes of networks, which empty the cache; of 64 the
    first no longer counts.

    Args:
        seed_of: the seed of a step, by its number.
    """

    def __init__(self, generator: nn.Module, seed_of: Callable[[int], int]) -> None:
        self.generator, self.seed_of = generator, seed_of
        self._drawn: dict[tuple[int, int, int], Tensor] = {}

    def take(self, step: int, n: int, start: int) -> Tensor:
        """Return latents `start` … `start + n - 1` of a step, (n, latent_dim) on the CPU."""
        if (step, n, start) not in self._drawn:
            self._drawn = {
                (k, n, start): sample_latent(self.generator, n, seed=self.seed_of(k), start=start)
                for k in range(step, step + AHEAD)
            }
        return self._drawn.pop((step, n, start))


@torch.inference_mode()
def sample_images(
    generator: nn.Module,
    n: int,
    *,
    seed: int,
    start: int,
    block: int,
    device: torch.device,
    label: int | None = None,
    truncation: float | None = None,
) -> Tensor:
    """Return uint8 images (n, 1, H, H) of latents `start` … `start + n - 1`, on the CPU; n may be 0.

    label: the position of the class that a conditional generator is asked for.
    truncation: see cxr/gan/latent.py; None: latents as in training.

    Latents are always mapped in the same whole blocks (k·block …), since a network's last bits depend on the
    batch size: image i has the same bytes whatever was asked for around it.
    """
    if n == 0:
        side = cast(int, generator.image_size_px)
        return torch.empty((0, 1, side, side), dtype=torch.uint8)
    training = generator.training
    generator.eval()
    images = []
    told = () if label is None else (torch.full((block,), label, device=device),)
    for first in range(start - start % block, start + n, block):
        z = sample_latent(generator, block, seed=seed, start=first, truncation=truncation).to(device)
        images.append(to_uint8(generator(z, *told))[max(start - first, 0) : start + n - first].cpu())
    generator.train(training)
    return torch.cat(images)


def gan_record(task: Any, *, log_count: int) -> dict[str, Any]:
    """Return what a checkpoint holds under "gan": counters of a training, and what a program that samples must know.

    log_count: steps summed since values were logged last.
    """
    return {
        "g_steps": task.g_steps,
        "images_seen": task.images_seen,
        "batches_seen": task.batches_seen,
        "log_count": log_count,
        "classes": task.classes,
        "conditional": task.conditional,
        "seed": task.seed,
        "ema_half_life_images": task.ema_half_life_images,
    }
