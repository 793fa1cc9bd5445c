"""What a sweep leaves in its folder: `sweep.json`, written anew whenever a job changes, for whoever looks from outside.

It says what was asked and started; how a run stands is its own `status.json`, which alone is the truth.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cxr.errors import UserError
from cxr.files import read_json, write_json
from cxr.launch.job import Job

__all__ = ["hold", "is_held", "read_record", "write_record"]

FILE = "sweep.json"


def write_record(folder: Path, launcher: str, jobs: Sequence[Job], ended: bool = False) -> None:
    """Write the record of a sweep, whole.

    Args:
        launcher: its name in conf/hydra/launcher.
        ended: whether the launcher has left; False while it works.
    """
    rows = [
        {
            "number": job.number,
            "overrides": job.overrides,
            "run": str(job.run.resolve()) if job.run else None,
            "folder": str(job.folder),
            "before": job.before,
            "state": job.state,
            "metric": job.metric,
            "error": job.error,
            "wall_s": round(job.wall_s, 3),
            "slurm_id": job.slurm_id or None,
        }
        for job in jobs
    ]
    who = {"pid": os.getpid(), "host": socket.gethostname(), "updated": _now()}
    sweep = {"schema": 1, "name": folder.name, "launcher": launcher, "ended": ended, "command": _command()}
    write_json(folder / FILE, {**sweep, **who, "jobs": rows})


def _command() -> str:
    """Return what was typed, to go on by."""
    typed = shlex.join(sys.argv)
    return f"python {typed}" if sys.argv[0].endswith(".py") else typed


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of the sweep in `folder`.

    Raises:
        UserError: there is none.
    """
    if not (folder / FILE).is_file():
        raise UserError(f"{folder}: no sweep here (it has no {FILE}); give the folder that the sweep printed")
    record: dict[str, Any] = read_json(folder / FILE)
    return record


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other launchers out of a sweep's folder; the kernel drops the lock with this process.

    Raises:
        UserError: a live process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            who = lock.read() or "another process"
            raise UserError(f"{folder}: this sweep is run by {who}; wait for it or stop it") from None
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()} on {socket.gethostname()} since {_now()}")
        lock.flush()
        yield


def is_held(folder: Path) -> bool:
    """Say whether a launcher works on the sweep in `folder` now; not for use in that launcher's own process."""
    if not (folder / ".lock").is_file():
        return False
    with (folder / ".lock").open("r+") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
