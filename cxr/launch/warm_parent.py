"""The process that a sweep's jobs are forked from: it has imported what they need, and started nothing.

`python -m cxr.launch.warm_parent FD LAUNCHER -m package.program` (or the path of a script), started by `cxr.launch.warm`
in the jobs' own environment, so that what a library reads when it is imported (OMP_NUM_THREADS, PYTHONHASHSEED, LD_PRELOAD,
…) is what it would read in a job. It says over the socket FD whether it may be forked: a fork copies one thread and no
CUDA context, so it must have one thread and no GPU open. Every job is a fork that then does what a new interpreter
would: session, streams, folder, environment, signals, `__main__`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cxr._parent import end_with_parent

__all__ = ["main", "unfit"]


def main() -> None:
    """Import, say so, fork a job for each request; in a job: return from the fork and run the program."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)  # no command that a job starts may hold it open
    launcher, program = int(sys.argv[2]), sys.argv[3:]
    end_with_parent(signal.SIGTERM, launcher)
    _look_for_modules_as(program)
    server = _Server(connection)
    first = server.receive()
    if first is None:
        return
    for name in first["modules"]:
        if name not in program:  # runpy will run it
            with suppress(Exception):  # a job that needs it says what is wrong with it
                importlib.import_module(name)
    _end_blas_threads()
    gc.collect()
    gc.freeze()  # a job's collector would write to, and so copy, every page
    server.send({"unfit": unfit()})
    words = server.serve(_stamps())
    if words is not None:
        try:
            _run(words)
        except SystemExit as end:
            if not isinstance(end.code, int | None):
                raise  # it is a message, which the interpreter prints
            _leave(end.code or 0)
        _leave(0)


def unfit() -> str:
    """Say why this process may not be forked into jobs; "" where it may."""
    tasks = sorted(Path("/proc/self/task").iterdir(), key=lambda task: int(task.name))
    threads = [(task / "comm").read_text().strip() for task in tasks]
    if len(threads) > 1:
        return f"an import started threads ({', '.join(threads[1:])})"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "an import initialised CUDA"
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # of this listing itself
            if str(fd.readlink()).startswith("/dev/nvidia"):
                return "an import opened a GPU"
    return ""


def _end_blas_threads() -> None:
    """OpenBLAS starts its threads when it is imported, ends them before a fork, and starts them at the next product."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _look_for_modules_as(program: Sequence[str]) -> None:
    """Let the first place to look be a script's folder; `python -m` has made it the working directory."""
    if program[0] != "-m" and not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path(program[0]).parent)


def _stamps() -> dict[str, tuple[int, int]]:
    """Return size and time of change of the files of what is imported; installed packages do not change in a sweep."""
    installed = tuple({str(Path(p).resolve()) for p in (sys.prefix, sys.base_prefix)})
    found = {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and not str(Path(file).resolve()).startswith(installed):
            with suppress(OSError):
                found[file] = _stamp(file)
    return found


def _stamp(file: str) -> tuple[int, int]:
    seen = Path(file).stat()
    return seen.st_size, seen.st_mtime_ns


def _changed(stamps: Mapping[str, tuple[int, int]]) -> str:
    """Return the first file that is not what was imported; ""."""
    for file, stamp in stamps.items():
        try:
            if _stamp(file) != stamp:
                return file
        except OSError:
            return file
    return ""


class _Server:
    """Answers requests, one JSON object a line, and tells how jobs ended."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._unread = connection, b""
        self._wake, wake = os.pipe()
        for fd in (self._wake, wake):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(
            signal.SIGCHLD, lambda number, frame: None
        )  # without a handler, nothing is written to `wake`
        self._own = (connection.fileno(), self._wake, wake)

    def send(self, message: Mapping[str, Any]) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """Wait for a request; None: the launcher has closed its end."""
        while b"\n" not in self._unread:
            part = self._connection.recv(1 << 16)
            if not part:
                return None
            self._unread += part
        line, self._unread = self._unread.split(b"\n", 1)
        request: dict[str, Any] = json.loads(line)
        return request

    def serve(self, stamps: Mapping[str, tuple[int, int]]) -> list[str] | None:
        """Fork jobs until the launcher closes its end: then None; in a job: the words of its command."""
        while True:
            ready, _, _ = select.select([self._connection.fileno(), self._wake], [], [])
            if self._wake in ready:
                with suppress(BlockingIOError):
                    os.read(self._wake, 1 << 12)
            self._tell_ended()
            if self._connection.fileno() not in ready:
                continue
            request = self.receive()
            if request is None:
                return None
            if changed := _changed(stamps):
                self.send({"unfit": f"{changed} has changed since it was imported"})
            elif (words := self._fork(request)) is not None:
                return words

    def _tell_ended(self) -> None:
        with suppress(ChildProcessError):  # there is none
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self.send({"ended": pid, "code": os.waitstatus_to_exitcode(status)})

    def _fork(self, request: Mapping[str, Any]) -> list[str] | None:
        """Fork; here, answer when the job is a process of its own, and return None; there, return its words."""
        told, tell = os.pipe()
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            os.close(told)
            try:
                self._become_job(request, parent)
            except OSError as error:
                os.write(tell, json.dumps([error.errno, error.strerror, error.filename]).encode())
                os._exit(1)
            os.close(tell)
            words: list[str] = request["words"]
            return words
        os.close(tell)
        with os.fdopen(told, "rb") as answer:  # ends when the job closes it: it has a group to be signalled
            refused = answer.read()
        if refused:
            os.waitpid(pid, 0)
            self.send({"error": json.loads(refused)})
        else:
            self.send({"pid": pid})
        return None

    def _become_job(self, request: Mapping[str, Any], parent: int) -> None:
        """Do what subprocess and a new interpreter's start would have done."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        end_with_parent(signal.SIGTERM, parent)
        self._connection.detach()
        for fd in self._own:
            os.close(fd)
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for fd, stream in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(fd, stream)  # what it makes is inherited
        os.close(nothing)
        os.close(log)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        # What draws without a seed must not draw alike in all jobs; `random` sees to itself.
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()
        if "torch" in sys.modules:
            sys.modules["torch"].default_generator.seed()


def _run(words: Sequence[str]) -> None:
    """Run a command's words, less the interpreter, as `__main__` of this process."""
    sys.orig_argv = [sys.executable, *words]
    if words[0] == "-m":
        sys.argv = ["-m", *words[2:]]
        sys.modules.pop(words[1], None)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")


def _leave(code: int) -> None:
    """End as the interpreter ends, but for taking apart every module: that copies the parent's pages (0.3 s).

    multiprocessing's forked processes end so too. What ends with an exception goes the interpreter's own way.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the job's threads, before atexit as at any end
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
