"""The one kind of exception that is the user's to mend.

Whatever raises `UserError` has found something that a person can put right without
reading our code. The entry points print its message as one line and exit with 2; any
other exception is a defect of cxr and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "did_you_mean"]


class UserError(Exception):
    """A mistake in the input, told in one line: what was wrong, what was expected, what mends it."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known word, else `; known: a, b, …`."""
    options = sorted({str(k) for k in known})
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(options)}" if options else ""
