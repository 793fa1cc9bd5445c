"""What SLURM says of jobs: those in its queue (squeue), and how one that has left it ended (scontrol).

Not by submitit, which asks sacct, the accounting database: many clusters have none, where it warns on every call.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Left", "Queued", "left", "queue"]

FORMAT = "%i|%j|%T|%r|%N"
TIMEOUT_S = 60.0
# Reasons to wait that do not pass by waiting, and what to set instead.
FOR_EVER = {
    "PartitionTimeLimit": "timeout_min lower, or another hydra.launcher.partition",
    "QOSMaxWallDurationPerJobLimit": "timeout_min lower, or another hydra.launcher.qos",
    "AssocMaxWallDurationPerJobLimit": "timeout_min lower",
    "PartitionNodeLimit": "nodes lower, or another hydra.launcher.partition",
    "BadConstraints": "constraint to what nodes have",
}


@dataclass(frozen=True)
class Queued:
    """A job in the queue: its name, its state in lower case, why it waits, where it runs."""

    name: str
    state: str
    reason: str
    nodes: str

    @property
    def waits(self) -> bool:
        """Whether it has no node; one that is requeued still ends there for a moment."""
        return self.state in ("pending", "requeued", "requeue_hold", "requeue_fed")

    @property
    def waits_for_ever(self) -> bool:
        """Whether what it waits for will not come."""
        return self.waits and self.reason in FOR_EVER

    def __str__(self) -> str:
        if self.state == "pending" and self.reason != "None":
            advice = FOR_EVER.get(self.reason)
            return (
                f"pending ({self.reason}{f': scancel it and set hydra.launcher.{advice}' if advice else ''})"
            )
        return f"{self.state} on {self.nodes}" if self.nodes and self.state != "pending" else self.state


@dataclass(frozen=True)
class Left:
    """A job that has left the queue: its state as SLURM writes it, its exit code."""

    state: str
    exit_code: int


def queue() -> dict[str, Queued] | None:
    """Return this user's jobs that SLURM holds, array tasks one by one, by id (`12`, `13_0`); None: no answer."""
    user = pwd.getpwuid(os.getuid()).pw_name
    shown = _ask(["squeue", "--noheader", "--array", f"--user={user}", f"--format={FORMAT}"])
    return None if shown is None else parse_queue(shown)


def parse_queue(shown: str) -> dict[str, Queued]:
    """Read lines of FORMAT."""
    jobs = {}
    for line in shown.splitlines():
        if line.count("|") >= 4:
            number, name, state, reason, nodes = line.strip().split("|", 4)
            jobs[number] = Queued(name, state.lower(), reason, nodes)
    return jobs


def left(job_id: str) -> Left | None:
    """Return how a job ended that has left the queue; None: SLURM has forgotten it, or does not answer."""
    shown = _ask(["scontrol", "--oneliner", "show", "job", job_id])
    return None if shown is None else parse_left(shown)


def parse_left(shown: str) -> Left | None:
    """Read one line of `scontrol show job`."""
    state = re.search(r"\bJobState=(\S+)", shown)
    code = re.search(r"\bExitCode=(\d+):(\d+)", shown)
    if state is None:
        return None
    exit_code, number = (int(part) for part in code.groups()) if code else (1, 0)
    return Left(state[1], exit_code or (128 + number if number else 0))


def _ask(words: Sequence[str]) -> str | None:
    try:
        answer = subprocess.run(words, text=True, capture_output=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None
