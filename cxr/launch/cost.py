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

# These decide how many real images a run trains on, whatever it trains; with `mix` and `synthetic`, how many in all.
REAL = ("data", "split", "train_classes", "cache")
IMAGES = (*REAL, "mix", "synthetic")
# Mixes that keep all real images unless they have a limit; the last two add `counts` to them.
KEEP_REAL = ("cxr.data.mix.real_only", "cxr.data.mix.add", "cxr.data.mix.duplicate_real")
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
        real: real ones of them, none twice; None: not told, or some were left out.
        epochs: that it trained, fewer than configured after an early stop.
        wall_s: all of it.
    """

    config: Mapping[str, Any]
    images: int
    real: int | None
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
            manifest = read_json(path.with_name("manifest.json"))
            images = int(manifest["n_training_images"])
            progress = read_progress(path.parent)
            epochs = progress.epochs_done if progress else int(status["identity"]["trainer"]["max_epochs"])
            wall_s = float(status["wall_s"])
        except (UserError, KeyError, TypeError, ValueError):  # of another version, or half deleted
            continue
        if images > 0 and epochs > 0 and wall_s > 0:
            found.append(
                Finished(status["identity"], images, _real(status["identity"], manifest), epochs, wall_s)
            )
    return found


def estimate(config: Mapping[str, Any], runs: Iterable[Finished]) -> Estimate | None:
    """Return the cost of a run of `config` (plain containers), whole; None where no finished run tells."""
    runs = list(runs)
    counts = {run.images for run in runs if _same(IMAGES, run.config, config)} or _by_mix(config, runs)
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


def _same(keys: Sequence[str], one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Say whether two configurations agree on as many images, as far as `keys` decide that."""

    def counted(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        return {key: counted(value) for key, value in node.items() if key not in NOT_COUNTED}

    return digest([counted(one.get(key)) for key in keys]) == digest(
        [counted(other.get(key)) for key in keys]
    )


def _real(config: Mapping[str, Any], manifest: Mapping[str, Any]) -> int | None:
    """Return how many real images a run trained on, of a manifest that counts them and a mix that keeps them all."""
    if not _keeps_real(config) or "counts" not in manifest:
        return None
    return sum(int(of_class["real"]) for of_class in manifest["counts"]["train"].values())


def _keeps_real(config: Mapping[str, Any]) -> bool:
    mix = config.get("mix")
    return mix is None or (mix["_target_"] in KEEP_REAL and mix.get("limit") is None)


def _by_mix(config: Mapping[str, Any], runs: Iterable[Finished]) -> set[int]:
    """Return how many images `config` trains on: the real ones of runs on the same data, and what its mix adds."""
    if not _keeps_real(config):
        return set()
    mix = config.get("mix") or {}
    added = mix.get("counts") or {}
    if mix.get("to") is not None or (mix.get("_target_") in KEEP_REAL[1:] and not added):
        return set()
    more = sum(int(n) for n in added.values())
    return {run.real + more for run in runs if run.real is not None and _same(REAL, run.config, config)}


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
