"""Processes that a launcher starts and ends: a group each, ended gently first, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol

from cxr._parent import end_with_parent, prctl

__all__ = ["Child", "Process", "StopSignals", "start", "stop"]

LEFT_S = 2.0  # how long what a job leaves in its group may go on


class Process(Protocol):
    """What is asked of a process: subprocess.Popen does it, and what is forked from a warm parent."""

    @property
    def pid(self) -> int:
        """Its process id, which is its group's too."""

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""


def start(words: Sequence[str], environment: Mapping[str, str], cwd: str, log: Path) -> Process:
    """Start a command as a new program in a session of its own; both streams go to `log`, which begins anew.

    Raises:
        OSError: it cannot be started.
    """
    before = partial(end_with_parent, signal.SIGTERM, os.getpid()) if prctl() is not None else None
    with log.open("wb") as output:
        return subprocess.Popen(
            words,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=before,
        )


class Child:
    """A process in a session and process group of its own, which its ranks and data workers share.

    It does not get the terminal's Ctrl-C: `stop` ends it. If this process dies without a word (SIGKILL), the kernel
    sends it SIGTERM, on which a training saves and ends; elsewhere than on Linux it would go on until it is done.

    Attributes:
        exit_code: negative for a signal; None while it runs.
        wall_s: how long it ran; so far, while it runs.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.exit_code: int | None = None
        self._began, self.wall_s = time.monotonic(), 0.0
        self._died: float | None = None

    @property
    def pid(self) -> int:
        """Its process id, which is its group's too."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Look whether it has ended, with all that it started: a slot that is free must be empty."""
        if self.exit_code is not None:
            return True
        code, now = self._process.poll(), time.monotonic()
        if self._died is None:
            self.wall_s = now - self._began
            self._died = None if code is None else now
        # multiprocessing's and torch's helpers clear shared memory away after their parent; others have no business
        if self._died is not None and (not self.send(0) or now - self._died > LEFT_S):
            self.send(signal.SIGKILL)
            self.exit_code = code
        return self.exit_code is not None

    def send(self, number: int) -> bool:
        """Send a signal to the whole group; return whether anyone is there."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # macOS says so of a zombie
            return self._died is None
        return True


class StopSignals:
    """Counts Ctrl-C, SIGTERM and SIGHUP (the terminal is gone) within `with`, and raises nothing.

    So nothing is cut off between a process that is started and the note that it was. SIGINT and SIGHUP that are ignored
    (`command &` in a script, `nohup`) stay without effect here, but children get them back: a job is ended by SIGINT.

    Attributes:
        name: of the first that came; "" before.
        count: how many came.
    """

    def __init__(self) -> None:
        self.name, self.count = "", 0
        self._before: dict[signal.Signals, Any] = {}
        self._terminals = [fd for fd in (1, 2) if os.isatty(fd)]

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            ignored = signal.getsignal(number) == signal.SIG_IGN
            self._before[number] = signal.signal(number, _nothing if ignored else self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name, self.count = self.name or signal.Signals(number).name, self.count + 1
        if number == signal.SIGHUP:
            for fd in self._terminals:
                if not os.isatty(fd):  # writing there would raise
                    os.dup2(os.open(os.devnull, os.O_WRONLY), fd)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Unlike SIG_IGN, a handler is not inherited by the commands that we start."""


def stop(
    children: Sequence[Child], grace_s: float, signals: StopSignals, tell: Callable[[str], None]
) -> None:
    """End children: SIGINT, which a training answers by saving; SIGINT again (at once); SIGKILL.

    Args:
        grace_s: seconds after the first; a further Ctrl-C here goes on to the next, which has 5.
        tell: prints a line.
    """
    waits = (grace_s, 5.0, 5.0)
    for harder, number in enumerate((signal.SIGINT, signal.SIGINT, signal.SIGKILL)):
        left = [child for child in children if not child.has_ended()]
        if not left:
            return
        if harder == 0:
            jobs = f"{len(left)} job" + "s" * (len(left) > 1)
            tell(f"{signals.name or 'error'}: {jobs} may save for {grace_s:g} s (Ctrl-C again: ends at once)")
        for child in left:
            child.send(number)
        heard, deadline = signals.count, time.monotonic() + waits[harder]
        while time.monotonic() < deadline and signals.count == heard:
            left = [child for child in left if not child.has_ended()]
            if not left:
                return
            time.sleep(0.05)
