"""Batches of features in place of images: the same order, the same labels, the same place to go on from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxr.data.feature_store import Bytes, FeatureStore
from cxr.data.sampler import Draw, EpochSampler

__all__ = ["FeatureLoader", "FeatureSet", "Form", "as_bytes"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Form:
    """What a row's bytes are: the features of one image."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's features."""
        size: int = self.dtype.itemsize
        return math.prod(self.shape) * size


def as_bytes(features: Tensor) -> Bytes:
    """Return features (B, …) of any type as bytes (B, row_bytes): numpy knows no bfloat16."""
    flat = features.detach().cpu().contiguous().flatten(1)
    return np.asarray(flat.view(torch.uint8).numpy())


class FeatureSet:
    """The features of a part, read from stores.

    stores: what is read, counted one after the other.
    where: (V, n) int64: where position p lies in view v, which is that of every V-th epoch. One view: no augmentation.
    labels (n, L) float32, rows (n,): as those of an `ImageDataset`.
    """

    def __init__(
        self,
        stores: Sequence[FeatureStore],
        form: Form,
        where: Rows,
        labels: npt.NDArray[np.float32],
        rows: Rows,
    ) -> None:
        self.form, self.where, self.labels, self.rows = form, where, labels, rows
        self._parts = [store.rows() for store in stores]
        self._ends = np.cumsum([len(part) for part in self._parts])

    def __len__(self) -> int:
        return int(self.where.shape[1])

    def __getitems__(self, draw: Draw) -> dict[str, Tensor]:
        """Read one batch: features (B, …), label float32 (B, L), row int64 (B,)."""
        at = self.where[draw.epoch % len(self.where), draw.positions]
        held = np.empty((len(at), self.form.row_bytes), np.uint8)
        store = np.searchsorted(self._ends, at, side="right")
        for number in np.unique(store):
            here = np.flatnonzero(store == number)
            first = self._ends[number] - len(self._parts[number])
            held[here] = self._parts[number][at[here] - first]
        features = torch.from_numpy(held).view(self.form.dtype).view(len(at), *self.form.shape)
        return {
            "features": features,
            "label": torch.from_numpy(self.labels[draw.positions]),
            "row": torch.from_numpy(self.rows[draw.positions]),
        }


class FeatureLoader:
    """What Lightning iterates over, as `EpochLoader`; without workers or a thread: a batch takes microseconds."""

    def __init__(self, dataset: FeatureSet, sampler: EpochSampler) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.batch_sampler = sampler  # where Lightning looks whether validation is shuffled

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self.sampler.begin()
        for draw in self.sampler:
            batch = self.dataset.__getitems__(draw)
            self.sampler.taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position; Lightning stores it in every checkpoint, and `EpochLoader` can go on from it."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the position."""
        self.sampler.load_state_dict(state)
