"""Batches read straight from memory-maps, and the loader that can stop and go on at any of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cxr.data.gather import AHEAD_BYTES, MOST_AHEAD, Disk, file_of, gather, looking_ahead
from cxr.data.sampler import Draw, EpochSampler
from cxr.data.warp import Change, Draws, as_tensors
from cxr.data.worker import begin_worker

__all__ = ["Augment", "Batch", "EpochLoader", "ImageDataset"]

Pixels = npt.NDArray[np.uint8]
Augment = Callable[[Pixels, np.random.Generator], Pixels]
Batch = dict[str, Tensor]
Rows = npt.NDArray[np.int64]

READ_AHEAD = 2  # batches that the thread has ready


class ImageDataset(Dataset[Batch]):
    """Rows of one or more image stacks.

    `rows` (n,) int64 says what position 0 … n-1 of the data set is: row r >= 0 of `images`
    (N, S, S) uint8 with `labels` (N, L) float32, or for r < 0 the image -1 - r of the
    `synthetic` stacks, taken one after the other, with `synthetic_labels`. A stack that is a
    memory-map of an .npy file is reopened by its path in other processes, never copied.

    `augment` changes the images here; with `draws` instead, a batch only says what is to become of them
    ("theta", "table": see `warp.as_tensors`), and it is done on the device.
    """

    def __init__(
        self,
        images: Pixels,
        labels: npt.NDArray[np.float32],
        rows: npt.NDArray[np.int64],
        synthetic: Sequence[Pixels] = (),
        synthetic_labels: npt.NDArray[np.float32] | None = None,
        augment: Augment | None = None,
        seed: int = 0,
        draws: Draws | None = None,
    ) -> None:
        n_synthetic = sum(len(stack) for stack in synthetic)
        if len(labels) != len(images):
            raise ValueError(f"{len(images)} images and {len(labels)} labels")
        if n_synthetic != (0 if synthetic_labels is None else len(synthetic_labels)):
            raise ValueError(f"{n_synthetic} synthetic images and their labels differ in number")
        if len(rows) and (rows.max() >= len(images) or rows.min() < -n_synthetic):
            raise ValueError(
                f"rows [{rows.min()}, {rows.max()}] of {len(images)} real, {n_synthetic} synthetic"
            )
        for stack in synthetic:
            if stack.shape[1:] != images.shape[1:]:
                raise ValueError(f"synthetic images {stack.shape[1:]} beside real ones {images.shape[1:]}")
        self.images, self.labels, self.rows = images, labels, np.asarray(rows, dtype=np.int64)
        self.synthetic, self.synthetic_labels = list(synthetic), synthetic_labels
        self.augment, self.seed, self.draws = augment, seed, draws

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, draw: Draw) -> Batch:
        """Read one batch: image uint8 (B, 1, S, S), label float32 (B, L), row int64 (B,)."""
        rows = self.rows[draw.positions]
        pixels = self._pixels(rows)
        if self.augment is not None:
            # A generator for each image: its change is the same whatever the batch size, the rank or the worker.
            for i, position in enumerate(draw.positions):
                pixels[i : i + 1] = self.augment(pixels[i : i + 1], self._rng(draw.epoch, position))
        changes: list[Change] = []
        if self.draws is not None:
            for position in draw.positions:
                changes += self.draws(self._rng(draw.epoch, position), 1, pixels.shape[-1])
        return {
            **(as_tensors(changes, pixels.shape[-1]) if self.draws is not None else {}),
            "image": torch.from_numpy(pixels).unsqueeze(1),
            "label": torch.from_numpy(self._labels(rows)),
            "row": torch.from_numpy(rows),
        }

    def _rng(self, epoch: int, position: np.int64) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, int(position)])

    def _pixels(self, rows: Rows) -> Pixels:
        pixels = np.empty((len(rows), *self.images.shape[1:]), np.uint8)
        for number, chosen, places in self.located(rows):
            if len(chosen) == len(rows):
                gather(self.stacks[number], chosen, pixels)
            else:
                part = np.empty((len(chosen), *pixels.shape[1:]), np.uint8)
                gather(self.stacks[number], chosen, part)
                pixels[places] = part
        return pixels

    @property
    def stacks(self) -> list[Pixels]:
        """The real images, then the synthetic stacks."""
        return [self.images, *self.synthetic]

    def located(self, rows: Rows) -> list[tuple[int, Rows, Rows]]:
        """Return where images lie: for each of `stacks` that has any, its number, the rows there, their places in `rows`."""
        found = []
        position = np.where(rows >= 0, rows, -1)
        for number, stack in enumerate(self.stacks):
            if number == 1:
                position = np.where(rows < 0, -1 - rows, -1)
            here = np.flatnonzero((position >= 0) & (position < len(stack)))
            if len(here):
                found.append((number, position[here], here))
            position -= len(stack)
        return found

    def _labels(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        if self.synthetic_labels is None:
            return np.asarray(self.labels[rows], dtype=np.float32)
        real = rows >= 0
        labels = np.empty((len(rows), self.labels.shape[1]), np.float32)
        labels[real] = self.labels[rows[real]]
        labels[~real] = self.synthetic_labels[-1 - rows[~real]]
        return labels

    def __getstate__(self) -> dict[str, Any]:
        """Send a path where there is a file: pickling a memory-map would send its pixels."""
        return self.__dict__ | {
            "images": _path_of(self.images),
            "synthetic": [_path_of(stack) for stack in self.synthetic],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.images = _opened(state["images"])
        self.synthetic = [_opened(stack) for stack in state["synthetic"]]


class EpochLoader:
    """What Lightning iterates over: batches, their number, and where it stands.

    Not a DataLoader, for two reasons. The position counts the batches that the consumer
    took, not those that were read ahead. And a pass touches nothing before its first
    `next`: Lightning makes the iterator first and calls `set_epoch` afterwards, so that a
    DataLoader with workers would have prefetched batches of the wrong epoch.

    With `num_workers` a DataLoader's processes read; with 0 a thread does, two batches ahead: copying pixels holds no lock
    of Python's, and a batch need not be sent. Either way it is the same batches in the same order.

    Save checkpoints in on_train_batch_end or later: the batch in hand then counts as done.
    """

    def __init__(self, dataset: ImageDataset, sampler: EpochSampler, num_workers: int) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.batch_sampler = sampler  # where Lightning looks whether validation is shuffled
        self._draws = _Draws(dataset, sampler)
        # A sampler of "batches" lets __getitems__ receive the whole Draw.
        batches: Any = self._draws
        self._loader: DataLoader[Batch] | None = None
        if num_workers:
            self._loader = DataLoader(
                dataset,
                batch_sampler=batches,
                num_workers=num_workers,
                collate_fn=_same,
                worker_init_fn=begin_worker,
                persistent_workers=True,
                generator=torch.Generator(),  # what it draws for its workers comes from no global state
            )

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        self.sampler.begin()
        for batch in self._read() if self._loader is None else self._loader:
            self.sampler.taken += 1
            yield batch

    def _read(self) -> Iterator[Batch]:
        """Yield the batches of a pass, read by a thread of its own, which ends with the pass."""
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
            try:
                for draw in self._draws:
                    waiting.append(thread.submit(self.dataset.__getitems__, draw))
                    if len(waiting) > READ_AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:  # an abandoned pass, or an error
                for future in waiting:
                    future.cancel()

    # Lightning ends the workers of a loader through this name when a run is over, also after an
    # error. Left to the garbage collector, each worker costs five seconds at exit.
    @property
    def _iterator(self) -> Any:
        return None if self._loader is None else self._loader._iterator

    @_iterator.setter
    def _iterator(self, value: None) -> None:
        if self._loader is not None:
            self._loader._iterator = value

    def state_dict(self) -> dict[str, int]:
        """Return the position; Lightning stores it in every checkpoint."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the position; Lightning calls it for a checkpoint from within an epoch."""
        self.sampler.load_state_dict(state)


class _Draws:
    """The sampler's draws; when one is handed out, the disk was asked for the images of those that follow."""

    def __init__(self, dataset: ImageDataset, sampler: EpochSampler) -> None:
        self.dataset, self.sampler = dataset, sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Draw]:
        images = self.dataset.images
        batch_bytes = max(1, self.sampler.batch_size * images[:1].nbytes)
        with Disk(self.dataset.stacks) as disk:

            def ask(draw: Draw) -> None:
                for number, rows, _ in self.dataset.located(self.dataset.rows[draw.positions]):
                    disk.ask(number, rows)

            yield from looking_ahead(self.sampler, ask, max(1, min(MOST_AHEAD, AHEAD_BYTES // batch_bytes)))


def _same(batch: Any) -> Any:
    return batch


def _path_of(stack: Pixels | Path) -> Pixels | Path:
    """Return the file of a memory-map that holds exactly this stack; else the stack."""
    return stack if isinstance(stack, Path) else file_of(stack) or stack


def _opened(stack: Pixels | Path) -> Pixels:
    return np.load(stack, mmap_mode="r", allow_pickle=False) if isinstance(stack, Path) else stack
