"""What a training holds, noted every so many steps: test_soak.py has train.py build this callback.

Into a CSV, a row per look. Of the process: `rss_kib`, its pages in memory (what it alone has, `private_kib`, also grows
where it forks workers and then writes to a page that they share, up to the size it had), `blocks` (of Python's
allocator), `handles` (open files), `threads`, `shared` (its mappings of shared memory). Of its children: `children` (how
many), `children_kib` (their private pages). Of the run's folder: `files` and `disk` (bytes) without metrics.csv (`log`),
checkpoints, which hold a copy of it (`checkpoints`), and grids.
"""

from __future__ import annotations

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
import csv
import os
import sys
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class Sampler(Callback):
    """Look after every `every` steps; keep `leak_kib` KiB more at each step, to be found out."""

    def __init__(self, *, out: str, every: int, leak_kib: int) -> None:
        self.out, self.every, self.leak_kib = Path(out), every, leak_kib
        self.steps = 0
        self.kept: list[bytes] = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any
    ) -> None:
        """Count; look; leak."""
        self.steps += 1
        if self.leak_kib:
            self.kept.append(os.urandom(1024 * self.leak_kib))
        if self.steps % self.every:
            return
        row = {"step": self.steps, **memory("self"), **handles(), **folder(Path(trainer.default_root_dir))}
        new = not self.out.exists()
        with self.out.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


def rollup(process: object) -> dict[str, int]:
    """Return the memory of a process in KiB, by kind."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def memory(process: str) -> dict[str, int]:
    """Return this process's memory and its children's."""
    own = rollup(process)
    children = [
        pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()
    ]
    theirs = [rollup(pid) for pid in children]
    return {
        "private_kib": private(own),
        "rss_kib": own["Rss"],
        "blocks": sys.getallocatedblocks(),
        "children": len(children),
        "children_kib": sum(map(private, theirs)),
    }


def private(kinds: dict[str, int]) -> int:
    """Return the KiB that no other process has."""
    return kinds["Private_Clean"] + kinds["Private_Dirty"]


def handles() -> dict[str, int]:
    """Return the counts of what a process may forget to give back."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {
        "handles": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "threads": sum(1 for _ in Path("/proc/self/task").iterdir()),
        "shared": sum("/dev/shm/" in line or "/torch_" in line for line in maps),
    }


def folder(run: Path) -> dict[str, int]:
    """Return files and bytes of a run's folder, without what is meant to grow."""
    found = [p for p in run.rglob("*") if p.is_file()]
    log = run / "metrics.csv"
    checkpoints = [p for p in found if p.suffix == ".ckpt"]
    steady = [p for p in found if p.parent.name != "figures" and p != log and p not in checkpoints]
    return {
        "files": len(steady) + len(checkpoints),
        "disk": sum(p.stat().st_size for p in steady),
        "checkpoints": sum(p.stat().st_size for p in checkpoints),
        "log": log.stat().st_size if log.exists() else 0,
    }
