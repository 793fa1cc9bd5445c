"""What every extractor is, and the one pass over images that all scores are made from.

Images come as uint8 of one channel, as caches and synthetic sets hold them; what an extractor does to them (size,
gray to RGB, range) is its own affair and stands in its `protocol`. None rescales an image by its own extremes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr.data.picked import Picked
from cxr.errors import UserError

__all__ = ["Answer", "Extractor", "extract", "state_sha256"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """What an extractor says of N images: features (N, d), and logits (N, K) of classes or None; float32."""

    features: Floats
    logits: Floats | None


class Extractor(ABC):
    """Maps images to features.

    Attributes:
        name: with the start of the weights' SHA-256, as in a score's brackets: `inception@6726825d`, `pixel16`.
        layer: which of its layers, where it has several (`softmax`, `penultimate`): part of a score's name; "" else.
        protocol: everything that decides the features: plain values, for a record and for a cache's key.
        network: what is moved to a device; None where there is nothing to move. Never trained, in evaluation mode.
    """

    name: str
    layer: str
    protocol: dict[str, Any]
    network: nn.Module | None

    @abstractmethod
    def answer(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map uint8 (B, 1, S, S), on the network's device, to features (B, d) and logits (B, K) or None."""


def extract(
    extractor: Extractor,
    images: npt.NDArray[np.uint8] | Picked | Tensor,
    *,
    batch: int,
    device: torch.device | str,
    advance: Callable[[int], object] | None = None,
) -> Answer:
    """Return features and logits of images (N, S, S) uint8, `batch` at a time; `advance(n)` after each batch.

    The last batch is filled up with black images, whose answers are dropped: kernels choose their order of summing by
    the batch's shape, so an image's features would otherwise change in their last bits with the number of images.

    Raises:
        UserError: a feature is not finite.
    """
    if images.dtype not in (np.uint8, torch.uint8) or images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise ValueError(f"expected uint8 (N, S, S), got {images.dtype} {tuple(images.shape)}")
    if len(images) == 0 or batch < 1:
        raise ValueError(f"{len(images)} images in batches of {batch}")
    if extractor.network is not None:
        extractor.network.to(device).eval()
    found: Floats | None = None
    answered: Floats | None = None
    # float32 throughout, as the CPU: TF32 keeps 10 bits of a product; a trainer's autocast must not reach here
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), torch.autocast(torch.device(device).type, enabled=False), exact:
        for start in range(0, len(images), batch):
            some = images[start : start + batch]
            pixels = (
                some if isinstance(some, Tensor) else torch.from_numpy(np.array(some))
            )  # maps are read-only
            n = len(pixels)
            filled = torch.cat([pixels, pixels.new_zeros((batch - n, *pixels.shape[1:]))])
            features, logits = extractor.answer(filled.unsqueeze(1).to(device))
            # written where they stay: a list of batches would be held twice when it is joined
            found = _kept(found, features[:n], start, len(images))
            answered = None if logits is None else _kept(answered, logits[:n], start, len(images))
            if advance is not None:
                advance(n)
    shape = None if found is None else found.shape
    if found is None or found.ndim != 2 or not np.isfinite(found).all():
        raise UserError(f"extractor {extractor.name}: expected finite features (N, d), got shape {shape} or values "
                        "that are not finite; look at its weights, or set extractor=… to another")  # fmt: skip
    return Answer(found, answered)


def _kept(held: Floats | None, batch: Tensor, start: int, n: int) -> Floats:
    """Write a batch's answers (B, …) into those of n images, from image `start` on; made at the first batch."""
    if held is None:
        held = np.full((n, *batch.shape[1:]), np.nan, np.float32)  # what no batch answers is refused
    held[start : start + len(batch)] = batch.float().cpu().numpy()
    return held


def state_sha256(network: nn.Module) -> str:
    """Return the SHA-256 of a network's weights, for those that come without a file: names, shapes and values."""
    import hashlib

    sha = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
