"""Loops over pixels that LLVM compiles: for what no array operation says, and a Python loop would take seconds for.

A module of such loops imports this one, and with it numba (0.3 s), at its top; who needs a loop imports that module inside
the function that calls it, so that nobody waits for numba who does not use it. The loops are ordinary functions of Python,
compiled for given types when their module is imported: seconds on the first time, milliseconds from then on, as the code is
kept beside the module, or where NUMBA_CACHE_DIR says. They run outside Python's lock, start no threads, and are not told to
bend arithmetic ("fastmath"): the same bits on every machine.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["compiled", "inlined"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(signature: Any) -> Callable[[F], F]:
    """Return a decorator that compiles a function for one signature of `numba.types`; arrays of other types are refused."""

    def decorate(function: F) -> F:
        try:
            made = numba.njit(signature, cache=True, nogil=True, error_model="numpy")(function)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError):
            # No folder to keep the code in, a full disk, or what is kept is damaged: compiled anew by each process.
            made = numba.njit(signature, nogil=True, error_model="numpy")(function)
        return cast(F, made)

    return decorate


def inlined(function: F) -> F:
    """Mark a function that compiled ones of its own module call; it is compiled with them."""
    return cast(F, numba.njit(error_model="numpy")(function))
