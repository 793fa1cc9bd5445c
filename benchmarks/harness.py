"""What a benchmark's line is, and how it is measured: ours and a peer in turns, in one process, on one thread.

A letter of the table is a module with `lines()`, which yields one `Line` after the other:

    def lines() -> Iterator[Line]:
        x = ...                                  # made when the line's turn comes, dropped after it
        yield Line("E1", "Fréchet distance, 2,048 features", ">=", 2.5, ours=lambda: ours(x),
                   peers={"torchmetrics": lambda: theirs(x)}, check=lambda: agree(ours(x), exact(x), 1e-8))

One line may have several peers, each with a goal of its own where `goal` is a dict. A peer that is an optional package
comes from `optional("litdata")`; where that returns None, give None as the peer: the row says "not installed".

Time is CPU time of this process and of the children it has waited for, or wall time where the line says so, or a figure
that the callables return themselves (`own`: bytes, seconds of a part). Rounds take ours and peer in turns, the first of
them alternating, so that a machine that slows down slows both; a call below 20 ms is repeated until it takes that long.
A peer that what ours sets for the whole process would serve too has a process of its own: `apart`.
The ratio is the median of the rounds' ratios: how many times as fast as the peer where the goal is a floor (>=), what
share of the peer's cost where it is a ceiling (<=).
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from types import ModuleType
from typing import Literal

__all__ = ["ONE_THREAD", "Line", "Rounds", "Row", "agree", "apart", "cpu_seconds", "measured", "optional"]

# Set before numpy, torch and OpenCV are imported, by the process that starts a letter's.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"),
    "1",
)  # fmt: skip
ROUNDS = 5  # at least
MOST_ROUNDS = 15
SECONDS = 1.0  # of a line, per peer: more rounds than the fewest only within it
SHORTEST = 0.02  # seconds that one timing covers, by repetition


@dataclass(frozen=True)
class Line:
    """One claim about speed.

    Attributes:
        id: as in the table: `E1`.
        what: the work, with its sizes.
        direction, goal: the ratio is to be at least (>=) or at most (<=) this; a dict gives each peer its own.
        ours: does the work; what it returns is dropped, unless `clock` is "own".
        peers: by name, the same work by someone else; None: not installed.
        check: is ours right? run before any timing; returns what was compared, raises AssertionError if not.
        clock: "cpu", "wall", or "own": the callables return the figure.
        unit: of the figures, where the clock is "own".
        before: run before every timing of either, not timed (drop a cache, reset a state).
        most: rounds at most; `ROUNDS` where figures come from `Rounds`, which has no more.
        warm: call each once before its rounds; False where a call takes long and leaves nothing warm, or `check` did it.
    """

    id: str
    what: str
    direction: Literal[">=", "<="]
    goal: float | Mapping[str, float]
    ours: Callable[[], object]
    peers: Mapping[str, Callable[[], object] | None]
    check: Callable[[], str]
    clock: Literal["cpu", "wall", "own"] = "cpu"
    unit: str = "s"
    before: Callable[[], object] | None = None
    warm: bool = True
    most: int = MOST_ROUNDS

    def goal_of(self, peer: str) -> float:
        """Return the goal against this peer."""
        return self.goal[peer] if isinstance(self.goal, Mapping) else self.goal


@dataclass(frozen=True)
class Row:
    """A line against one peer, measured; `ours` and `theirs` are medians of one call, None where nothing was timed."""

    id: str
    what: str
    direction: str
    goal: float
    peer: str
    clock: str
    unit: str
    ours: float | None
    theirs: float | None
    ratios: tuple[float, ...]
    checked: str
    problem: str

    @property
    def ratio(self) -> float | None:
        """Return the median of the rounds' ratios."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def reached(self) -> bool | None:
        """Say whether the goal is reached; None where nothing was timed for want of a peer."""
        if self.ratio is None:
            return False if self.problem else None
        return self.ratio >= self.goal if self.direction == ">=" else self.ratio <= self.goal


def optional(name: str) -> ModuleType | None:
    """Return a peer's module, None where it is not installed: `pip install -e '.[bench]'` installs them all."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise  # installed, and something of its own is missing
        return None


@contextmanager
def apart() -> Iterator[Callable[[Callable[[], float]], Callable[[], float]]]:
    """Give what turns a module's function that returns a figure into one that runs it in another process, always the same."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield lambda function: lambda: pool.submit(function).result()


def agree(found: float, expected: float, tolerance: float, what: str = "relative error") -> str:
    """Return `what` of two numbers in words; an AssertionError where it is above `tolerance`."""
    error = abs(found - expected) / max(abs(expected), 1e-300)
    assert error <= tolerance, (
        f"{what} {error:.1e}, expected at most {tolerance:.0e} ({found!r}, {expected!r})"
    )
    return f"{what} {error:.0e} (≤ {tolerance:.0e})"


def measured(line: Line) -> list[Row]:
    """Check a line, time it against each of its peers, and return a row for each."""
    try:
        checked, problem = line.check(), ""
    except AssertionError as error:
        checked, problem = "", f"wrong: {str(error).splitlines()[0] if str(error) else 'the check failed'}"
    return [_row(line, peer, call, checked, problem) for peer, call in line.peers.items()]


def _row(line: Line, peer: str, call: Callable[[], object] | None, checked: str, problem: str) -> Row:
    ours: list[float] = []
    theirs: list[float] = []
    if call is not None and not problem:
        timers = [_timer(line, one) for one in (line.ours, call)]
        began = time.perf_counter()
        while len(ours) < ROUNDS or (len(ours) < line.most and time.perf_counter() - began < SECONDS):
            first = len(ours) % 2
            took = {number: timers[number]() for number in (first, 1 - first)}
            ours.append(took[0])
            theirs.append(took[1])
    pairs = zip(theirs, ours, strict=True)
    ratios = tuple(t / o if line.direction == ">=" else o / t for t, o in pairs)
    return Row(line.id, line.what, line.direction, line.goal_of(peer), peer, line.clock, line.unit,
               statistics.median(ours) if ours else None, statistics.median(theirs) if theirs else None,
               ratios, checked, problem)  # fmt: skip


def _timer(line: Line, call: Callable[[], object]) -> Callable[[], float]:
    """Warm up; return a function that times one call, or as many as `SHORTEST` needs, and gives the figure of one."""
    clock = time.perf_counter if line.clock == "wall" else _cpu

    def once(times: int) -> float:
        if line.before is not None:
            line.before()
        began = clock()
        for _ in range(times - 1):
            call()
        found = call()
        took = (clock() - began) / times
        return float(found) if line.clock == "own" else took  # type: ignore[arg-type]

    if not line.warm:
        return lambda: once(1)
    warm = once(1)
    if line.clock == "own" or line.before is not None or warm >= SHORTEST:
        return lambda: once(1)
    times = max(1, int(SHORTEST / max(once(1), 1e-7)) + 1)
    return lambda: once(times)


def cpu_seconds(call: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    began = _cpu()
    call()
    return _cpu() - began


class Rounds:
    """Figures of which several lines are made: those of a round are measured one after the other, every other round backwards."""

    def __init__(self, measures: dict[str, Callable[[], float]]) -> None:
        self._measures, self._rounds = measures, list[dict[str, float]]()

    def figure(self, name: str) -> Callable[[], float]:
        """Return what gives this figure of the first round, then of the second, …, and of the first again."""
        position = iter(range(10**6))

        def following() -> float:
            number = next(position) % ROUNDS
            if number == len(self._rounds):
                turns = list(self._measures.items())[:: -1 if number % 2 else 1]
                self._rounds.append({key: measure() for key, measure in turns})
            return self._rounds[number][name]

        return following


def _cpu() -> float:
    """Return the CPU seconds of this process, all its threads, and of the children that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def main() -> None:
    """Measure one letter in this process: `python -m benchmarks.harness benchmarks.e_metrics OUT.jsonl E1,E3`."""
    module, out, only = sys.argv[1:]
    missing = [name for name in ONE_THREAD if os.environ.get(name) != "1"]
    if missing:
        sys.exit(f"one thread: {', '.join(missing)} must be 1; start it by python -m benchmarks")
    found: Iterable[Line] = importlib.import_module(module).lines()
    wanted = set(filter(None, only.split(",")))
    with open(out, "w", encoding="utf-8") as file:  # noqa: PTH123  row by row: what a crash leaves is kept
        for line in found:
            if not wanted or line.id in wanted or line.id.rstrip("abcdefgh") in wanted:
                for row in measured(line):
                    file.write(json.dumps(asdict(row)) + "\n")
                    file.flush()


if __name__ == "__main__":
    main()
