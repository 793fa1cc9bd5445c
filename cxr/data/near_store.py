"""Fingerprints on the disk: beside a cache with the pairs found in it, and beside a GAN or synthetic set.

<cache>/near.npz     thumbs (N, 48, 48), i, j, likeness, and the SHA-256 of the images they are of
<run>/near.npz       thumbs of the images that trained a GAN; so in synthetic/<name>/, whose manifest names its SHA-256
"""

from __future__ import annotations

import io
import zipfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from cxr.data.cache import CachedImages
from cxr.data.near import MIN_PX, Fingerprints, NearPairs, fingerprints, near_pairs
from cxr.data.near_align import THUMB_PX
from cxr.data.synthetic import NEAR_FILE
from cxr.errors import UserError
from cxr.files import atomic_path, file_sha256, locked, read_json

__all__ = ["NEAR_FILE", "looked_up", "read_prints", "write_prints"]

FORMAT = 1  # raise it when the same images would have other thumbnails or pairs


def looked_up(cached: CachedImages) -> tuple[Fingerprints, NearPairs] | None:
    """Return the fingerprints of a cache's images and the near-duplicates among all of them; None below 32 px.

    Made once and kept in the cache's folder, where it can be written to; two processes do not make it twice.
    """
    if cached.images.shape[1] < MIN_PX:
        return None
    sha256 = str(read_json(cached.path / "manifest.json")["images_sha256"])
    file = cached.path / NEAR_FILE
    with ExitStack() as held:
        with suppress(OSError):  # nobody is excluded where no lock can be made
            held.enter_context(locked(cached.path.with_name(cached.path.name + ".lock")))
        if (found := _read(file, sha256, len(cached.images))) is not None:
            return found
        prints = fingerprints(cached.images)
        pairs = near_pairs(prints)
        try:
            with atomic_path(file) as temporary, temporary.open("wb") as stream:
                np.savez(stream, thumbs=prints.thumbs, i=pairs.i, j=pairs.j, likeness=pairs.likeness,
                         of=np.array([str(FORMAT), sha256]))  # fmt: skip
        except PermissionError:  # somebody else's cache: found again each time
            pass
    return prints, pairs


def write_prints(path: Path, prints: Fingerprints) -> str:
    """Write fingerprints to `path` and return the file's SHA-256."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, thumbs=prints.thumbs)
    return file_sha256(path)


def read_prints(path: Path, sha256: str) -> Fingerprints:
    """Return the fingerprints in a file that a manifest names by its SHA-256.

    Raises:
        UserError: it is gone, or another.
    """
    if not path.is_file() or file_sha256(path) != sha256:
        raise UserError(f"{path} is not what its manifest names (gone, or SHA-256 differs): make the folder again, "
                        "or set near_duplicates=off")  # fmt: skip
    stored = _arrays(path.read_bytes())
    if stored is None or not _are_thumbs(stored.get("thumbs")):
        raise UserError(f"{path} holds no fingerprints: make the folder again, or set near_duplicates=off")
    return Fingerprints(stored["thumbs"])


def _read(file: Path, sha256: str, n: int) -> tuple[Fingerprints, NearPairs] | None:
    """Return what is kept of these very images; None where there is none, or it is of others or damaged."""
    stored = _arrays(file.read_bytes()) if file.is_file() else None
    if stored is None or set(stored) != {"thumbs", "i", "j", "likeness", "of"}:
        return None
    thumbs, i, j = stored["thumbs"], stored["i"], stored["j"]
    whole = (
        stored["of"].tolist() == [str(FORMAT), sha256]
        and _are_thumbs(thumbs)
        and len(thumbs) == n
        and i.shape == j.shape == stored["likeness"].shape
        and (not len(i) or (i.min() >= 0 and (i < j).all() and j.max() < n))
    )
    return (Fingerprints(thumbs), NearPairs(i, j, stored["likeness"])) if whole else None


def _arrays(content: bytes) -> dict[str, Any] | None:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile):
        return None


def _are_thumbs(array: Any) -> bool:
    return (
        isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.shape[1:] == (THUMB_PX, THUMB_PX)
    )
