"""A long run: memory, handles and disk are flat after the warm-up, through train.py, in 10,000 short steps.

What these are: as many steps, validations, checkpoints, scores and grids as a day of training has, of a small network on
small images; what is kept per step, per epoch or per pass is found, as it does not depend on sizes. What they are not:
24 hours of a clock, a GPU's memory, a network disk, or a cache larger than memory.
"""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import theilslopes

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

STEPS, EVERY, PER_EPOCH = 10_000, 100, 100
WARM_UP = 0.2  # of the steps: allocators, caches of kernels and the first of each kind of pass
LIMIT = (
    400.0  # KiB per 1,000 steps, 0.4 KiB a step: one tensor, one row or one traceback kept per step is more
)
LEAK = 10  # KiB per step
ON_THE_WAY = 2 * 2 * 3  # handles: tensors of a batch, of two batches asked of each of two workers
DATA = [
    "data.n_patients=170",
    "split.val=0.2",
    "split.test=0.2",
    "loader.batch_size=2",
    "trainer.precision=32-true",
]
QUIET = ["trainer.progress=plain", f"trainer.limit_train_batches={PER_EPOCH}", "trainer.log_every_n_steps=50"]
KINDS = {
    "classifier": ["cache.size_px=32", "classifier.channels=1", "callback.checkpoints.every_n_minutes=0.1"],
    "gan": [
        "task=gan", "cache.size_px=64", "gan.generator.widths=[8,8,8,8]", "gan.discriminator.widths=[8,8,8]",
        "gan.generator.latent_dim=8",
        "callback.generative_score.every_n_images=2000", "callback.generative_score.n_images=32",
        "callback.sample_grid.every_n_epochs=10", "callback.sample_grid.rows=2", "callback.sample_grid.columns=2",
    ],
}  # fmt: skip
RUNS = [(kind, workers) for workers in (0, 2) for kind in KINDS]
Columns = dict[str, npt.NDArray[np.float64]]
Written = Callable[[str], Any]


def start(place: Path, kind: str, workers: int, steps: int, leak_kib: int) -> subprocess.Popen[bytes]:
    """Start train.py in `place`, with the sampler beside its own callbacks."""
    sampler = (
        f"{{_target_: soak_sampler.Sampler, out: {place / 'held.csv'}, every: {EVERY}, leak_kib: {leak_kib}}}"
    )
    paths = [str(REPOSITORY), str(HERE)]
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *DATA, *QUIET, *KINDS[kind], f"loader.num_workers={workers}",
         f"trainer.max_epochs={steps // PER_EPOCH}", "name=soak", f"+callback.soak={sampler}"],
        cwd=place, stdout=(place / "out.txt").open("wb"), stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CXR_TARGETS": "soak_sampler",
             "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip


def columns(file: Path) -> Columns:
    """Return what the sampler noted after the warm-up, by column."""
    rows = list(csv.DictReader(file.open()))
    rows = rows[int(WARM_UP * len(rows)) :]
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def slope(held: Columns, name: str) -> tuple[float, float, float]:
    """Return the Theil–Sen slope per 1,000 steps with its 95 % interval (Sen 1968)."""
    found = theilslopes(held[name], held["step"] / 1000, alpha=0.95)
    return float(found.slope), float(found.low_slope), float(found.high_slope)


def grows(held: Columns) -> list[str]:
    """Return what is not flat, in words."""
    found = []
    for name in ("rss_kib", "children_kib"):
        middle, low, high = slope(held, name)
        if high >= LIMIT:
            found.append(f"{name}: {middle:.1f} [{low:.1f}, {high:.1f}] KiB per 1,000 steps")
    for name in ("handles", "threads", "children", "shared", "files"):
        # batches between workers and us have some; what a while has at least must not rise
        on_the_way = ON_THE_WAY if name in ("handles", "shared") and held["children"].any() else 0
        fewest = [part.min() for part in np.array_split(held[name], 4)]
        if np.ptp(held[name]) > on_the_way or max(fewest) > fewest[0]:
            found.append(f"{name}: {held[name].min():.0f} to {held[name].max():.0f}")
    log, disk, checkpoints = (held[name][-1] - held[name][0] for name in ("log", "disk", "checkpoints"))
    if disk > 1024:  # progress.json and status.json hold numbers of more digits
        found.append(f"disk: {disk:.0f} bytes")
    if checkpoints > 2 * log + 4096:  # last.ckpt and best.ckpt hold the log
        found.append(f"checkpoints: {checkpoints:.0f} bytes, the log {log:.0f}")
    return found


def sampled(place: Path, leak_kib: int) -> Columns:
    """Let the sampler look at a loop of 3,000 steps that do nothing, in a process that has freed nothing yet."""
    script = (
        "import sys; from pathlib import Path; from types import SimpleNamespace; from soak_sampler import Sampler\n"
        "place, every, leak_kib = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])\n"
        "sampler = Sampler(out=str(place / 'held.csv'), every=every, leak_kib=leak_kib)\n"
        "for _ in range(3000): sampler.on_train_batch_end(SimpleNamespace(default_root_dir=place), None)"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(place), str(EVERY), str(leak_kib)], check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(HERE)])},
    )  # fmt: skip
    return columns(place / "held.csv")


@linux
def test_the_measure_sees_what_is_kept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    middle, low, high = slope(sampled(tmp_path / "a", LEAK), "rss_kib")
    assert low <= middle <= high and middle == pytest.approx(1000 * LEAK, rel=0.1)
    assert abs(slope(sampled(tmp_path / "b", 0), "rss_kib")[0]) < LIMIT


def test_theil_sen_by_hand() -> None:
    """Five points on a line of 3 per 1,000 steps, one of them far off: the slope stays 3."""
    held = {"step": np.array([0.0, 1000, 2000, 3000, 4000]), "x": np.array([1.0, 4, 700, 10, 13])}
    assert slope(held, "x")[0] == pytest.approx(3.0)


def test_a_handle_that_is_kept_is_growth_and_a_batch_on_its_way_is_none() -> None:
    flat = {name: np.full(80, 30.0) for name in ("rss_kib", "children_kib", "threads", "children", "files", "shared", "handles",
                                                 "log", "disk", "checkpoints")}  # fmt: skip
    flat["step"] = 100.0 * np.arange(80)
    now_and_then, kept, too_many = (np.full(80, 32.0) for _ in range(3))
    now_and_then[::7], kept[50:], too_many[::7] = 35.0, 33.0, 45.0
    assert not grows(flat) and not grows({**flat, "handles": now_and_then})
    assert grows({**flat, "handles": kept}) == ["handles: 32 to 33"]
    assert grows({**flat, "handles": too_many}) == ["handles: 32 to 45"]
    alone = {**flat, "children": np.zeros(80)}
    assert grows({**alone, "handles": now_and_then}) == [
        "handles: 32 to 35"
    ]  # no workers: none is on its way


@linux
@pytest.mark.slow
def test_a_planted_leak_is_found(tmp_path: Path) -> None:
    """The same training with a callback that keeps 100 KiB a step, for 800 steps.

    Ten times less is not seen so soon: freed memory is kept (cxr/_memory.py), and what is kept fills it first.
    """
    process = start(tmp_path, "classifier", 0, 800, 10 * LEAK)
    assert process.wait(timeout=900) == 0, (tmp_path / "out.txt").read_text()
    held = columns(tmp_path / "held.csv")
    assert slope(held, "rss_kib")[1] > 0.5 * 1000 * 10 * LEAK
    assert any(line.startswith("rss_kib") for line in grows(held))


@linux
@pytest.mark.slow
def test_a_long_run_is_flat(tmp_path: Path, written: Written) -> None:
    """Four trainings side by side, each a process."""
    places = {title(kind, workers): tmp_path / f"{kind}-{workers}" for kind, workers in RUNS}
    for place in places.values():
        place.mkdir()
    processes = [
        (start(tmp_path / f"{kind}-{workers}", kind, workers, STEPS, 0), tmp_path / f"{kind}-{workers}")
        for kind, workers in RUNS
    ]
    try:
        for process, place in processes:
            assert process.wait(timeout=3000) == 0, (place / "out.txt").read_text()[-3000:]
    finally:
        for process, _ in processes:
            process.kill()
            process.wait()
    held = {name: columns(place / "held.csv") for name, place in places.items()}
    written("soak").write(text(held))
    for name, one in held.items():
        assert one["step"][-1] == STEPS, name
        assert not grows(one), name


def title(kind: str, workers: int) -> str:
    """Return what a row of the page is called."""
    return f"{kind}, {workers} workers"


def text(held: dict[str, Columns]) -> str:
    """Return the part of the page."""
    n = len(next(iter(held.values()))["step"])
    names = ("handles", "threads", "children", "shared")
    lines = [
        (
            "| Run | Memory (RSS) at the end | Its slope, KiB per 1,000 steps | Of the last half "
            "| Python's blocks per 1,000 steps | Workers' slope (private pages) "
            "| Open files, threads, children, shared mappings | Log, bytes per 1,000 steps |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in held.items():
        own, theirs = (slope(one, column) for column in ("rss_kib", "children_kib"))
        told = [f"{middle:.1f} [{low:.1f}, {high:.1f}]" for middle, low, high in (own, theirs)]
        counts = "; ".join(" to ".join(f"{v:.0f}" for v in np.unique(one[k])[[0, -1][: 1 + (np.ptp(one[k]) > 0)]])
                           for k in names)  # fmt: skip
        log = (one["log"][-1] - one["log"][0]) / (one["step"][-1] - one["step"][0]) * 1000
        late = slope({k: v[len(v) // 2 :] for k, v in one.items()}, "rss_kib")[0]
        workers = told[1] if one["children"].any() else "none"
        lines.append(
            f"| {name} | {one['rss_kib'][-1] / 1024:.0f} MiB | {told[0]} | {late:.1f} "
            f"| {slope(one, 'blocks')[0]:.0f} | {workers} | {counts} | {log:.0f} |"
        )
    protocol = (
        f"{STEPS:,} steps in {STEPS // PER_EPOCH} epochs each; slopes are Theil–Sen over n = {n} looks, every {EVERY} steps "
        f"after the first {WARM_UP:.0%}, with 95 % intervals (looks follow each other, so these are narrower than true); the "
        f"limit for their upper ends is {LIMIT:.0f}. Python {platform.python_version()}, torch {version('torch')}, "
        f"lightning {version('lightning')}, one thread."
    )
    return "\n".join([*lines, "", protocol])


def test_the_page_has_today_s_runs(written: Written) -> None:
    part = written("soak").read()
    for kind, workers in RUNS:
        assert f"| {title(kind, workers)} |" in part
