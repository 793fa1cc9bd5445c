"""What each stage costs an image, and how its memory grows: `python -m benchmarks.scaling dir=FOLDER n=1000,10000,100000`.

Every stage runs in processes of its own on N procedural images of 32 px, PNG files of 1 kB, on one thread.
Measured: CPU time of the stage, and its peak of private memory: anonymous pages of the stage's whole process tree
(RssAnon and RssShmem of /proc/PID/status; of several processes Pss of smaps_rollup), looked at every 5 ms.
Pages of files (the cache's memory-map) belong to the page cache, are shared by all processes and given up when something
else needs them: they are not counted.

The slope is the difference between the two largest N, divided by that of N: bytes and seconds an image, without what a
process costs that does nothing (at the smallest, a validation is smaller than its batch). `stages=cache,loader` runs
some (each needs those before it once, in the same `dir`); `write=true` puts the table into docs/scaling.md.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import ONE_THREAD
from cxr.files import read_json, write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- table: written by python -m benchmarks.scaling write=true -->", "<!-- table: end -->"
LOOK_S = 0.005
SIZE_PX = 32
STEPS = 50  # of a training: its memory does not wait for more, and its time is not measured here (benchmarks/g_gan.py)


@dataclass(frozen=True)
class Stage:
    """A stage: what it is, what its N counts, and the command that runs it on N images in the current folder.

    `forget`: what an earlier run left that would spare this one its work, as patterns below that folder.
    """

    name: str
    counts: str
    command: Callable[[int], list[str]]
    forget: tuple[str, ...] = ()


def inside(function: str) -> Callable[[int], list[str]]:
    """Return the command that runs a function of this file."""
    return lambda n: [sys.executable, "-m", "benchmarks.scaling", f"inside={function}", f"n={n}"]


def typed(program: str, *words: str) -> Callable[[int], list[str]]:
    """Return the command of a user; n={n} is N."""
    return lambda n: [sys.executable, str(ROOT / f"{program}.py"), *(w.replace("{n}", str(n)) for w in words)]


DATA = [
    "data=folder", "data.root=files", "data.classes=[normal,opacity]", "data.patient_pattern='p([0-9]+)_'",
    f"cache.size_px={SIZE_PX}", "cache.workers=1", "trainer.precision=32-true", "trainer.progress=none",
    "trainer.max_epochs=1", f"trainer.limit_train_batches={STEPS}", "near_duplicates=off",
]  # fmt: skip
GAN = ["task=gan", "name=gan", "train_classes=[normal]", f"gan.generator.image_size_px={SIZE_PX}",
       f"gan.discriminator.image_size_px={SIZE_PX}", "gan.generator.widths=[8,8,8]",
       "gan.discriminator.widths=[8,8,8]", "callback.generative_score.n_images=100"]  # fmt: skip
STAGES = [
    Stage("index, first run", "files listed and hashed", inside("index")),
    Stage("index, again", "files listed", inside("index")),
    Stage("cache", "files decoded and resized", inside("cache")),
    Stage("split", "rows in three parts", inside("split")),
    Stage("near-duplicates: fingerprints", "images", inside("prints")),
    Stage("near-duplicates: pairs", "images, all pairs", inside("pairs")),
    Stage("loader", "images of an epoch", inside("loader")),
    Stage("train.py, a GAN", f"images of the set; {STEPS} steps", typed("train", *DATA, *GAN)),
    Stage(
        "train.py, a classifier",
        f"images of the set; {STEPS} steps, a validation of N / 10",
        typed("train", *DATA, "classifier.channels=1", "name=cnn"),
    ),
    Stage(
        "generate.py", "images made", typed("generate", "run=gan", "n={n}", "accelerator=cpu", "review=false")
    ),
    Stage(
        "score.py, pixel features",
        "N / 20 real and N synthetic images",
        typed("score", "run=cnn", "synthetic=[gan]", "against=val", "extractor=pixel", "n_resamples=100",
              "n_halves=10", "n_subsets=10", "accelerator=cpu"),
        forget=("synthetic/gan/scores", "cache/features"),
    ),
    Stage(
        "evaluate.py",
        "N / 5 test images, N / 10 validation images",
        typed("evaluate", "runs=[cnn]", "accelerator=cpu", "n_resamples=200"),
    ),
    Stage(
        "evaluate.py report=phantom",
        "as evaluated before; the report",
        typed("evaluate", "runs=[cnn]", "accelerator=cpu", "n_resamples=200", "report=phantom"),
    ),
]  # fmt: skip


def make_files(n: int) -> None:
    """Write N PNG files, two of a patient: a few procedural chests, each with a smooth random field of its own."""
    import cv2
    import numpy as np

    from cxr.data.phantom import Phantom

    source = Phantom(50, 1, ["normal", "opacity"], 0.6, SIZE_PX, 0, False)
    chests = [source.read(f"phantom/{i:06d}").astype(np.float32) for i in range(50)]
    rng = np.random.default_rng(0)
    for name in ("normal", "opacity"):
        Path("files", name).mkdir(parents=True, exist_ok=True)
    for i in range(n):
        field = cv2.resize(
            rng.normal(0, 60, (8, 8)).astype(np.float32), (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_CUBIC
        )
        image = np.clip(chests[i % 50] + field, 0, 255).astype(np.uint8)
        cv2.imwrite(f"files/{('normal', 'opacity')[i // 2 % 2]}/p{i // 2:06d}_{i % 2}.png", image)


def _source() -> Any:
    from cxr.data.folder import Folder

    source = Folder(Path("files"), ["normal", "opacity"], r"p(\d+)_")
    source.remember_hashes(Path("cache"), rehash=False)
    return source


def index(n: int) -> None:
    """List the images."""
    del n
    _source().index().to_parquet("index.parquet", index=False)


def cache(n: int) -> None:
    """Build the cache from the list."""
    import pandas as pd

    from cxr.data.cache import ImageCache

    del n
    table = pd.read_parquet("index.parquet")
    ImageCache(Path("cache"), SIZE_PX, "stretch", None, "stop", 1).build(_source(), table)


def split(n: int) -> None:
    """Part the images by patient."""
    import pandas as pd

    from cxr.data.split import patient

    del n
    patient(pd.read_parquet("index.parquet"), val=0.1, test=0.2, seed=0)


def prints(n: int) -> None:
    """Make the fingerprints of the images."""
    import numpy as np

    from cxr.data.near import fingerprints

    del n
    np.save("prints.npy", fingerprints(_images()).thumbs)


def pairs(n: int) -> None:
    """Compare all fingerprints with each other."""
    import numpy as np

    from cxr.data.near import Fingerprints, near_pairs

    del n
    near_pairs(Fingerprints(np.load("prints.npy")))


def loader(n: int) -> None:
    """Read an epoch of batches, shuffled."""
    import numpy as np

    from cxr.data.module import CXRDataModule

    images = _images()
    labels = np.zeros((n, 2), np.float32)
    module = CXRDataModule(images=images, labels=labels, parts={"train": np.arange(n)}, batch_size=64, eval_batch_size=64,
                           num_workers=0, drop_last=False, seed=0)  # fmt: skip
    for _ in module.train_dataloader():
        pass


def _images() -> Any:
    import numpy as np

    (file,) = Path("cache").glob("folder-*/images.npy")
    return np.load(file, mmap_mode="r")


def private_kib(pid: int) -> int:
    """Return the private memory of a process and its descendants, in KiB.

    A process that has just forked shares all its pages with the child: of each, both have their part (Pss). The system
    walks all pages for that, so a process that is alone is asked for the sum that it keeps anyway (Rss).
    """
    tree, waiting = [], [pid]
    while waiting:
        tree.append(one := Path(f"/proc/{waiting.pop()}"))
        try:
            for task in (one / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    file, keys = (
        ("status", ("RssAnon", "RssShmem")) if len(tree) == 1 else ("smaps_rollup", ("Pss_Anon", "Pss_Shmem"))
    )
    return sum(_kib(one / file, keys) for one in tree)


def _kib(file: Path, keys: tuple[str, ...]) -> int:
    """Return the sum of some lines of a file of /proc, in KiB; 0 of a process that has ended."""
    try:
        lines = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(lines[key].split()[0]) for key in keys if key in lines)


def measured(stage: Stage, n: int, folder: Path) -> dict[str, float]:
    """Run a stage on N images; return its peak of private memory in bytes and its CPU seconds."""
    for old in (found for pattern in stage.forget for found in folder.glob(pattern)):
        shutil.rmtree(old)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {
        **os.environ,
        **ONE_THREAD,
        "PYTHONPATH": str(ROOT),
        "MALLOC_ARENA_MAX": "1",
        "WANDB_MODE": "disabled",
    }
    with (folder / "said.txt").open("ab") as said:
        process = subprocess.Popen(stage.command(n), cwd=folder, env=environment, stdout=said, stderr=said)
        peak = 0
        while process.poll() is None:
            peak = max(peak, private_kib(process.pid))
            time.sleep(LOOK_S)
    if process.returncode:
        sys.exit(f"{stage.name}, {n} images: ended with {process.returncode}; see {folder / 'said.txt'}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"private_bytes": peak * 1024, "cpu_s": cpu}


def table(found: dict[str, dict[str, dict[str, float]]], sizes: list[int]) -> str:
    """Return the table and its protocol, in Markdown."""
    head = [
        "Stage",
        "N counts",
        *(f"private memory at N = {n:,}" for n in sizes),
        "bytes an image",
        "CPU µs an image",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for stage in STAGES:
        by = {int(n): one for n, one in found.get(stage.name, {}).items()}
        there = [n for n in sizes if n in by]
        cells = [f"{by[n]['private_bytes'] / 2**20:.0f} MiB" if n in by else "not run" for n in sizes]
        slopes = ["–", "–"]
        if len(there) > 1:
            low, high = there[-2:]
            for i, (key, scale) in enumerate((("private_bytes", 1.0), ("cpu_s", 1e6))):
                slopes[i] = f"{(by[high][key] - by[low][key]) / (high - low) * scale:,.0f}"
        lines.append("| " + " | ".join([stage.name, stage.counts, *cells, *slopes]) + " |")
    from importlib.metadata import version

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "pandas"))
    return "\n".join(lines) + (
        f"\n\nEach n = 1 run on one thread; images of {SIZE_PX} px; peak of private pages, looked at every "
        f"{LOOK_S * 1000:.0f} ms; slopes between the two largest N that were run. "
        f"Python {platform.python_version()}, {versions}."
    )


def main() -> None:
    """Measure what is asked for; what was measured before in the same folder is kept and shown."""
    asked = dict(word.partition("=")[::2] for word in sys.argv[1:])
    if "inside" in asked:
        stages = (make_files, index, cache, split, prints, pairs, loader)
        {one.__name__: one for one in stages}[asked["inside"]](int(asked["n"]))
        return
    if (unknown := set(asked) - {"dir", "n", "stages", "write"}) or "dir" not in asked:
        sys.exit(
            f"benchmarks.scaling: {' '.join(sorted(unknown)) or 'no dir'}: expected dir=FOLDER and n=, stages=, write="
        )
    folder, sizes = (
        Path(asked["dir"]).absolute(),
        [int(n) for n in asked.get("n", "1000,10000,100000").split(",")],
    )
    wanted = asked.get("stages", "").split(",") if asked.get("stages") else [stage.name for stage in STAGES]
    kept = folder / "found.json"
    folder.mkdir(parents=True, exist_ok=True)
    found = read_json(kept) if kept.is_file() else {}
    for n in sizes:
        place = folder / str(n)
        place.mkdir(exist_ok=True)
        if not (place / "files").is_dir():
            measured(Stage("files", "", inside("make_files")), n, place)
            time.sleep(3)  # a hash is not remembered of a file that changed a moment ago
        for stage in STAGES:
            if any(stage.name.startswith(word) for word in wanted):
                found.setdefault(stage.name, {})[str(n)] = measured(stage, n, place)
                print(stage.name, n, json.dumps(found[stage.name][str(n)]), flush=True)
                write_json(kept, found)
    every = sorted({int(n) for one in found.values() for n in one})
    text = table(found, every)
    print(text)
    if asked.get("write") == "true":
        before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            sys.exit(f"{PAGE}: the marks of the table are gone; put back {BEGIN} and {END}")
        write_text(PAGE, f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
