"""From a checked configuration to rows: index, cache, split, synthetic sets, mix.

Training, generation and evaluation all begin here, so that the same configuration always
means the same images in the same parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.config import build
from cxr.data.cache import CachedImages, ImageCache
from cxr.data.grouping import near_groups
from cxr.data.index import FileSource, labels
from cxr.data.mix import Mixture, composition, training_rows
from cxr.data.module import CXRDataModule
from cxr.data.near import MIN_PX
from cxr.data.near_store import looked_up
from cxr.data.split import Split
from cxr.data.synthetic import SyntheticSet, check_leak, load_synthetic, resized, set_folder, synthetic_labels
from cxr.errors import UserError

__all__ = ["Prepared", "prepare"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """The images of a run, by row of the cache: what it trains on, what it is judged on.

    Attributes:
        cached: all images (N, S, S) uint8 with their index.
        split: parts of the index.
        labels: (N, L) float32, columns in the order of `classes`, NaN = unknown.
        classes: label names.
        rows: rows by part; of `train_classes` only in a GAN's training and validation part.
        mixture: rows and synthetic positions that are trained on; None: all rows, as most GANs.
        synthetic: the synthetic sets, at the cache's image size.
        leaked: content hashes of held-out images that a synthetic set's GAN has seen.
    """

    cached: CachedImages
    split: Split
    labels: npt.NDArray[np.float32]
    classes: list[str]
    rows: dict[str, Rows]
    mixture: Mixture | None
    synthetic: list[SyntheticSet]
    leaked: list[str]

    def hashes(self, part: str) -> list[str]:
        """Return the content hashes of a part's real images, sorted; in training, of those that the mix takes."""
        rows = self.rows[part]
        if part == "train" and self.mixture is not None:
            rows = rows[self.mixture.real]
        return sorted(set(self.cached.index["content_hash"].to_numpy()[rows].tolist()))

    def training_labels(self) -> npt.NDArray[np.float32]:
        """Return the labels (n, L) of what is trained on: mixed, repeats and synthetic images included."""
        real = self.labels[self.rows["train"]]
        if self.mixture is None:
            return real
        made = synthetic_labels(self.synthetic, self.classes)[self.mixture.synthetic]
        return np.concatenate([real[self.mixture.real], made])

    def counts(self) -> dict[str, dict[str, Any]]:
        """Return images per class and part; training images as real, synthetic and duplicated."""
        real = self.labels[self.rows["train"]]
        mixture = self.mixture or Mixture(np.arange(len(real)), np.empty(0, np.int64))
        made = synthetic_labels(self.synthetic, self.classes) if self.synthetic else None
        counts: dict[str, dict[str, Any]] = {"train": composition(mixture, real, made, classes=self.classes)}
        for part in ("val", "test"):
            positive = (self.labels[self.rows[part]] == 1).sum(axis=0)
            counts[part] = {name: int(n) for name, n in zip(self.classes, positive, strict=True)}
        return counts

    def module(self, config: Mapping[str, Any]) -> CXRDataModule:
        """Return the batches that `config` (plain containers) asks for."""
        train = self.rows["train"]
        if self.mixture is not None:
            train = training_rows(train, self.mixture)
        module: CXRDataModule = build(config["loader"])(
            images=self.cached.images,
            labels=self.labels,
            parts={**self.rows, "train": train},
            seed=config["seed"],
            augment=build(config["augment"]),
            synthetic=[one.images for one in self.synthetic],
            synthetic_labels=synthetic_labels(self.synthetic, self.classes),
        )
        return module


def prepare(config: Mapping[str, Any]) -> Prepared:
    """Read the index, build or open the cache, split, load synthetic sets, refuse leaks, mix.

    `config` is a run's configuration as plain containers.
    """
    source = build(config["data"])
    classes = list(source.classes)
    cache: ImageCache = build(config["cache"])
    if isinstance(source, FileSource):
        source.remember_hashes(cache.dir, rehash=cache.rehash)
    cached: CachedImages = cache.build(source, source.index())
    index = cached.index
    if config.get("near_duplicates") == "group":  # a run from before the key was there knew none
        index = _kept_together(cached)
    split: Split = build(config["split"])(index)
    split = replace(split, warnings=(*source.warnings, *split.warnings))
    values = labels(cached.index)
    rows = dict(split.parts)
    if config.get("train_classes"):
        wanted = [classes.index(name) for name in config["train_classes"]]
        chosen = (values[:, wanted] == 1).any(axis=1)
        rows = {part: found if part == "test" else found[chosen[found]] for part, found in rows.items()}
    if len(rows["train"]) == 0:
        raise UserError(f"split: the training part has no image of {config['train_classes'] or classes}; "
                        "lower split.test, or set train_classes=[…]")  # fmt: skip
    synthetic_dir = Path(config["synthetic_dir"])
    sets = [load_synthetic(set_folder(synthetic_dir, name)) for name in config["synthetic"]]
    hashes = cached.index["content_hash"].to_numpy()
    test = hashes[split.parts["test"]]
    held_out = np.concatenate([hashes[split.parts["val"]], test])
    leaked = check_leak(sets, held_out, config["leakage"], test)
    size_px = int(cached.images.shape[1])
    mixture = None
    if config.get("mix"):
        made = synthetic_labels(sets, classes) if sets else None
        mixture = build(config["mix"])(values[rows["train"]], made, classes=classes)
    return Prepared(
        cached, split, values, classes, rows, mixture, [resized(s, size_px) for s in sets], leaked
    )


def _kept_together(cached: CachedImages) -> pd.DataFrame:
    """Return the index with its near-duplicates as groups that no split parts."""
    if (found := looked_up(cached)) is None:
        raise UserError(f"near_duplicates=group: images of {cached.images.shape[1]} px are too small to know copies by, "
                        f"expected {MIN_PX} or more: set cache.size_px={MIN_PX}, or near_duplicates=report")  # fmt: skip
    return near_groups(cached.index, found[1].i, found[1].j)
