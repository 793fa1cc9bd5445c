"""Jobs that start warm: forked from one process that has imported what they need (`cxr.launch.warm_parent`).

A cold start is a new interpreter that imports torch and the rest, seconds of CPU for each job of a sweep. A fork shares
what is imported, and its memory. It is still a fresh process for each job, started from one that no job has run in.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cxr._parent import prctl
from cxr.target import targets

__all__ = ["LOG", "Forked", "Unfit", "WarmParent", "modules_of", "possible"]

LOG = "warm.log"  # in the sweep's folder: what the imports print
FORK_S = 60.0  # a fork takes hundredths
# pyarrow's allocator starts a thread at import; this process will not use it
SETTINGS = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
# What every program of Hydra's imports before it calls its function
HYDRA = ("cxr.config", "cxr.sweep", "hydra._internal.hydra", "hydra._internal.core_plugins.basic_launcher")


def possible() -> str:
    """Say why jobs cannot start warm on this system; "" where they can."""
    if sys.platform != "linux" or prctl() is None:
        return "a process that has imported libraries is forked safely on Linux only"
    return ""


def modules_of(program: str, configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what to import for jobs: what the program's module lists as PRELOAD, and where configurations' targets are.

    Args:
        program: name of the module that holds Hydra's task function, `__main__` too.
    """
    found = [*HYDRA, *getattr(sys.modules.get(program), "PRELOAD", ())]
    for config in configs:
        for _, node in targets(config):
            name = node["_target_"]
            if isinstance(name, str) and "." in name:
                found.append(name.rpartition(".")[0])
    return list(dict.fromkeys(found))


class Unfit(Exception):
    """A job cannot start warm; the message says why, and a cold start can still do it."""


class Forked:
    """A job's process, which is a child of the warm parent's; `poll` as in subprocess.Popen."""

    def __init__(self, pid: int, parent: WarmParent) -> None:
        self.pid, self._parent = pid, parent

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""
        return self._parent.exit_code(self.pid)


class WarmParent:
    """The launcher's end of a warm parent; ended with this object or this process, at the latest.

    Attributes:
        problem: why no job can be forked; "" while none is known.
    """

    def __init__(
        self,
        program: Sequence[str],
        modules: Sequence[str],
        environment: Mapping[str, str],
        cwd: str,
        log: Path,
    ) -> None:
        """Start it; it imports while the caller goes on.

        Args:
            program: the words of a job's command, of which the first is the interpreter, without its overrides.
            environment: the jobs', so far as they have it in common.

        Raises:
            OSError: it cannot be started.
        """
        self.problem, self._settled, self._unread = "", False, b""
        self._answers: list[dict[str, Any]] = []
        self._ended: dict[int, int] = {}
        self._connection, theirs = socket.socketpair()
        fd, launcher = theirs.fileno(), os.getpid()
        words = [program[0], "-m", "cxr.launch.warm_parent", str(fd), str(launcher), *program[1:]]
        with theirs, log.open("wb") as output:
            self._process = subprocess.Popen(
                words,
                env={**environment, **SETTINGS},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(fd,),
            )
        self._send({"modules": list(modules)})
        self.close = weakref.finalize(self, _end, self._process, self._connection, log)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def settled(self) -> bool:
        """Look whether it has imported everything, or can no more."""
        self._read()
        if not self._settled and self._answers:
            self._settled, self.problem = True, self._answers.pop(0)["unfit"]
        return self._settled or bool(self.problem)

    def fork(self, words: Sequence[str], environment: Mapping[str, str], cwd: str, log: Path) -> Forked:
        """Start a job; it is in a session of its own when this returns.

        Args:
            words: its command, of which the first, the interpreter, is the parent's.

        Raises:
            Unfit: not by this parent.
            OSError: its folder or log is not there, as subprocess.Popen raises it.
        """
        assert self.settled()
        self._send({"words": list(words[1:]), "environment": dict(environment), "cwd": cwd, "log": str(log)})
        while not self._answers and not self.problem:
            self._read(FORK_S)
        if self.problem:
            raise Unfit(self.problem)
        answer = self._answers.pop(0)
        if "error" in answer:
            raise OSError(*answer["error"])
        if "unfit" in answer:
            self.problem = answer["unfit"]
            raise Unfit(self.problem)
        return Forked(answer["pid"], self)

    def exit_code(self, pid: int) -> int | None:
        """Return how a job ended; None while it runs. Where the parent died its jobs were sent SIGTERM by the kernel."""
        self._read()
        if pid not in self._ended and self.problem and self._process.poll() is not None and not _lives(pid):
            self._ended[pid] = -signal.SIGTERM
        return self._ended.get(pid)

    def _send(self, message: Mapping[str, Any]) -> None:
        self._connection.settimeout(FORK_S)
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            self.problem = self.problem or f"their parent process is gone ({error})"

    def _read(self, wait_s: float = 0.0) -> None:
        """Take in what it has said; `problem` where it is gone."""
        self._connection.settimeout(wait_s)
        try:
            while part := self._connection.recv(1 << 16):
                *lines, self._unread = (self._unread + part).split(b"\n")
                for message in map(json.loads, lines):
                    if "ended" in message:
                        self._ended[message["ended"]] = message["code"]
                    else:
                        self._answers.append(message)
                self._connection.settimeout(0.0)
            self.problem = self.problem or f"their parent process has ended; what it printed is in {LOG}"
        except BlockingIOError:
            pass
        except TimeoutError:
            self.problem = f"their parent process has not answered for {FORK_S:g} s"
        except OSError as error:
            self.problem = self.problem or f"their parent process is gone ({error})"


def _end(process: subprocess.Popen[bytes], connection: socket.socket, log: Path) -> None:
    """End it; jobs that it still has are sent SIGTERM by the kernel. Its log is kept where it holds anything."""
    process.kill()
    process.wait()
    connection.close()
    with suppress(OSError):
        if not log.stat().st_size:
            log.unlink()


def _lives(pid: int) -> bool:
    """Say whether a process runs; a dead one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
