"""D1 to D3, D6: reading batches out of the cache's memory-map, against memcpy, other formats, a usual DataLoader; cold reads.

The images are procedural chests at 256 px (JPEG of quality 90, and PNG at 1,024 px, as ChestX-ray14 is published); for
the memory-map they are repeated, so that random rows are out of the processor's caches.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.harness import Line, optional
from cxr._memory import keep_freed_memory
from cxr.data.convert import to_float
from cxr.data.dataset import EpochLoader, ImageDataset
from cxr.data.gather import gather
from cxr.data.phantom import Phantom
from cxr.data.sampler import EpochSampler

Pixels = npt.NDArray[np.uint8]

N, SIZE_PX, BATCH = 2048, 256, 64
COLD_N = 8192  # 512 MiB: large beside what the system reads around a page (8 MiB on some disks), of which an eighth is read
LARGE_PX = 1024


def lines() -> Iterator[Line]:
    """Yield D1 to D3, and D6."""
    keep_freed_memory()  # as train.py does
    with tempfile.TemporaryDirectory(dir=os.environ.get("CXR_BENCH_DIR")) as scratch:
        folder = Path(scratch)
        images = stack(folder / "images.npy")
        yield memcpy(images)
        yield from formats(images, folder)
        yield loader(images)
        if hasattr(os, "posix_fadvise"):
            yield cold(folder)


def chests(n: int, size_px: int) -> Pixels:
    """Return n procedural chests (n, size_px, size_px)."""
    source = Phantom(n, 1, ["normal", "opacity"], 0.6, size_px, 0, False)
    return np.stack([source.read(f"phantom/{i:06d}") for i in range(n)])


def stack(file: Path) -> Any:
    """Return a memory-map of N images, all of it in memory."""
    some = chests(BATCH, SIZE_PX)
    made = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(N, SIZE_PX, SIZE_PX))
    for start in range(0, N, BATCH):
        made[start : start + BATCH] = some + np.uint8(start // BATCH)
    made.flush()
    del made
    images = np.load(file, mmap_mode="r")
    images.sum()
    return images


class Rows:
    """Batches of rows without end: a random order of all images, over and over; or blocks of neighbours."""

    def __init__(self, n: int, in_order: bool = False) -> None:
        self.order = np.arange(n) if in_order else np.random.default_rng(0).permutation(n)
        self.at = 0

    def __call__(self) -> npt.NDArray[np.int64]:
        """Return the next BATCH rows."""
        self.at = (self.at + BATCH) % len(self.order)
        return self.order[self.at : self.at + BATCH]


def memcpy(images: Any) -> Line:
    """D1: random rows into a buffer, against one block of the same size into the same buffer."""
    out = np.empty((BATCH, SIZE_PX, SIZE_PX), np.uint8)
    random, blocks = Rows(N), Rows(N, in_order=True)

    def theirs() -> None:
        first = int(blocks()[0])
        np.copyto(out, images[first : first + BATCH])

    def check() -> str:
        rows = random()
        gather(images, rows, out)
        assert (out == images[rows]).all(), "other pixels"
        return f"{BATCH} images as indexing gives them"

    return Line("D1", f"Batch of {BATCH} images of {SIZE_PX} px gathered from the memory-map", ">=", 0.75, check=check,
                ours=lambda: gather(images, random(), out), peers={"memcpy of as much in one piece": theirs})  # fmt: skip


def formats(images: Any, folder: Path) -> Iterator[Line]:
    """D2: the same batches out of other formats, each image of its own; per image where one is slow."""
    dataset = ImageDataset(images, np.zeros((N, 1), np.float32), np.arange(N))
    rows = Rows(N)

    def ours() -> torch.Tensor:
        return torch.from_numpy(dataset._pixels(rows()))

    few = np.asarray(images[:BATCH])
    jpegs = []
    for i, image in enumerate(few):
        file = folder / f"{i}.jpg"
        cv2.imwrite(str(file), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        jpegs.append(str(file))
    large = folder / "large.png"
    cv2.imwrite(str(large), chests(1, LARGE_PX)[0])

    def jpeg() -> torch.Tensor:
        return torch.from_numpy(np.stack([cv2.imread(file, cv2.IMREAD_GRAYSCALE) for file in jpegs]))

    def pil() -> torch.Tensor:
        from PIL import Image

        with Image.open(io.BytesIO(large.read_bytes())) as picture:
            small = picture.convert("L").resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)
        return torch.from_numpy(np.asarray(small).copy())

    def check() -> str:
        found = torch.from_numpy(dataset._pixels(np.arange(BATCH)))
        assert (found.numpy() == few).all(), "other pixels"
        error = int(np.abs(jpeg().numpy().astype(int) - few).max())
        assert error < 64, f"JPEG differs by {error}"
        return "pixels as written; JPEG's as near as it is"

    peers: dict[str, Any] = {"litdata, raw uint8": None, "JPEG 256 px, OpenCV": jpeg}
    if (streamed := litdata(folder, images)) is not None:
        peers["litdata, raw uint8"] = streamed
    what = f"Reading a batch of {BATCH} images of {SIZE_PX} px, shuffled"
    yield Line(
        "D2a",
        what,
        ">=",
        {"litdata, raw uint8": 8.0, "JPEG 256 px, OpenCV": 22.0},
        ours=ours,
        peers=peers,
        check=check,
    )
    yield Line("D2b", f"{what} (peer: one image, × {BATCH})", ">=", 1000.0, clock="own", check=check,
               ours=lambda: timed(ours, 1, 16), peers={"PNG 1,024 px, PIL": lambda: timed(pil, BATCH, 4)})  # fmt: skip


def timed(call: Any, times: int, repeat: int) -> float:
    """Return the CPU seconds of `times` calls, measured on `repeat`."""
    began = time.process_time()
    for _ in range(repeat):
        call()
    return (time.process_time() - began) * times / repeat


def litdata(folder: Path, images: Any) -> Any:
    """Return what reads a batch of the same images from a litdata set of raw arrays, None without litdata."""
    package = optional("litdata")
    if package is None:
        return None
    from litdata.streaming.writer import BinaryWriter

    place = folder / "litdata"
    place.mkdir()
    writer = BinaryWriter(str(place), chunk_bytes="64MB")
    for i in range(N):
        writer[i] = {"image": np.array(images[i])}
    writer.done()
    writer.merge()
    stream = package.StreamingDataset(
        str(place), shuffle=True
    )  # within blocks of 64 MB: at its best, and less random
    items = (item for _ in count() for item in stream)

    def read() -> torch.Tensor:
        return torch.from_numpy(np.stack([item["image"] for item in islice(items, BATCH)]))

    assert read().shape == (BATCH, SIZE_PX, SIZE_PX)
    return read


class PerItem(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """As most write it: an image at a time, float in [-1, 1]."""

    def __init__(self, images: Any) -> None:
        self.images, self.labels = images, np.zeros((len(images), 1), np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = torch.from_numpy(np.array(self.images[i])).float().div(127.5).sub(1)[None]
        return image, torch.from_numpy(self.labels[i])


def loader(images: Any) -> Line:
    """D3: an epoch of float batches, as a network takes them; ours becomes float where the network is."""
    images, n = images[: N // 4], N // 4
    dataset = ImageDataset(images, np.zeros((n, 1), np.float32), np.arange(n))
    mine = EpochLoader(dataset, EpochSampler(n, BATCH, 0, shuffle=True, drop_last=False), 0)
    usual = DataLoader(
        PerItem(images), batch_size=BATCH, shuffle=True, num_workers=1, persistent_workers=True
    )

    def ours() -> int:
        return sum(len(to_float(batch["image"], 1)) for batch in mine)

    def theirs() -> int:
        return sum(len(image) for image, _ in usual)

    def check() -> str:
        batch = next(iter(mine))
        expected = torch.stack([PerItem(images)[int(i)][0] for i in batch["row"]])
        assert torch.equal(to_float(batch["image"], 1), expected), "other pixels"
        assert ours() == theirs() == n
        return "the same float pixels, every image once"

    return Line("D3", f"An epoch of {n} images of {SIZE_PX} px as float batches of {BATCH}", ">=", 3.0, clock="wall",
                check=check, ours=ours, peers={"DataLoader, 1 worker, float items": theirs})  # fmt: skip


def forget(file: Path) -> None:
    """Drop a file of ours from the page cache."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def resident(file: Path) -> float:
    """Return the share of a file's pages that is in memory, looked up on every 16th without touching the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    found = []
    for start in range(0, file.stat().st_size, 16 * 4096):
        try:
            os.preadv(descriptor, [bytearray(1)], start, os.RWF_NOWAIT)
            found.append(1)
        except BlockingIOError:
            found.append(0)
    os.close(descriptor)
    return float(np.mean(found))


def cold(folder: Path) -> Line:
    """D6: the first batches of an epoch when nothing of the file is in memory. No map of it may be held meanwhile."""
    file, n = folder / "cold.npy", COLD_N
    made = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(n, SIZE_PX, SIZE_PX))
    some = np.random.default_rng(0).integers(0, 256, (N, SIZE_PX, SIZE_PX), dtype=np.uint8)
    for start in range(0, n, N):
        made[start : start + N] = some
    del made, some
    order = Rows(n)
    batches = [order() for _ in range(16)]
    labels = np.zeros((n, 1), np.float32)

    def plain() -> float:
        images = np.load(file, mmap_mode="r")
        began = time.perf_counter()
        for rows in batches:
            images[rows]
        return time.perf_counter() - began

    def ours() -> float:
        dataset = ImageDataset(np.load(file, mmap_mode="r"), labels, np.concatenate(batches))
        made = EpochLoader(dataset, EpochSampler(len(dataset), BATCH, 0, shuffle=False, drop_last=False), 0)
        began = time.perf_counter()
        for _ in made:
            pass
        return time.perf_counter() - began

    def check() -> str:
        forget(file)
        left = resident(file)
        assert left < 0.01, (
            f"{left:.0%} of the file stays in memory: cold reads cannot be measured on this file system"
        )
        return f"{left:.0%} of the file's pages are in memory before each pass"

    return Line("D6", f"Cold reads: {len(batches)} shuffled batches of {BATCH} of {n:,} images, {SIZE_PX} px",
                ">=", 3.0, ours=ours, peers={"plain memory-map": plain}, check=check, clock="own",
                before=lambda: forget(file))  # fmt: skip
