"""The trials of a search: which come next, and how each went, in the study's file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from cxr.launch.outcome import ATTRIBUTE, Outcome, from_attributes
from cxr.run.headline import Direction
from cxr.search.space import Space
from cxr.search.study import Pruner, Sampler, draw, mend, open_storage, open_study, pruner_of, trial_id

__all__ = ["Asked", "Trials", "consecutive"]


@dataclass(frozen=True)
class Asked:
    """What is searched, and how: the words of conf/hydra/sweeper/optuna.yaml."""

    space: Space
    metric: str | None
    direction: Direction
    sampler: Sampler
    seed: int
    pruner: Pruner
    min_epochs: int


class Trials:
    """The study `name` in the file `journal`, for the one process that holds the sweep."""

    def __init__(self, journal: Path, name: str, asked: Asked) -> None:
        """Open the study, or make it.

        Raises:
            UserError: it is there and searches something else.
        """
        self.asked = asked
        mend(journal)
        self._storage = open_storage(journal)
        pruner = pruner_of(asked.pruner, asked.min_epochs)
        self._study = open_study(self._storage, name, asked.direction, pruner, asked.space, asked.metric)

    def next_batch(self, size: int, total: int, tried: AbstractSet[int]) -> dict[int, list[str]]:
        """Return numbers and overrides of the next trials to run: those cut off, then new ones.

        A point that an earlier trial has tried to its end is not run again: its trial is told that result. Drawn twice
        for one batch it runs once; the other trial waits, and is told when that has ended.

        Args:
            total: trials of the study, all told.
            tried: trials that are left alone although they were cut off.
        """
        batch: dict[int, list[str]] = {}
        ended = {o.overrides: o for o in self.outcomes() if o.state in ("finished", "pruned")}
        known = self._study.get_trials(deepcopy=False)
        cut_off = [t.number for t in known if not t.state.is_finished() and t.number not in tried]
        space, sampler = self.asked.space, self.asked.sampler
        if sampler == "grid" and space.size is not None:
            total = min(total, space.size)
        for number in [*cut_off, *range(len(known), total)]:
            if len(batch) == size:
                break
            trial = draw(self._study, self._storage, number, space, sampler, self.asked.seed)
            overrides = space.overrides(trial.params)
            if (same := ended.get(tuple(overrides))) is not None:
                self.tell(same.again(number))
            elif overrides not in batch.values():
                batch[number] = overrides
        return batch

    def tell(self, outcome: Outcome) -> None:
        """Put an outcome into the study; a trial that was cut off stays open there."""
        from optuna.trial import TrialState

        if outcome.state == "cut off":
            return
        identifier = trial_id(self._study, self._storage, outcome.number)
        self._storage.set_trial_user_attr(identifier, ATTRIBUTE, outcome.attributes())
        if outcome.state == "finished":
            self._study.tell(outcome.number, outcome.value)
        else:
            state = TrialState.PRUNED if outcome.state == "pruned" else TrialState.FAIL
            self._study.tell(outcome.number, state=state)

    def outcomes(self) -> list[Outcome]:
        """Return how all trials went, by number; without one that was killed while it was drawn."""
        space = self.asked.space
        keys = {parameter.key for parameter in space.parameters}
        return [
            from_attributes(
                t.number, space.overrides(t.params), t.user_attrs if t.state.is_finished() else {}
            )
            for t in self._study.get_trials(deepcopy=False)
            if t.params.keys() >= keys
        ]


def consecutive(numbers: Sequence[int]) -> Iterator[list[int]]:
    """Split sorted numbers where one is missing."""
    run: list[int] = []
    for number in numbers:
        if run and number != run[-1] + 1:
            yield run
            run = []
        run.append(number)
    if run:
        yield run
