"""Jobs in SLURM's queue followed to their ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cxr.files import read_json
from cxr.launch.job import OPENED, Job
from cxr.launch.slurm_queue import Queued, left, queue
from cxr.launch.slurm_task import ENDED
from cxr.run import read_status

if TYPE_CHECKING:
    from cxr.launch.live import Lines

__all__ = ["follow"]

LOOK_S = 0.5  # between looks at the files that jobs leave
LAG_S = 30.0  # until a file that a node wrote is seen here (NFS)
# How SLURM says that it ended a job, and what may help; the others end by themselves and leave a file.
BY_SLURM = {
    "CANCELLED": (130, ""),
    "TIMEOUT": (130, "; it was not saved in time: set hydra.launcher.signal_delay_s higher"),
    "PREEMPTED": (130, ""),
    "NODE_FAIL": (130, ""),
    "BOOT_FAIL": (130, ""),
    "DEADLINE": (130, ""),
    "OUT_OF_MEMORY": (1, "; set hydra.launcher.mem_gb higher"),
}


@dataclass
class _Followed:
    """A job, how the queue last showed it, and since when it is not there any more."""

    job: Job
    shown: str = ""
    missing_since: float | None = None

    def look(self, held: dict[str, Queued], lines: Lines) -> None:
        """Take what the queue says of a job that has left no file about its end."""
        job = self.job
        if job.slurm_id not in held:
            now = time.monotonic()
            self.missing_since = self.missing_since or now
            _take_word(job, late=now - self.missing_since > LAG_S)
            return
        self.missing_since = None
        here = held[job.slurm_id]
        if str(here) == self.shown:
            return
        before, self.shown = job.state, str(here)
        job.state = "pending" if here.waits else "running"
        if job.state == "running" and before != "running":
            lines.started(job)
        elif job.state == "pending" and (before != "pending" or here.waits_for_ever):
            again = "requeued, goes on from its last checkpoint; " if before == "running" else ""
            lines.tell(f"job {job.number} {again}{here}: {lines.named(job)}")


def follow(jobs: Sequence[Job], lines: Lines, poll_s: float, save: Callable[[], None]) -> None:
    """Wait until all have ended; `save` is called at each change."""
    waiting, looked = [_Followed(job) for job in jobs], float("-inf")
    while waiting:
        held = None
        if time.monotonic() - looked >= poll_s:
            held, looked = queue(), time.monotonic()
        for one in waiting:
            before = one.job.state
            if not _read_end(one.job) and held is not None:
                one.look(held, lines)
            if one.job.exit_code is not None:
                lines.ended(one.job)
            if one.job.state != before:
                save()
        waiting = [one for one in waiting if one.job.exit_code is None]
        lines.refresh()
        time.sleep(min(LOOK_S, poll_s) if waiting else 0)


def _read_end(job: Job) -> bool:
    """Take what the job's first task has left about its end; False: it has left nothing yet."""
    os.scandir(job.folder).close()  # NFS looks anew
    if not (job.folder / ENDED).is_file():
        return False
    ended = read_json(job.folder / ENDED)
    job.wall_s = ended["wall_s"]
    job.read_outcome(ended["exit_code"])
    job.error = ended["error"] or job.error
    return True


def _still_saves(job: Job) -> bool:
    """Say whether the job's process has its run yet: a cancelled one saves after SLURM has called it cancelled."""
    if not (job.folder / OPENED).is_file():
        return False
    run = Path(read_json(job.folder / OPENED)["run"])
    return (run / "status.json").is_file() and read_status(run)["state"] == "running"


def _take_word(job: Job, late: bool) -> None:
    """Take SLURM's word for how a job ended that has left the queue and no file, once none can still come."""
    ended = left(job.slurm_id)
    if not late and _still_saves(job):
        return
    if ended is not None and ended.state in BY_SLURM:
        code, advice = BY_SLURM[ended.state]
        job.read_outcome(code)
        job.error = f"SLURM: {ended.state}{advice}"
    elif late:
        job.read_outcome((ended and ended.exit_code) or 1)
        state = ended.state if ended else "not in the queue any more"
        job.error = f"SLURM: {state}; {job.error}"
