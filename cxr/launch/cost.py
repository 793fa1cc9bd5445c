"""What a job will cost, from runs of its kind that are finished: seconds per training image and epoch, times both.

A kind is the task, the network, the image size and what trains it (accelerator, devices, precision) on this machine;
of these runs those with the same network parameters, batch size and augmentation are preferred. The time of a run is
its `wall_s`: validation, scores and reading images are in it, the interpreter's start is not. Runs with more
than one attempt are left out, since a killed attempt tells no time.
"""

from __future__ import annotations

import heapq
import socket
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr.errors import UserError
from cxr.files import digest, read_json
from cxr.run import model_key
from cxr.run.progress import read_progress

__all__ = ["Estimate", "Finished", "duration", "estimate", "finished_runs", "makespan"]

# Of the same images: these decide how many a run trains on, whatever it trains.
IMAGES = ("data", "split", "mix", "synthetic", "train_classes", "cache")
NOT_COUNTED = {
    "seed",
    "fold",
    "root",
    "dir",
    "workers",
    "size_px",
}  # which images, or where, but not how many


@dataclass(frozen=True)
class Finished:
    """A finished run, as far as its cost goes.

    Attributes:
        config: its identity.
        images: that it trained on, in an epoch.
        epochs: that it trained, fewer than configured after an early stop.
        wall_s: all of it.
    """

    config: Mapping[str, Any]
    images: int
    epochs: int
    wall_s: float

    @property
    def rate(self) -> float:
        """Seconds per image and epoch."""
        return self.wall_s / (self.images * self.epochs)


@dataclass(frozen=True)
class Estimate:
    """Seconds that a job will take.

    Attributes:
        low, high: least and most of what it is made from.
        basis: what it is made from, in words.
    """

    seconds: float
    low: float
    high: float
    basis: str

    def times(self, share: float) -> Estimate:
        """Return the cost of a share of the job."""
        return Estimate(self.seconds * share, self.low * share, self.high * share, self.basis)

    def __str__(self) -> str:
        if duration(self.low) == duration(self.high):
            return duration(self.seconds)
        return f"{duration(self.seconds)} ({duration(self.low)} to {duration(self.high)})"


def finished_runs(runs_dir: Path) -> list[Finished]:
    """Return the finished runs below `runs_dir` that were trained on this machine in one attempt."""
    found = []
    for path in sorted(runs_dir.glob("*/status.json")):
        try:
            status = read_json(path)
            if (
                status["state"] != "finished"
                or status["attempts"] != 1
                or status["host"] != socket.gethostname()
            ):
                continue
            images = int(read_json(path.with_name("manifest.json"))["n_training_images"])
            progress = read_progress(path.parent)
            epochs = progress.epochs_done if progress else int(status["identity"]["trainer"]["max_epochs"])
            wall_s = float(status["wall_s"])
        except (UserError, KeyError, TypeError, ValueError):  # of another version, or half deleted
            continue
        if images > 0 and epochs > 0 and wall_s > 0:
            found.append(Finished(status["identity"], images, epochs, wall_s))
    return found


def estimate(config: Mapping[str, Any], runs: Iterable[Finished]) -> Estimate | None:
    """Return the cost of a run of `config` (plain containers), whole; None where no finished run tells."""
    runs = list(runs)
    counts = {run.images for run in runs if _images(run.config) == _images(config)}
    of_kind = [run for run in runs if kind(run.config) == kind(config)]
    if not of_kind or not counts:
        return None
    alike = [run for run in of_kind if _details(run.config) == _details(config)]
    used, images = alike or of_kind, round(statistics.median(counts))
    epochs = int(config["trainer"]["max_epochs"])
    seconds = sorted(run.rate * images * epochs for run in used)
    what = "the same parameters" if alike else "the same network, other parameters"
    basis = (
        f"median (least to most) of {len(used)} finished run{'s' * (len(used) > 1)} of {what} on this machine, "
        f"scaled by epochs and images ({images})"
    )
    return Estimate(statistics.median(seconds), seconds[0], seconds[-1], basis)


def kind(config: Mapping[str, Any]) -> str:
    """Return a hash that two configurations share whose steps cost about the same."""
    trainer = config["trainer"]
    machine = [trainer.get(key) for key in ("accelerator", "devices", "num_nodes", "precision")]
    size = (config.get("cache") or {}).get("size_px")
    return digest([config["task"]["_target_"], _network(config), size, machine])


def _network(config: Mapping[str, Any]) -> object:
    if config.get("classifier"):
        return model_key(config["classifier"])
    return sorted(
        str(v.get("_target_")) for v in (config.get("gan") or {}).values() if isinstance(v, Mapping)
    )


def _details(config: Mapping[str, Any]) -> str:
    batch = (config.get("loader") or {}).get("batch_size")
    return digest([config.get("classifier"), config.get("gan"), config.get("augment"), batch])


def _images(config: Mapping[str, Any]) -> str:
    def counted(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        return {key: counted(value) for key, value in node.items() if key not in NOT_COUNTED}

    return digest({key: counted(config.get(key)) for key in IMAGES})


def makespan(seconds: Sequence[float], n_jobs: int) -> float:
    """Return when the last of jobs ends that are started in order, `n_jobs` at a time."""
    ends = [0.0] * n_jobs
    for one in seconds:
        heapq.heappush(ends, heapq.heappop(ends) + one)
    return max(ends)


def duration(seconds: float) -> str:
    """Return a time in words, two units at most: `1 h 40 min`, `4 min`, `12 s`."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"
