"""A process that the kernel ends when its parent dies, however that dies; Linux only."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable

__all__ = ["end_with_parent", "prctl"]

_PR_SET_PDEATHSIG = 1  # prctl(2), linux/prctl.h


@functools.cache
def prctl() -> Callable[..., int] | None:
    """Return the C library's prctl; None where there is none. A process that forks looks it up before."""
    if sys.platform != "linux":
        return None
    try:
        found: Callable[..., int] = ctypes.CDLL(None).prctl
    except (AttributeError, OSError):  # a C library without it
        return None
    return found


def end_with_parent(number: signal.Signals, parent: int) -> bool:
    """Have the kernel send `number` to this process when its parent dies; return whether it will. exec keeps it.

    Args:
        parent: its process id, known before the fork or asked for first; if it is dead already, the signal comes now.
    """
    call = prctl()
    if call is None:
        return False
    asked = call(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), number)
    return asked == 0
