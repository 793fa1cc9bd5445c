"""What a node runs: a job's command as a child in each task of `srun`, saved and requeued when SLURM takes the node.

submitit pickles the task and unpickles it on the node, so it holds words, paths and numbers only, and this module
imports nothing but the standard library and `cxr.files`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from cxr.files import read_json, write_json

__all__ = ["ENDED", "SlurmTask"]

ENDED = "ended.json"  # in a job's folder: the exit code of its last attempt; absent while it is to go on
INTERRUPTED = (
    130,
    -signal.SIGUSR2,
    -signal.SIGTERM,
)  # the latter two: before training there is nothing to save
IDLE_LIMIT = 3  # attempts in a row that saved nothing new
USR2_S = 2.0  # some clusters send SIGTERM first and SIGUSR2 after it
PATIENCE_S = 30.0  # rank 0 tells another rank's error; it is not killed before


@dataclass
class SlurmTask:
    """A job's command, called in every task of the job.

    Attributes:
        words: the command.
        variables: what its environment has beside the node's.
        cwd: where the sweep was typed.
        folder: the job's; its output is appended there, `output.log` for rank 0, `output.RANK.log` for others.
        log, opened: the names of the output and of the file that names the run, in `folder`.
        max_requeues: how often it may be requeued; None: without end.
        idle: attempts in a row that saved no new checkpoint.
        wall_s: seconds of earlier attempts.
    """

    words: Sequence[str]
    variables: Mapping[str, str]
    cwd: str
    folder: str
    log: str
    opened: str
    max_requeues: int | None
    idle: int = 0
    wall_s: float = 0.0
    _heard: set[int] = field(default_factory=set)

    def __call__(self) -> int:
        """Run the command to its end; leaves ENDED, or SLURM with another attempt in its queue.

        SIGUSR2 (submitit's, ahead of the time limit or of a preemption) is passed on to the child in every task; when
        it has saved and ended, rank 0 lets submitit's own handler decide and requeue. SIGTERM (scancel, `scontrol
        requeue`) is passed on too, and SLURM alone decides what follows.
        """
        rank = int(os.environ.get("SLURM_PROCID", "0"))
        by_submitit = signal.getsignal(signal.SIGUSR2)
        began, saved = time.monotonic(), self._last_saved()
        code = self._run_child(rank)
        self.wall_s += time.monotonic() - began
        if rank:
            if code in (0, *INTERRUPTED) or self._heard:
                return 0  # rank 0 speaks for all
            self._hears(signal.SIGTERM, PATIENCE_S)
            sys.exit(_shell_code(code))
        if code not in INTERRUPTED or not self._heard:
            return self._end(code)
        if not self._hears(signal.SIGUSR2, USR2_S):
            sys.exit(130)  # scancel: CANCELLED; scontrol requeue or a lost node: PENDING
        self.idle = 0 if self._last_saved() > saved else self.idle + 1
        if refused := self._refused():
            return self._end(130, refused)
        try:
            assert callable(by_submitit), "submitit has set no handler"
            by_submitit(signal.SIGUSR2, None)  # pickles this object anew, requeues, and exits
        except Exception as error:  # out of time-outs, or SLURM does not let it be requeued
            return self._end(130, f"not requeued: {error}")
        raise AssertionError("submitit's handler came back")

    def checkpoint(self) -> Any:
        """Return what to run after the requeue (submitit calls this): the same; the run goes on by itself."""
        from submitit.helpers import DelayedSubmission

        self._heard = set()
        return DelayedSubmission(self)

    def _run_child(self, rank: int) -> int:
        """Run the command, signals passed on; SLURM may send them to the child too, which takes two as one."""
        child: subprocess.Popen[bytes] | None = None

        def pass_on(number: int, _: FrameType | None) -> None:
            self._heard.add(number)
            if child is not None:
                child.send_signal(number)

        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, pass_on)
        log = self.log if not rank else f"{Path(self.log).stem}.{rank}{Path(self.log).suffix}"
        with (Path(self.folder) / log).open("ab") as output:
            child = subprocess.Popen(
                list(self.words),
                env=self._environment(),
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        for heard in tuple(self._heard):  # while the child was made
            child.send_signal(heard)
        return child.wait()

    def _hears(self, number: int, seconds: float) -> bool:
        """Say whether a signal has come, or comes within so many seconds."""
        until = time.monotonic() + seconds
        while number not in self._heard and time.monotonic() < until:
            time.sleep(0.1)
        return number in self._heard

    def _environment(self) -> dict[str, str]:
        """Return the node's environment with the job's own, threads as many as the task has cores."""
        variables = {**os.environ, **self.variables}
        if cores := os.environ.get("SLURM_CPUS_PER_TASK"):
            variables.setdefault("OMP_NUM_THREADS", cores)
        return variables

    def _last_saved(self) -> int:
        """Return when the run's last checkpoint was written (ns); 0: there is none."""
        opened = Path(self.folder) / self.opened
        if opened.is_file():
            with suppress(FileNotFoundError):
                return (Path(read_json(opened)["run"]) / "checkpoints" / "last.ckpt").stat().st_mtime_ns
        return 0

    def _refused(self) -> str:
        """Say why it is not to be requeued, or ""."""
        done = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if self.max_requeues is not None and done >= self.max_requeues:
            return f"requeued {done} times, the limit; sweep again, or set hydra.launcher.max_requeues higher"
        if self.idle >= IDLE_LIMIT:
            return f"{self.idle} attempts in a row saved no checkpoint; set hydra.launcher.timeout_min higher"
        return ""

    def _end(self, code: int, error: str = "") -> int:
        """Tell the launcher how it ended, and SLURM by the exit code."""
        attempts = int(os.environ.get("SLURM_RESTART_COUNT", "0")) + 1
        write_json(
            Path(self.folder) / ENDED,
            {"exit_code": code, "error": error, "attempts": attempts, "wall_s": round(self.wall_s, 3)},
        )
        if code:
            sys.exit(_shell_code(code))
        return 0


def _shell_code(code: int) -> int:
    """Return an exit code as a shell shows it: 128 + the signal that ended a process."""
    return code if code >= 0 else 128 - code
