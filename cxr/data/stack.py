"""Opening a stack of images that an earlier stage wrote: an .npy file of uint8 (N, S, S), memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["open_stack"]


def open_stack(path: Path) -> np.memmap[Any, np.dtype[np.uint8]]:
    """Return the stack, read-only.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no .npy, is cut short, holds objects, or anything but uint8 (N, S, S).
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy parses the header as Python source, and raises whatever comes of that
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path.name} is not a stack of images: {told}") from None
    if (
        not isinstance(found, np.memmap)
        or found.dtype != np.uint8
        or found.ndim != 3
        or found.shape[1] != found.shape[2]
    ):
        what = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
        raise ValueError(f"{path.name} holds {what}; expected uint8 (N, S, S)")
    return found
