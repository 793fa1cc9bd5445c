"""Keep the memory that a step frees, for the next step.

glibc hands large blocks back to the system as soon as they are freed. A training step on a CPU frees and asks for the same
hundreds of megabytes again and again, and each time the kernel maps and zeroes them page by page: a quarter of
the time of a step (talukdar_cnn, 128 px, batch 32, bfloat16, one core: 13.5 against 9.9 ms an image), and a third of that
of an image made (a DCGAN of 128 px: 4.3 against 3.1 ms). The price is that a process stays as large as it ever was.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# mallopt(3): parameter numbers of malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed blocks; return whether it will. Elsewhere nothing is changed."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library (musl)
        return False
    asked = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28))
    answers = [
        mallopt(parameter, value) for parameter, value in asked
    ]  # each is asked, whatever the others say
    return all(answer == 1 for answer in answers)
