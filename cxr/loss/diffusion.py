"""What a diffusion model learns from: Karras et al. 2022, Table 1."""

from __future__ import annotations

from torch import Tensor

__all__ = ["denoising_loss"]


def denoising_loss(denoised: Tensor, images: Tensor, sigma: Tensor, *, sigma_data: float) -> Tensor:
    """Return the squared error of images (B, C, H, H), weighted so that each noise level (B,) begins with a mean of 1.

    The weight, (sigma² + sigma_data²) / (sigma · sigma_data)², is one over the square of what the preconditioning
    multiplies the network's output with: the network's own error counts the same at every level.
    """
    weight = (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()
    return ((denoised - images).square().mean(dim=(1, 2, 3)) * weight).mean()
