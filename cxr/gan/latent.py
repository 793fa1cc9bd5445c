"""Latents that depend on nothing but (seed, index), whatever the batch, the process or the device.

Latent i of a seed is row i mod 1024 of a block drawn by NumPy's Philox, seeded by (seed, i div 1024): a
sampler that stops at image 700 and goes on in another process meets the same latents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["mix_seed", "normal_latents", "uniform_latents"]

_BLOCK = 1024

Draw = Callable[[np.random.Generator, tuple[int, int]], npt.NDArray[np.float32]]


def mix_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2^63) that depends on every part and on their order."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def normal_latents(n: int, latent_dim: int, *, seed: int, start: int) -> Tensor:
    """Return latents `start` … `start + n - 1` of a seed: float32 (n, latent_dim) ~ N(0, 1), on the CPU."""
    return _latents(n, latent_dim, seed, start, lambda rng, shape: rng.standard_normal(shape, np.float32))


def uniform_latents(n: int, latent_dim: int, *, seed: int, start: int) -> Tensor:
    """Return latents `start` … `start + n - 1` of a seed: float32 (n, latent_dim) ~ U[-1, 1), on the CPU."""
    return _latents(n, latent_dim, seed, start, lambda rng, shape: 2.0 * rng.random(shape, np.float32) - 1.0)


def _latents(n: int, latent_dim: int, seed: int, start: int, draw: Draw) -> Tensor:
    """Draw the blocks that hold the wanted rows, each from its beginning."""
    z = np.empty((n, latent_dim), dtype=np.float32)
    done = 0
    while done < n:
        block, offset = divmod(start + done, _BLOCK)
        take = min(_BLOCK - offset, n - done)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, block])))
        z[done : done + take] = draw(rng, (offset + take, latent_dim))[offset:]
        done += take
    return torch.from_numpy(z)
