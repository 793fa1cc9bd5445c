"""A scheduler's signals, taken for Ctrl-C from the first moment of a program."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["STOPS", "as_ctrl_c", "stop_if_heard"]

# Ctrl-C; a scheduler or a service manager; submitit, ahead of a time limit
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
_heard: list[str] = []


@contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt where a signal would end the process, so that it ends as `interrupted`.

    A handler that is already there (submitit's, say) stays; outside the main thread nothing changes.
    """
    _heard.clear()
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in STOPS}
    ours = [n for n, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def stop_if_heard() -> None:
    """Raise again what was lost: Python drops an exception inside some callbacks, those of `import` among them."""
    if _heard:
        raise KeyboardInterrupt(_heard[0])


def _interrupt(number: int, frame: FrameType | None) -> None:
    _heard.append(f"stopped by {signal.Signals(number).name}")
    raise KeyboardInterrupt(_heard[0])
