"""Real images → the latents whose images are nearest to them: what a generator can and cannot make.

Gradient descent on latents alone, from several starts (Webster et al. 2019, "Detecting overfitting of deep generative
networks via latent recovery", uses the same to compare training with held-out images). The generator is as it
makes images: in eval mode, weights untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import chi2
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from cxr.data.convert import to_float, to_uint8
from cxr.gan.latent import Law

__all__ = ["PROTOCOL", "Projection", "passes_gradients", "project"]

LR = 0.1  # Adam's, on latents of deviation 1; falls to a tenth along a cosine
LEVELS = 4  # the image, then halved three times
FIRST = 0.2  # share of the steps after which only the best start of an image goes on
INSIDE = 0.999  # share of normal latents that are at most as long as a projected one may be
PROTOCOL = (
    f"Adam (lr {LR:g}, cosine to a tenth) on the latent; mean squared error plus the mean over {LEVELS} sizes, each half "
    f"the last, of the mean absolute error, gray in [-1, 1]; all starts for {100 * FIRST:g} % of the steps, then the best; "
    f"normal latents no longer than {100 * INSIDE:g} % are, uniform ones within [-1, 1]; the best of all steps"
)


@dataclass(frozen=True)
class Projection:
    """Of N images: uint8 (N, S, S) that the generator makes nearest to them, latents (N, d), who won.

    Attributes:
        latents: on the CPU, at the generator's own scale.
        start: (N,) which of an image's starts was the best after the first fifth of the steps.
        objective: (N, 2) at the best of the starts, and in the end.
    """

    images: npt.NDArray[np.uint8]
    latents: Tensor
    start: npt.NDArray[np.int64]
    objective: npt.NDArray[np.float64]


def passes_gradients(generator: nn.Module, z: Tensor, labels: Tensor | None, device: torch.device) -> bool:
    """Tell whether an image depends on its latent by a gradient; one whose forward pass cuts it cannot project."""
    with torch.enable_grad():
        image = _gray(generator, z.to(device).requires_grad_(), labels)
    return image.requires_grad


def project(
    generator: nn.Module,
    images: npt.NDArray[np.uint8],
    starts: Tensor,
    labels: Sequence[int] | None,
    *,
    law: Law,
    scale: float,
    steps: int,
    device: torch.device,
    advance: Callable[[], object] = lambda: None,
) -> Projection:
    """Project uint8 images (N, S, S), each from K latents `starts` (N, K, d) at the generator's own scale.

    labels: class of each image, for a conditional generator. advance: called after each of the `steps`.
    A function of its arguments, on a CPU to the bit; the generator's weights, mode and gradients stay as they are.
    """
    n, k, d = starts.shape
    training = generator.training
    generator.eval()
    targets = _pyramid(to_float(torch.from_numpy(images)[:, None].to(device), 1))
    classes = None if labels is None else torch.tensor(list(labels), device=device)
    first = min(max(1, round(FIRST * steps)), steps)

    def objective(u: Tensor, rows: Tensor) -> Tensor:
        made = _gray(generator, scale * u, None if classes is None else classes[rows])
        return _distance(_pyramid(made), [one[rows] for one in targets])

    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
            each = torch.arange(n, device=device).repeat_interleave(k)
            u = (starts.reshape(n * k, d) / scale).to(device)
            begun, best, found = _descend(objective, u, each, law, range(first), steps, advance)
            winner = best.view(n, k).argmin(dim=1)
            took = torch.arange(n, device=device) * k + winner
            left = range(first, steps)
            _, last, u = _descend(objective, found[took], each[took], law, left, steps, advance)
        with torch.inference_mode():
            pixels = to_uint8(_gray(generator, scale * u, classes))[:, 0].cpu().numpy()
    finally:
        generator.train(training)
    ends = torch.stack([begun.view(n, k).amin(dim=1), last], dim=1)
    return Projection(pixels, (scale * u).cpu(), winner.cpu().numpy(), ends.to(torch.float64).cpu().numpy())


def _descend(
    objective: Callable[[Tensor, Tensor], Tensor],
    u: Tensor,
    rows: Tensor,
    law: Law,
    numbers: range,
    steps: int,
    advance: Callable[[], object],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the objective (B,) at the beginning and at the best of the steps `numbers` of `steps`, and latents there."""
    u = u.clone().requires_grad_()
    optimiser = torch.optim.Adam([u], lr=LR)
    begun: Tensor | None = None
    best, found = torch.full_like(u[:, 0], torch.inf).detach(), u.detach().clone()
    for number in (*numbers, None):
        with torch.enable_grad():
            value = objective(u, rows)
            if number is not None:
                (u.grad,) = torch.autograd.grad(value.sum(), u)  # of u alone: weights get none
        value = value.detach()
        begun = value if begun is None else begun
        better = value < best
        best, found = torch.where(better, value, best), torch.where(better[:, None], u.detach(), found)
        if number is None:  # the end of the last step was looked at, too
            break
        optimiser.param_groups[0]["lr"] = LR * (0.55 + 0.45 * float(np.cos(np.pi * number / steps)))
        optimiser.step()
        with torch.no_grad():
            u.copy_(_inside(u, law))
        advance()
    assert begun is not None
    return begun, best, found


def _inside(u: Tensor, law: Law) -> Tensor:
    """Return latents of deviation 1 (or U(-1, 1)) brought back to where the generator was trained."""
    if law == "uniform":
        return u.clamp(-1.0, 1.0)
    longest = float(chi2.ppf(INSIDE, u.shape[1])) ** 0.5
    held: Tensor = u * (longest / u.norm(dim=1, keepdim=True).clamp_min(longest))
    return held


def _gray(generator: nn.Module, z: Tensor, labels: Tensor | None) -> Tensor:
    """Return images (B, 1, H, H) in [-1, 1]."""
    made = cast(Tensor, generator(z) if labels is None else generator(z, labels))
    return made.mean(dim=1, keepdim=True)


def _pyramid(images: Tensor) -> list[Tensor]:
    sizes = [images]
    while len(sizes) < LEVELS and min(sizes[-1].shape[-2:]) >= 2:
        sizes.append(avg_pool2d(sizes[-1], 2))
    return sizes


def _distance(made: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Return what is made small, (B,)."""
    squared = (made[0] - real[0]).square().mean(dim=(1, 2, 3))
    absolute = [(a - b).abs().mean(dim=(1, 2, 3)) for a, b in zip(made, real, strict=True)]
    return squared + torch.stack(absolute).mean(dim=0)
