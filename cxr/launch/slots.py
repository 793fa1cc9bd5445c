"""What a machine's jobs share: GPUs by CUDA_VISIBLE_DEVICES, each job its own, none given twice at a time; CPU threads.

Nothing here imports torch, which would take seconds and open the devices in the launcher.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence

from cxr.errors import UserError

__all__ = ["VISIBLE", "Slots", "gpus_wanted", "listed_devices", "threads_of_job", "visible_devices"]

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_devices(environment: Mapping[str, str]) -> list[str]:
    """Return the GPUs that this process may use, as words for CUDA_VISIBLE_DEVICES; [] where there is none.

    They are those that CUDA_VISIBLE_DEVICES names where it is set, in its own words (indices, UUIDs, MIG names), and
    as CUDA reads it: what stands after a word that is none (`0,-1,1`, `NoDevFiles`) does not count.
    """
    if VISIBLE not in environment:
        try:
            listed = subprocess.run(
                ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return []
        return listed_devices(listed.stdout) if listed.returncode == 0 else []
    found: list[str] = []
    for word in environment[VISIBLE].split(","):
        if not re.fullmatch(r"\d+|GPU-\S+|MIG-\S+", word.strip()):
            break
        found.append(word.strip())
    twice = {word for word in found if found.count(word) > 1}
    if twice:
        raise UserError(
            f"{VISIBLE}: names {', '.join(sorted(twice))} twice, expected each GPU once; CUDA refuses it too"
        )
    return found


def listed_devices(listing: str) -> list[str]:
    """Return the UUIDs that `nvidia-smi -L` lists: of MIG instances where a GPU is divided into them, else of the GPU.

    UUIDs, since its numbers follow the bus and CUDA's, unless CUDA_DEVICE_ORDER says otherwise, the speed.
    """
    found: list[str] = []
    whole = ""  # the GPU that the line before named
    for line in listing.splitlines():
        match = re.search(r"UUID: ((?:GPU|MIG)-[^)\s]+)", line)
        if match is None:
            continue
        if line.startswith((" ", "\t")) and found and found[-1] == whole:
            found.pop()
        found.append(match[1])
        if not line.startswith((" ", "\t")):
            whole = match[1]
    return found


class Slots:
    """Which devices are free; `take` and `give` are called from one thread."""

    def __init__(self, devices: Sequence[str]) -> None:
        self._free = list(devices)

    def take(self, n: int) -> list[str]:
        """Return `n` devices that nobody has; whoever asks knows that they are there."""
        taken, self._free = self._free[:n], self._free[n:]
        if len(taken) < n:
            raise RuntimeError(f"{n} devices are asked for and {len(taken)} are free")
        return taken

    def give(self, devices: Sequence[str]) -> None:
        """Take devices back; they are the first to be taken again."""
        self._free = [*devices, *self._free]


def gpus_wanted(trainer: Mapping[str, object], n_visible: int) -> int:
    """Return how many GPUs a node of conf/trainer asks for, where its process sees `n_visible`.

    A list of devices needs all up to its largest; `auto` takes what there is, at least one where it must be a GPU.
    """
    accelerator, devices = trainer.get("accelerator"), trainer.get("devices")
    if accelerator == "cpu" or (accelerator == "auto" and n_visible == 0):
        return 0
    if isinstance(devices, int):
        return devices
    if isinstance(devices, (list, tuple)):
        return max((int(d) for d in devices), default=-1) + 1
    return max(1, n_visible)


def threads_of_job(threads: int | None, n_jobs: int, environment: Mapping[str, str]) -> int | None:
    """Return the CPU threads of each of `n_jobs` jobs at a time: those asked for, else an equal share of the cores.

    None leaves them as they are: one job has the machine, or OMP_NUM_THREADS is set in `environment`.
    """
    if threads is not None or n_jobs == 1 or "OMP_NUM_THREADS" in environment:
        return threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // n_jobs)
