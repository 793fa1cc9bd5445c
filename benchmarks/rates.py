"""CPU time an image of each stage at the sizes of real sets, one thread: `python -m benchmarks.rates [write=true]`.

Each is timed alone, warm, at least five times and for a second; the median counts. docs/scaling.md computes with them.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
import cv2
import numpy as np
import torch
from torch import nn

from benchmarks.__main__ import protocol
from benchmarks.d_read import BATCH, chests
from benchmarks.harness import ONE_THREAD
from benchmarks.scaling import PAGE
from cxr._memory import keep_freed_memory
from cxr.classifier.talukdar_cnn import TalukdarCNN
from cxr.data.convert import to_float, to_uint8
from cxr.data.dataset import ImageDataset
from cxr.data.decode import fit, read_gray
from cxr.data.near import Fingerprints, fingerprints, near_pairs
from cxr.data.sampler import Draw
from cxr.files import file_sha256, write_text
from cxr.gan.talukdar import Discriminator, Generator
from cxr.metric.ranking import ranked_areas
from cxr.metric.resample import draw_patients

BEGIN, END = "<!-- rates: written by python -m benchmarks.rates write=true -->", "<!-- rates: end -->"
Rate = tuple[str, str, float]  # stage, what it was measured on, CPU seconds an image


N = 112_120  # images of NIH ChestX-ray14


def told(seconds: float) -> str:
    """Return a time in words."""
    for scale, unit in ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")):
        if seconds >= scale * (2 if scale >= 60 else 1):
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.2g} ns"


def cpu(call: Callable[[], object], images: int) -> float:
    """Return the median CPU seconds an image of a call over `images` images."""
    call()
    took: list[float] = []
    while len(took) < 5 or (len(took) < 50 and sum(took) < 1):
        began = time.process_time()
        call()
        took.append(time.process_time() - began)
    return statistics.median(took) / images


def data(folder: Path) -> Iterator[Rate]:
    """Yield what becomes of a file until it is a batch."""
    file, size_px = folder / "x.png", 1024
    cv2.imwrite(str(file), chests(1, size_px)[0])
    half = folder / "x.bin"
    half.write_bytes(os.urandom(400_000))  # a PNG of ChestX-ray14: 45 GB / 112,120
    yield "index, first run", "SHA-256 of a file of 400 kB, in memory", cpu(lambda: file_sha256(half), 1)
    yield "cache", f"PNG of {size_px} px → 256 px", cpu(lambda: fit(read_gray(file), 256, "stretch"), 1)
    few = chests(2 * BATCH, 256)
    yield "near-duplicates: fingerprints", "256 px", cpu(lambda: fingerprints(few), len(few))
    thumbs = np.random.default_rng(0).integers(0, 256, (8000, 48, 48), dtype=np.uint8)
    took = {n: cpu(functools.partial(near_pairs, Fingerprints(thumbs[:n])), 1) for n in (2000, 8000)}
    yield (
        "near-duplicates: pairs",
        "a pair: 8,000 images, none alike, less 2,000",
        (took[8000] - took[2000]) / (8000**2 / 2 - 2000**2 / 2),
    )
    stack = np.lib.format.open_memmap(folder / "s.npy", mode="w+", dtype=np.uint8, shape=(2048, 256, 256))
    for start in range(0, len(stack), len(few)):
        stack[start : start + len(few)] = few
    dataset = ImageDataset(stack, np.zeros((len(stack), 14), np.float32), np.arange(len(stack)))
    draws = [Draw(0, i, np.random.default_rng(i).integers(0, len(stack), BATCH)) for i in range(32)]
    yield (
        "loader",
        f"batches of {BATCH} of 256 px",
        cpu(lambda: [dataset.__getitems__(d) for d in draws], 32 * BATCH),
    )


def learn(network: nn.Module, batch: torch.Tensor) -> Callable[[], object]:
    """Return a training step: forward, backward, Adam."""
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub wants a device
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    pixels = to_float(batch, 3).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        network(pixels).square().mean().backward()
        optimizer.step()

    return step


def networks() -> Iterator[Rate]:
    """Yield the steps of Talukdar's networks, float32."""
    n = 16
    generator = Generator(latent_dim=100, image_size_px=64, channels=3, widths=[128, 128, 256, 512], negative_slope=0.2,
                          init="glorot", seed=0)  # fmt: skip
    judge = Discriminator(image_size_px=64, channels=3, widths=[64, 128, 128], negative_slope=0.2, dropout=0.2,
                          init="glorot", seed=0)  # fmt: skip
    small = torch.from_numpy(chests(n, 64)).unsqueeze(1)
    both = [torch.optim.Adam(one.parameters(), fused=True) for one in (generator, judge)]
    latents = generator.sample_latent(n, seed=0, start=0)

    def step() -> None:
        fake = generator(latents)
        both[1].zero_grad()
        (judge(to_float(small, 3)).mean() - judge(fake.detach()).mean()).backward()
        both[1].step()
        both[0].zero_grad()
        judge(fake).mean().backward()
        both[0].step()

    yield "GAN step", f"Talukdar's DCGAN, 64 px, batch {n}", cpu(step, n)
    with torch.inference_mode():
        yield "generate", "its generator, 64 px", cpu(lambda: to_uint8(generator(latents)), n)
    cnn = TalukdarCNN(image_size_px=128, channels=3, n_outputs=1, dropout=0.2, init="keras")
    medium = torch.from_numpy(chests(n, 128)).unsqueeze(1)
    yield "classifier step", f"talukdar_cnn, 128 px, batch {n}", cpu(learn(cnn, medium), n)
    with torch.inference_mode():
        yield "evaluate: predictions", "talukdar_cnn, 128 px", cpu(lambda: cnn.eval()(to_float(medium, 3)), n)


def metrics(folder: Path) -> Iterator[Rate]:
    """Yield the passes of scores."""
    from benchmarks.e_metrics import random_inception
    from cxr.extractor import extract
    from cxr.extractor.inception import InceptionExtractor

    inception = InceptionExtractor(weights_path=str(random_inception(folder)))
    few = chests(4, 128)
    told = "Inception of 2,048 features (299 px)"
    yield "metric pass", told, cpu(lambda: extract(inception, few, batch=4, device="cpu"), 4)
    n, n_resamples = 25_596, 200
    rng = np.random.default_rng(0)
    drawn = draw_patients([f"p{i}" for i in rng.integers(0, 2797, n)], n_resamples=n_resamples, seed=0)
    y, s = rng.random(n) < 0.1, rng.random(n)
    boot = functools.partial(ranked_areas, y, s, drawn.weights, drawn.groups)
    yield (
        "evaluate: intervals",
        f"AUROC of one label, {n_resamples} resamples, {n:,} images",
        cpu(boot, n),
    )


def main() -> None:
    """Measure, print, write if asked."""
    if any(os.environ.get(name) != "1" for name in ONE_THREAD):  # before numpy and torch are imported
        os.execve(
            sys.executable,
            [sys.executable, "-m", "benchmarks.rates", *sys.argv[1:]],
            {**os.environ, **ONE_THREAD},
        )
    keep_freed_memory()
    lines = [f"| Stage | Measured on | CPU time an image | {N:,} images, one thread |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as scratch:
        for rates in (data(Path(scratch)), networks(), metrics(Path(scratch))):
            for stage, what, seconds in rates:
                times = N**2 / 2 if what.startswith("a pair") else N
                lines.append(f"| {stage} | {what} | {told(seconds)} | {told(seconds * times)} |")
                print(lines[-1], flush=True)
    about = protocol().partition(" One thread;")[0]
    text = "\n".join(lines) + f"\n\nMedians of 5 to 50 calls, one thread. {about}"
    if "write=true" in sys.argv[1:]:
        before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            sys.exit(f"{PAGE}: the marks of the rates are gone; put back {BEGIN} and {END}")
        write_text(PAGE, f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
