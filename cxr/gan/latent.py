"""Latents that depend on nothing but (seed, index), whatever the batch, the process or the device.

Latent i of a seed is row i mod 1024 of a block drawn by NumPy's Philox, seeded by (seed, i div 1024): a
sampler that stops at image 700 and goes on in another process meets the same latents.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxr.errors import UserError

__all__ = [
    "Law",
    "check_truncation",
    "interpolate",
    "mix_seed",
    "normal_latents",
    "truncated",
    "uniform_latents",
]

Law = Literal[
    "normal", "uniform"
]  # N(0, 1) | U(-1, 1): of each entry of a latent, before a generator scales it

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


def truncated(z: Tensor, truncation: float | None, law: Law, *, scale: float = 1.0) -> Tensor:
    """Return latents of the law held to |z| <= truncation · scale, a function of each entry alone; None: `z` itself.

    normal: entries of N(0, scale²) become those of N(0, scale²) truncated to [-t, t] · scale, by the inverse of the
    distribution function, Phi^-1(Phi(-t) + Phi(z) (Phi(t) - Phi(-t))); order and sign stay, and nothing is drawn
    again (Brock et al. 2019, section 3.1, redraw what falls outside). uniform: z times t.

    Raises:
        UserError: see `check_truncation`.
    """
    if truncation is None:
        return z
    t = check_truncation(truncation, law)
    if law == "uniform":
        return t * z
    u = z.to(torch.float64) / scale
    # by the lower tail, where Phi keeps its digits; the upper is its mirror image
    below = torch.special.ndtr(torch.tensor(-t, dtype=torch.float64))
    inner = torch.special.ndtri(below + torch.special.ndtr(-u.abs()) * math.erf(t / math.sqrt(2)))
    held: Tensor = -inner.clamp(-t, 0.0) * u.sign() * scale
    return held.to(z.dtype)


def check_truncation(truncation: float, law: Law) -> float:
    """Return it; a `UserError` where it is no number above 0, or above 1 for uniform latents."""
    t = float(truncation)
    if not math.isfinite(t) or t <= 0:
        raise UserError(f"truncation: got {t:g}, expected a number above 0, or null; set truncation=1")
    if law == "uniform" and t > 1:
        raise UserError(
            f"truncation: got {t:g}, and this GAN's latents are U(-1, 1), expected at most 1; set truncation=0.7"
        )
    return t


def interpolate(a: Tensor, b: Tensor, steps: int, law: Law) -> Tensor:
    """Return latents (steps, latent_dim) from `a` to `b` (latent_dim,), both ends among them.

    normal: along the great circle (Shoemake 1985), the length going from one's to the other's: on the straight line
    latents would be shorter than any that the generator was trained on. uniform: straight, which stays in the cube.
    """
    share = torch.linspace(0.0, 1.0, steps, dtype=torch.float64)[:, None]
    x, y = a.to(torch.float64), b.to(torch.float64)
    straight = (1 - share) * x + share * y
    lengths = x.norm(), y.norm()
    if law == "uniform" or min(lengths) == 0:
        return straight.to(a.dtype)
    cosine = torch.clamp((x @ y) / (lengths[0] * lengths[1]), -1.0, 1.0)
    angle = torch.arccos(cosine)
    if torch.sin(angle) < 1e-6:  # the same direction, or opposite ones: no great circle, or many
        return straight.to(a.dtype)
    turned = torch.sin((1 - share) * angle) * (x / lengths[0]) + torch.sin(share * angle) * (y / lengths[1])
    length = (1 - share) * lengths[0] + share * lengths[1]
    way: Tensor = turned / torch.sin(angle) * length
    return way.to(a.dtype)


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
