"""Processes that train one run together end together: whichever fails, all end, and the first tells why, once.

Left alone, the others wait in a collective (NCCL: for ever) for one that has raised, until Lightning, which looks
every 5 s, kills all, the first among them: it can tell nothing, and its run looks interrupted. Here a process that
fails leaves its error in the store through which the processes met, which spans machines; the first raises it as its
own. One that is blocked or busy ten seconds later is ended from a thread of its own.

Children that Lightning started also end when their parent is gone (SIGKILL): they look for it four times a second,
which works on every system, where the kernel's own signal for that (PR_SET_PDEATHSIG) is Linux's alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import lightning
import torch.distributed as dist

from cxr.config import explain
from cxr.errors import UserError

__all__ = ["RankFailed", "Ranks"]

PARENT = "CXR_PARENT_PID"  # of the children that Lightning starts
KEY = "cxr/failed"
LOOK_S, GRACE_S = 0.25, 10.0

Told = dict[str, Any]


class RankFailed(RuntimeError):
    """Another process failed, by a defect rather than a mistake; its traceback was printed."""


class Ranks:
    """Watches over the processes of a trainer inside `with`; does nothing for a single one.

    `fail` is called in the first process, from another thread, just before it is ended while blocked.
    """

    def __init__(self, trainer: lightning.Trainer, fail: Callable[[BaseException], None]) -> None:
        self._fail = fail
        self._rank, self._several = trainer.global_rank, trainer.world_size > 1
        self._launcher: Any = trainer.strategy.launcher
        self._children: list[subprocess.Popen[bytes]] = []
        is_child = os.environ.get("LOCAL_RANK", "0") != "0"
        self._parent = int(os.environ.get(PARENT, "0")) if is_child else 0
        self._store: Any = None
        self._over, self._ending = threading.Event(), threading.Lock()

    def __enter__(self) -> Ranks:
        """Watch, before any other process is started."""
        if self._several:
            if not self._parent:
                os.environ[PARENT] = str(os.getpid())
            threading.Thread(target=self._watch, name="ranks", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the others, or be ended with them.

        Raises:
            UserError: another process failed by a mistake, or was killed.
            RankFailed: another process failed otherwise.
            SystemExit: this process failed and the first one tells why.
        """
        if not self._several:
            return
        with self._ending:  # not given back if the process is being ended
            self._over.set()
            if not self._parent:
                os.environ.pop(PARENT, None)
            if error is None or not isinstance(
                error, Exception
            ):  # over, or stopped by a signal, as the others are
                self._await_children(60.0 if error is None else GRACE_S)
                return
            told = self._told()
            if self._rank:
                if told is None and not self._orphaned():
                    self._tell(_told_of(self._rank, error))
                    self._kill_children()
                    if not self._parent:  # others than Lightning may end the first at once when this one ends
                        time.sleep(LOOK_S * 8)
                raise SystemExit(1) from None
            told = told or (self._dead_child(wait_s=1.0) if isinstance(error, RuntimeError) else None)
            if told is None:
                self._tell(_told_of(0, error))
                if not self._children:
                    time.sleep(LOOK_S * 8)  # the others look for it in the store that ends with this process
            self._kill_children()
            if told is not None:
                raise _raised(told) from None

    def _watch(self) -> None:
        silent_since: float | None = None
        while not self._over.wait(LOOK_S):
            if self._parent and self._orphaned():
                os._exit(1)
            self._adopt()
            try:
                told = self._told()
                if told is None and (told := self._dead_child()) is not None:
                    self._tell(told)
                silent_since = None
            except RuntimeError:  # the store is gone, and the first process, its host
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since < 2 * GRACE_S:
                    continue
                told = {"rank": 0}
            if told is not None and told["rank"] != self._rank:
                self._end(told)
                return

    def _end(self, told: Told) -> None:
        """Let the main thread come out of its collective by itself; end the process where it does not."""
        self._kill_children()
        if self._over.wait(GRACE_S) or not self._ending.acquire(blocking=False):
            return
        if self._rank == 0:
            error = _raised(told)
            self._fail(error)
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(2 if isinstance(error, UserError) else 1)
        os._exit(1)

    def _adopt(self) -> None:
        """Take Lightning's children from its own watch, which would kill this process before it has told why."""
        if getattr(self._launcher, "procs", None):
            self._children += self._launcher.procs
            self._launcher.procs.clear()

    def _told(self) -> Told | None:
        """Return what the first process that failed has left in the store; RuntimeError when the store is gone."""
        if self._store is None and dist.is_initialized():
            store: Any = dist.distributed_c10d._get_default_store()
            self._store = store.clone()  # a connection of its own
        if self._store is None or not self._store.check([KEY]):
            return None
        told: Told = json.loads(self._store.get(KEY))
        return told

    def _tell(self, told: Told) -> None:
        """Leave an error in the store; the first one stays."""
        if self._store is not None:
            self._store.compare_set(KEY, "", json.dumps(told))
        elif self._rank:  # the processes have not met: nobody else can tell it
            print(f"error: {told['mistake'] or told['trace']}", file=sys.stderr, flush=True)

    def _dead_child(self, wait_s: float = 0.0) -> Told | None:
        """Return the end of a child that has told nothing, if there is one within `wait_s`."""
        until = time.monotonic() + wait_s
        while True:
            self._adopt()
            for rank, child in enumerate(self._children, self._rank + 1):
                if code := child.poll():
                    how = (
                        f"was killed by {signal.Signals(-code).name} (SIGKILL: often for want of memory)"
                        if code < 0
                        else f"ended with exit code {code}; its message is above"
                    )
                    return {
                        "rank": rank,
                        "mistake": f"trainer.devices: process {rank} {how}; the same command goes on from the last checkpoint",
                    }
            if time.monotonic() >= until:
                return None
            time.sleep(LOOK_S)

    def _orphaned(self) -> bool:
        return bool(self._parent) and os.getppid() != self._parent

    def _await_children(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._adopt()
        while any(child.poll() is None for child in self._children) and time.monotonic() < until:
            time.sleep(0.05)
        self._kill_children()

    def _kill_children(self) -> None:
        self._adopt()
        for child in self._children:
            if child.poll() is None:
                child.kill()
        for child in self._children:
            child.wait()


def _told_of(rank: int, error: Exception) -> Told:
    return {
        "rank": rank,
        "mistake": explain(error),
        "line": traceback.format_exception_only(error)[-1].strip(),
        "trace": "".join(traceback.format_exception(error)),
    }


def _raised(told: Told) -> Exception:
    """Return the error of another process as one of this process."""
    if told.get("mistake"):
        return UserError(told["mistake"])
    print(f"process {told['rank']}:\n{told['trace']}", file=sys.stderr, flush=True)
    return RankFailed(f"process {told['rank']}: {told['line']}")
