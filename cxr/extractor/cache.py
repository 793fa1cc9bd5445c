"""Features kept on the disk, by a hash of the pixels and of the protocol: other images are another file, never stale."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cxr.data.picked import Picked
from cxr.extractor.base import Answer, Extractor, extract
from cxr.files import atomic_path, digest

__all__ = ["cache_key", "cached_answer"]

_BLOCK = 256  # images hashed at once


def cache_key(extractor: Extractor, images: npt.NDArray[np.uint8] | Picked) -> str:
    """Return the hash of images (N, S, S) in their order and of what the extractor does to them."""
    sha = hashlib.sha256()
    for start in range(0, len(images), _BLOCK):
        sha.update(np.ascontiguousarray(images[start : start + _BLOCK]).data)
    about = {"name": extractor.name, "layer": extractor.layer, "protocol": extractor.protocol}
    return digest({"pixels": sha.hexdigest(), "shape": images.shape, **about}, 32)


def cached_answer(
    extractor: Extractor,
    images: npt.NDArray[np.uint8] | Picked,
    *,
    folder: Path,
    batch: int,
    device: torch.device | str,
    advance: Callable[[int], object] | None = None,
) -> Answer:
    """Return `extract` of images (N, S, S) uint8, from `folder`/<hash>.npz if it is there and whole.

    A damaged file (a zip's checksums tell) is made again; one that cannot be written is not kept.
    """
    file = folder / f"{cache_key(extractor, images)}.npz"
    if (found := _read(file, len(images))) is not None:
        if advance is not None:
            advance(len(images))
        return found
    made = extract(extractor, images, batch=batch, device=device, advance=advance)
    try:
        with atomic_path(file) as temporary:
            kept = {"features": made.features, **({} if made.logits is None else {"logits": made.logits})}
            np.savez(temporary, allow_pickle=False, **kept)
    except PermissionError:
        pass
    return made


def _read(file: Path, n: int) -> Answer | None:
    """Return what the file holds of n images; None where it is not there or damaged."""
    try:
        with np.load(file, allow_pickle=False) as held:
            found = Answer(held["features"], held["logits"] if "logits" in held.files else None)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return found if len(found.features) == n else None
