"""The space of a search, from Hydra's own sweep syntax on the command line.

optimizer=adam,sgd                          one of these (also choice(…), glob(…))
optimizer.lr=tag(log, interval(1e-5,1e-2))  any number between, evenly in its logarithm
mix.ratio=interval(0,2)                     any number between
loader.batch_size=int(interval(8,64))       any integer between, both ends included (also tag(int, interval(…)))
classifier.depth=range(1,9)                 1 to 8, as Hydra's range; range(16,65,16), range(0,1,0.25) with a step
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from cxr.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from optuna.trial import Trial

__all__ = ["DIGITS", "Parameter", "Space", "parse_space", "rounded"]

TAGS = ("log", "int")
DIGITS = (
    4  # of a number drawn from an interval: what is run, named and recorded is then the same short number
)


@dataclass(frozen=True)
class Parameter:
    """One thing that is searched.

    Attributes:
        key: what is typed before `=`.
        choices: for a choice, its values as typed; for a number with a step, each value as Hydra writes it.
        low, high: the ends, both included; nan for a choice.
        step: between neighbours; None: any number between the ends.
    """

    key: str
    kind: Literal["choice", "int", "float"]
    choices: tuple[str, ...] = ()
    low: float = math.nan
    high: float = math.nan
    step: float | None = None
    log: bool = False

    def suggest(self, trial: Trial) -> str | int | float:
        """Draw a value, or return the one that the trial has already."""
        if self.kind == "choice":
            return str(trial.suggest_categorical(self.key, self.choices))
        if self.kind == "int":
            return int(
                trial.suggest_int(
                    self.key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log
                )
            )
        return float(trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log))

    def override(self, value: Any) -> str:
        """Return the override that sets it to a value."""
        if self.kind == "float" and self.step is not None:
            value = min(
                self.choices, key=lambda text: abs(float(text) - value)
            )  # 0.75, not 0.7500000000000001
        return f"{self.key}={value}"

    def values(self) -> tuple[str, ...] | None:
        """Return all values as typed; None where they are too many to count."""
        if self.kind == "int" and not self.choices:
            return tuple(
                str(value) for value in range(int(self.low), int(self.high) + 1, int(self.step or 1))
            )
        return self.choices or None

    def probes(self) -> tuple[str, ...]:
        """Return the values, as typed, that show whether all can be right: each choice, both ends of a number."""
        if self.kind == "choice":
            return self.choices
        ends = [self.override(end).partition("=")[2] for end in (self.low, self.high)]
        if self.kind == "int":
            ends = [str(int(float(end))) for end in ends]
        return tuple(dict.fromkeys(ends))


@dataclass(frozen=True)
class Space:
    """What a search was given on the command line, in that order: words that all trials share, and parameters."""

    words: tuple[str | Parameter, ...]

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What is searched."""
        return tuple(word for word in self.words if isinstance(word, Parameter))

    @property
    def size(self) -> int | None:
        """How many points it has; None: no end of them."""
        counts = [parameter.values() for parameter in self.parameters]
        return None if any(c is None for c in counts) else math.prod(len(c or ()) for c in counts)

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Return the overrides of one point: `values` by key."""
        return [
            word.override(values[word.key]) if isinstance(word, Parameter) else word for word in self.words
        ]

    def probes(self) -> list[list[str]]:
        """Return overrides that try each parameter's `probes` once, the others at their first."""
        first = {p.key: p.probes()[0] for p in self.parameters}
        points = [first, *({**first, p.key: v} for p in self.parameters for v in p.probes()[1:])]
        return [
            [f"{w.key}={point[w.key]}" if isinstance(w, Parameter) else w for w in self.words]
            for point in points
        ]


def rounded(value: float, low: float, high: float) -> float:
    """Return a number with four significant digits, within the ends."""
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


def parse_space(overrides: Sequence[Override]) -> Space:
    """Return the space that parsed overrides span.

    Raises:
        UserError: nothing is searched, a key is given twice, or a sweep cannot be searched (unknown tag, empty range).
    """
    words: dict[str, str | Parameter] = {}
    for override in overrides:
        key = override.get_key_element()
        words[key] = _parameter(override, key) if override.is_sweep_override() else str(override.input_line)
    space = Space(tuple(words.values()))
    if not space.parameters:
        raise UserError(
            "hydra/sweeper=optuna: nothing to search; give a parameter several values, "
            "e.g. 'optimizer.lr=tag(log, interval(1e-5, 1e-2))'"
        )
    return space


def _parameter(override: Override, key: str) -> Parameter:
    sweep, typed = override.value(), override.input_line
    tags = set(getattr(sweep, "tags", ()))
    for tag in sorted(tags - set(TAGS)):
        raise UserError(f"{typed}: unknown tag '{tag}'{did_you_mean(tag, TAGS)}; expected log or int")
    if isinstance(sweep, IntervalSweep):
        return _interval(sweep, key, tags, typed)
    if isinstance(sweep, RangeSweep):
        return _range(list(sweep.range()), key, tags, typed)
    if tags:
        raise UserError(f"{typed}: a choice takes no tag; use interval(…) or range(…)")
    choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise UserError(f"{typed}: matches nothing; expected at least one choice")
    return Parameter(key, "choice", choices)


def _interval(sweep: IntervalSweep, key: str, tags: set[str], typed: object) -> Parameter:
    assert sweep.start is not None and sweep.end is not None
    low, high = float(sweep.start), float(sweep.end)
    whole = "int" in tags or (isinstance(sweep.start, int) and isinstance(sweep.end, int))
    if whole:
        low, high = float(math.ceil(low)), float(math.floor(high))
    if not low < high:
        raise UserError(f"{typed}: got an empty interval, expected interval(low, high) with low < high")
    _check_log(low, tags, typed)
    return Parameter(key, "int" if whole else "float", (), low, high, 1 if whole else None, "log" in tags)


def _range(values: list[Any], key: str, tags: set[str], typed: object) -> Parameter:
    if not values:
        raise UserError(f"{typed}: got an empty range, expected range(start, stop) with start < stop")
    values = sorted(values)
    step = abs(values[1] - values[0]) if len(values) > 1 else 1
    whole = all(isinstance(value, int) for value in values)
    _check_log(values[0], tags, typed)
    if "log" in tags and (step != 1 or not whole):
        raise UserError(f"{typed}: a logarithmic range has steps of 1; use tag(log, interval(low, high))")
    if "int" in tags and not whole:
        raise UserError(f"{typed}: the tag int, and a step that is no integer; leave one out")
    texts = tuple(str(value) for value in values)
    kind: Literal["int", "float"] = "int" if whole else "float"
    return Parameter(key, kind, texts, float(values[0]), float(values[-1]), float(step), "log" in tags)


def _check_log(low: float, tags: set[str], typed: object) -> None:
    if "log" in tags and low <= 0:
        raise UserError(f"{typed}: got {low:g} as the low end of a logarithmic scale, expected more than 0")
