"""D. Data path: reading batches, augmenting them, building the cache; a file for each."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator

from benchmarks.harness import Line


def lines() -> Iterator[Line]:
    """Yield D1 to D6."""
    for name in ("d_read", "d_augment", "d_cache"):
        if importlib.util.find_spec(f"benchmarks.{name}") is not None:
            yield from importlib.import_module(f"benchmarks.{name}").lines()
