"""The order of an epoch: a pure function of (seed, epoch), shared among ranks, resumable at any batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch.distributed as dist
from torch.utils.data import Sampler

from cxr.errors import UserError

__all__ = ["Draw", "EpochSampler"]


class Draw(NamedTuple):
    """One batch to read: which it is (so that augmentation can be seeded by it), and its positions."""

    epoch: int
    batch: int
    positions: npt.NDArray[np.int64]


class EpochSampler(Sampler[Draw]):
    """Yields one rank's share of the batches; `batch_size` counts the images of all ranks together.

    Rank r takes the r-th of `world_size` even shares of every batch, so that ranks never
    meet, nothing is padded, and the ranks together see the batches that one process would.
    Without `shuffle` (validation, test) every image is drawn exactly once, over all ranks,
    and `batch_size` is rounded up to a multiple of `world_size`. With it and several ranks,
    the last batch loses up to world_size - 1 images, since a loss is the mean over ranks;
    with `drop_last` it goes altogether when smaller than the others.

    Lightning calls `set_epoch`. `load_state_dict` makes the next pass, and only that one,
    begin at the batch after the last that was taken.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(
                f"loader.batch_size is {batch_size}; expected at least 1: set loader.batch_size=64"
            )
        distributed = dist.is_available() and dist.is_initialized()
        if rank is None:
            rank = dist.get_rank() if distributed else 0
        self.rank = rank
        if world_size is None:
            world_size = dist.get_world_size() if distributed else 1
        self.world_size = world_size
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} of {self.world_size}")
        uneven = batch_size % self.world_size
        if shuffle and uneven:
            raise UserError(
                f"loader.batch_size is {batch_size} images over all {self.world_size} processes; expected a multiple "
                f"of {self.world_size}: set loader.batch_size={batch_size - uneven + self.world_size}"
            )
        if not shuffle and 0 < n < self.world_size:
            raise UserError(
                f"{n} validation or test images for {self.world_size} processes; expected at least one for each: "
                f"raise split.val or split.test, or set trainer.devices={n}"
            )
        batch_size += -batch_size % self.world_size
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.epoch = 0
        self.taken = 0  # batches of this epoch that were handed to the consumer
        self._start = 0  # where the next pass begins
        if shuffle and n and not len(self):
            raise UserError(
                f"{n} training images make no batch of {batch_size} over {self.world_size} processes: "
                f"lower loader.batch_size or set loader.drop_last=false"
            )

    def __len__(self) -> int:
        """Return the batches of a whole epoch, also when the next pass begins later."""
        whole, rest = divmod(self.n, self.batch_size)
        return whole + (self._share(rest)[1] > self._share(rest)[0])

    def __iter__(self) -> Iterator[Draw]:
        start, self._start = self._start, 0
        epoch, order = self.epoch, self.order(self.epoch)
        size = self.batch_size
        for batch in range(start, len(self)):
            block = order[batch * size : (batch + 1) * size]
            first, last = self._share(len(block))
            yield Draw(epoch, batch, block[first:last])

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the positions (n,) of one epoch, all ranks together."""
        if not self.shuffle:
            return np.arange(self.n, dtype=np.int64)
        return np.random.default_rng([self.seed, epoch]).permutation(self.n).astype(np.int64)

    def set_epoch(self, epoch: int) -> None:
        """Move to an epoch; to another than the current one means to its beginning."""
        if epoch != self.epoch:
            self.epoch, self.taken, self._start = epoch, 0, 0

    def begin(self) -> None:
        """Say that a pass starts: what was taken so far is what it will skip."""
        self.taken = self._start

    def state_dict(self) -> dict[str, int]:
        """Return the position within the epoch, and what it was counted under."""
        return {"epoch": self.epoch, "batch": self.taken, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the last batch taken; refused where the same count means other images."""
        for name, value in self._identity().items():
            if state[name] != value:
                raise UserError(
                    f"the run was interrupted with {name}={state[name]} and is continued with {value}; "
                    f"expected the same images, batch size, seed and devices: restore them, or set name=…"
                )
        self.epoch, self.taken = int(state["epoch"]), int(state["batch"])
        self._start = self.taken

    def _identity(self) -> dict[str, int]:
        return {"n": self.n, "batch_size": self.batch_size, "seed": self.seed, "world_size": self.world_size}

    def _share(self, size: int) -> tuple[int, int]:
        """Return where this rank's share of a batch of `size` begins and ends."""
        if self.drop_last and size < self.batch_size:
            return 0, 0
        if self.shuffle:
            share = size // self.world_size
            return self.rank * share, (self.rank + 1) * share
        share = math.ceil(size / self.world_size)
        return min(self.rank * share, size), min((self.rank + 1) * share, size)
