"""D5: building the cache. PNG files of 1,024 px, 8-bit gray as ChestX-ray14 is published, to 256 px.

With CXR_BENCH_PNG=DIR the files are those of a folder of one's own; without, procedural chests with the grain of a film, so
that a file has the size that the published ones have (0.3 to 0.4 MB), written with the filters that libpng chooses by row.

Ours is as the cache calls it, with checks that the peers do not make. docs/benchmarks.md says where the time goes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.harness import Line
from cxr.data.decode import fit, read_gray, to_uint8
from cxr.data.phantom import Phantom

Pixels = npt.NDArray[np.uint8]

N, LARGE_PX, SIZE_PX = 4, 1024, 256
GRAIN = 1.5  # grey levels, before it is smoothed


def lines() -> Iterator[Line]:
    """Yield D5."""
    with tempfile.TemporaryDirectory() as scratch:
        own = os.environ.get("CXR_BENCH_PNG")
        files = sorted(Path(own).rglob("*.png"))[:N] if own else films(Path(scratch))

        def ours() -> list[Pixels]:
            return [fit(to_uint8(read_gray(file), None), SIZE_PX, "stretch") for file in files]

        def opencv() -> list[Pixels]:
            read = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files]
            return [
                cv2.resize(one, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA)
                for one in read
                if one is not None
            ]

        def pil() -> list[Pixels]:
            opened = [Image.open(file).convert("L") for file in files]
            return [np.asarray(one.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)) for one in opened]

        def check() -> str:
            assert np.array_equal(ours(), opencv()), "pixels are not OpenCV's"
            size = sum(file.stat().st_size for file in files) / len(files) / 1e6
            return f"equal to OpenCV's decode and INTER_AREA to the bit; {len(files)} files of {size:.2f} MB"

        yield Line(
            "D5", f"{len(files)} PNG of {LARGE_PX:,} px to {SIZE_PX} px", ">=", {"OpenCV": 1.5, "PIL": 2.2},
            ours=ours, peers={"OpenCV": opencv, "PIL": pil}, check=check,
        )  # fmt: skip


def films(folder: Path) -> list[Path]:
    """Write N procedural chests of SIZE_PX, enlarged and with grain."""
    source = Phantom(N, 1, ["normal", "opacity"], 0.6, SIZE_PX, 0, False)
    files = []
    for i in range(N):
        smooth = cv2.resize(
            source.read(f"phantom/{i:06d}"), (LARGE_PX, LARGE_PX), interpolation=cv2.INTER_CUBIC
        )
        grain = cv2.GaussianBlur(np.random.default_rng(i).normal(0, GRAIN, smooth.shape), (0, 0), 0.8)
        files.append(folder / f"{i}.png")
        Image.fromarray(np.rint(np.clip(smooth + grain, 0, 255)).astype(np.uint8)).save(files[-1])
    return files
