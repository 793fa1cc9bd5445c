"""The one place where pixels change between uint8 and float.

uint8 [0, 255] on disk, in caches and at metric inputs; float [-1, 1] inside models.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["to_float", "to_uint8"]


def to_float(images: Tensor, channels: int) -> Tensor:
    """Map uint8 (B, 1, H, W) to float32 (B, channels, H, W) in [-1, 1].

    With several channels the result is a view that repeats the one: call `.contiguous()`
    where memory is written to.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"expected uint8 (B, 1, H, W), got {images.dtype} {tuple(images.shape)}")
    # In place, on the new tensor: the same bits, in half the time where memory is the limit, as on a CPU.
    return images.to(torch.float32).div_(127.5).sub_(1.0).expand(-1, channels, -1, -1)


def to_uint8(images: Tensor) -> Tensor:
    """Map float (B, C, H, W) in [-1, 1] to uint8 (B, 1, H, W): mean over C, clamp, round, cast.

    Clamped before the cast, which would wrap -0.01 to 255, and rounded, since it truncates.
    """
    if not images.is_floating_point() or images.ndim != 4:
        raise ValueError(f"expected float (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
    gray = images.to(torch.float32).mean(dim=1, keepdim=True)
    return ((gray + 1.0) * 127.5).clamp(0.0, 255.0).round().to(torch.uint8)
