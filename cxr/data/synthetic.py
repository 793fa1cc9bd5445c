"""Synthetic sets: the folder that generate.py leaves and a classifier reads.

    synthetic/<name>/  images.npy (N, S, S) uint8, index.parquet (class, z_seed, z_index,
                       checkpoint_sha256, score), manifest.json, grid.png

The manifest carries `trained_on`, the content hash of every real image that any of the GANs
saw: `check_leak` compares it with what a classifier is validated and tested on. A set that was
curated (`curated`, one entry per step) also has `source_row` in its index and `chosen_on` beside
`trained_on`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.data.stack import open_stack
from cxr.errors import UserError, did_you_mean
from cxr.files import atomic_path, digest, file_sha256, read_json, read_parquet, write_json

__all__ = [
    "COLUMNS",
    "NEAR_FILE",
    "SyntheticSet",
    "check_leak",
    "load_synthetic",
    "resized",
    "set_folder",
    "synthetic_labels",
    "write_synthetic",
]

COLUMNS = ("class", "z_seed", "z_index", "checkpoint_sha256", "score")
REQUIRED = (
    "size_px",
    "classes",
    "n",
    "seed",
    "checkpoints",
    "trained_on",
    "split_fingerprint",
    "images_sha256",
)
# What those of the facts must be that are read; a set may also be without the last two.
KINDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("size_px", "n"), (int, "a whole number")),
    **dict.fromkeys(("images_sha256", "index_sha256"), (str, "text")),
    **dict.fromkeys(("classes", "trained_on", "chosen_on"), (list, "a list of text")),
}
NEAR_FILE = "near.npz"  # fingerprints of what trained the GAN (near_store.py); older sets have none
SEAL = "facts_sha256"  # of all the manifest says beside it; a set that an older cxr made has none


@dataclass(frozen=True)
class SyntheticSet:
    """A set as it lies on the disk: `images` (N, S, S) uint8 read-only, row by row with `index`."""

    images: npt.NDArray[np.uint8]
    index: pd.DataFrame
    manifest: dict[str, Any]
    path: Path


def write_synthetic(
    path: Path,
    images: npt.NDArray[np.uint8],
    index: pd.DataFrame,
    manifest: Mapping[str, Any],
    grid: npt.NDArray[np.uint8] | None,
    files: Mapping[str, bytes] | None = None,
) -> SyntheticSet:
    """Write a set under a temporary name and rename it to `path` when whole.

    images (N, S, S); index with COLUMNS, N rows; grid: a picture (H, W) for people; files:
    further ones by name. The manifest gets kind, n, size_px and images_sha256 from the images; the caller gives the
    rest of REQUIRED. A synthetic set that is there is replaced; any other folder is refused.
    """
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise ValueError(f"expected images (N, S, S) uint8, got {images.dtype} {images.shape}")
    if len(index) != len(images) or [c for c in COLUMNS if c not in index]:
        raise ValueError(
            f"expected {len(images)} rows of {COLUMNS}, got {len(index)} of {tuple(index.columns)}"
        )
    if path.exists() and not _is_synthetic(path):
        raise UserError(f"{path} is there and is no synthetic set; expected a free name: set name=…")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        np.save(temporary / "images.npy", images, allow_pickle=False)
        index.reset_index(drop=True).to_parquet(temporary / "index.parquet", index=False)
        if grid is not None and not cv2.imwrite(str(temporary / "grid.png"), grid):
            raise RuntimeError("grid.png could not be written")
        for name, content in (files or {}).items():
            (temporary / name).write_bytes(content)
        near = temporary / NEAR_FILE
        facts: dict[str, Any] = {
            **manifest,
            "near_sha256": file_sha256(near) if near.is_file() else None,
            "kind": "synthetic",
            "n": len(images),
            "size_px": int(images.shape[1]),
            "images_sha256": file_sha256(temporary / "images.npy"),
            "index_sha256": file_sha256(temporary / "index.parquet"),
        }
        facts[SEAL] = _seal(facts)
        if missing := [key for key in REQUIRED if key not in facts]:
            raise ValueError(f"the manifest of a synthetic set needs {missing}")
        write_json(temporary / "manifest.json", facts)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)  # mkdtemp makes 0700
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load_synthetic(path)


def _seal(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's facts as JSON gives them back."""
    return digest(
        {k: v for k, v in json.loads(json.dumps(facts, default=str)).items() if k != SEAL}, length=64
    )


def set_folder(synthetic_dir: Path, name: str) -> Path:
    """Return the folder of a set given by its name below `synthetic_dir`, or by its path."""
    return Path(name) if "/" in name else synthetic_dir / name


def load_synthetic(path: Path) -> SyntheticSet:
    """Open a set and verify its pixels against the manifest; a missing or damaged one is a `UserError`."""
    again = "make it again with python generate.py"
    if not (path / "manifest.json").is_file():
        there = [p.name for p in path.parent.iterdir() if _is_synthetic(p)] if path.parent.is_dir() else []
        raise UserError(
            f"no synthetic set at {path}{did_you_mean(path.name, there)}: mend synthetic, or {again}"
        )
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("kind") != "synthetic":
        raise UserError(
            f"{path} is no synthetic set; expected a folder that generate.py wrote: mend synthetic"
        )
    if missing := [key for key in REQUIRED if key not in manifest]:
        raise UserError(f"{path}/manifest.json lacks {', '.join(missing)}: {again}")
    if SEAL in manifest and manifest[SEAL] != _seal(manifest):
        raise UserError(f"{path}/manifest.json was changed by hand, and leaks are looked for in it: {again}")
    for key, (kind, told) in KINDS.items():
        value = manifest.get(key, kind())
        if not isinstance(value, kind) or (
            isinstance(value, list) and not all(isinstance(one, str) for one in value)
        ):
            raise UserError(f"{path}/manifest.json: {key} is {str(value)[:60]!r}, expected {told}: {again}")
    try:
        for file in ("images.npy", "index.parquet"):
            named = manifest.get(f"{file.partition('.')[0]}_sha256")  # older sets name the images only
            if named is not None and file_sha256(path / file) != named:
                raise UserError(f"{path}/{file} is not what its manifest names (SHA-256 differs): {again}")
        images = open_stack(path / "images.npy")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): {again}") from None
    index = read_parquet(path / "index.parquet", f"the index of a synthetic set: {again}")
    named = "class" in index and all(isinstance(name, str) for name in index["class"])
    if len(index) != len(images) or not named or [c for c in COLUMNS if c not in index]:
        raise UserError(f"{path}/index.parquet does not fit its {len(images)} images: {again}")
    return SyntheticSet(images, index, manifest, path)


def resized(synthetic: SyntheticSet, size_px: int) -> SyntheticSet:
    """Return the set at another size: cubic when it grows, by area when it shrinks.

    Done once: the result lies beside images.npy, named after the size and the pixels it is
    made from; where the folder cannot be written to, it stays in memory.
    """
    if synthetic.images.shape[1] == size_px:
        return synthetic
    how = cv2.INTER_CUBIC if size_px > synthetic.images.shape[1] else cv2.INTER_AREA
    sibling = synthetic.path / f"images-{size_px}-{synthetic.manifest['images_sha256'][:8]}.npy"
    shape = (len(synthetic.images), size_px, size_px)
    if not sibling.is_file():
        images = np.empty(shape, np.uint8)
        for row, image in enumerate(synthetic.images):
            images[row] = cv2.resize(np.asarray(image), (size_px, size_px), interpolation=how)
        try:
            with atomic_path(sibling) as temporary:
                np.save(temporary, images, allow_pickle=False)
        except PermissionError:
            return SyntheticSet(images, synthetic.index, synthetic.manifest, synthetic.path)
    images = np.load(sibling, mmap_mode="r", allow_pickle=False)
    if images.shape != shape or images.dtype != np.uint8:
        raise UserError(f"{sibling} holds {images.dtype} {images.shape}; expected uint8 {shape}: delete it")
    return SyntheticSet(images, synthetic.index, synthetic.manifest, synthetic.path)


def synthetic_labels(sets: Sequence[SyntheticSet], classes: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return the one-hot labels (sum of N, L) of sets taken one after the other."""
    column = {name: k for k, name in enumerate(classes)}
    blocks = [np.empty((0, len(classes)), np.float32)]
    for one in sets:
        if unknown := sorted(set(one.index["class"]) - set(column)):
            hint = did_you_mean(str(unknown[0]), classes)
            raise UserError(f"{one.path} has the class '{unknown[0]}', unknown here{hint}: mend synthetic")
        block = np.zeros((len(one.index), len(classes)), np.float32)
        block[np.arange(len(block)), [column[name] for name in one.index["class"]]] = 1.0
        blocks.append(block)
    return np.concatenate(blocks)


def check_leak(
    synthetic: SyntheticSet | Sequence[SyntheticSet],
    held_out_hashes: Collection[str],
    policy: Literal["refuse", "allow"],
    test_hashes: Collection[str] = (),
) -> list[str]:
    """Return the content hashes of validation and test images that a GAN of the sets was trained on.

    By content, so a file that lies under two names is found. `refuse` raises `UserError`
    where there is any. A classifier that judged a set's images counts as the GAN does: what it was
    trained on (it joined `trained_on`) may be no held-out image. What it was validated on
    (`chosen_on`: it chose among epochs) may be a validation image, which does the same for the
    classifier to be trained, but none of `test_hashes`.
    """
    sets = [synthetic] if isinstance(synthetic, SyntheticSet) else list(synthetic)
    held_out, test = set(held_out_hashes), set(test_hashes)
    meeting = {
        one.path.name: held_out.intersection(one.manifest["trained_on"])
        | test.intersection(one.manifest.get("chosen_on", ()))
        for one in sets
    }
    leaked = sorted(set().union(*meeting.values()))
    if leaked and policy == "refuse":
        names = ", ".join(name for name, hashes in meeting.items() if hashes)
        makers = "the GAN or the judge" if any(one.manifest.get("curated") for one in sets) else "the GAN"
        raise UserError(
            f"leak: {len(leaked)} validation or test images trained {makers} of synthetic set {names}, "
            f"the first is {leaked[0][:16]}; expected none: use the GAN's split, or set leakage=allow "
            f"and the report marks it"
        )
    return leaked


def _is_synthetic(path: Path) -> bool:
    if not (path / "manifest.json").is_file():
        return False
    manifest = read_json(path / "manifest.json")
    return isinstance(manifest, dict) and manifest.get("kind") == "synthetic"
