"""The study of a search: Optuna's record of its trials, one file in the sweep's folder.

Why a journal (a file that is only appended to) and not SQLite: SQLite's locks are unreliable on NFS, where clusters
keep their runs, and running trials that report to be pruned write too.

Why Optuna is called directly: Hydra's own sweeper (hydra-optuna-sweeper 1.3.0) asks for optuna<3, keeps a study only
in a database, forgets which trials were cut off, and draws the first values again when it goes on.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cxr.errors import UserError
from cxr.run.headline import Direction
from cxr.search.space import Space, rounded

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import Trial

__all__ = [
    "Pruner",
    "Sampler",
    "direction_of",
    "draw",
    "mend",
    "need_optuna",
    "open_storage",
    "open_study",
    "pruner_of",
    "sampler_of",
    "trial_id",
]

Sampler = Literal["tpe", "random", "gp", "cmaes", "grid"]
Pruner = Literal["none", "median", "hyperband"]

_SPACE = "cxr space"  # a study's attribute


def need_optuna(sampler: Sampler) -> None:
    """Refuse to search without what it needs; silence what Optuna says of each trial, since we say it.

    Raises:
        UserError: Optuna, or what the sampler needs beside it, is not installed.
    """
    for package in ("optuna", *(["cmaes"] if sampler == "cmaes" else [])):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"hydra/sweeper=optuna: {package} is not installed; pip install optuna cmaes  (or 'cxr[search]')"
            )
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_storage(file: Path) -> BaseStorage:
    """Return the storage in `file`, made if need be."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(file)))


def mend(file: Path) -> None:
    """Cut off half a line that a killed writer left, after which Optuna could read nothing that is appended.

    For the process that holds the sweep; no other should be writing.
    """
    if file.is_file():
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(file, whole)


def open_study(
    storage: BaseStorage,
    name: str,
    direction: Direction,
    pruner: BasePruner,
    space: Space,
    metric: str | None,
) -> Study:
    """Return the study `name`, made if need be.

    Raises:
        UserError: it is there and searches another space, another metric or the other direction.
    """
    import optuna

    study = optuna.create_study(
        storage=storage, study_name=name, direction=direction, pruner=pruner, load_if_exists=True
    )
    asked = {
        "space": [str(word) for word in space.words],
        "metric": metric or "the headline",
        "direction": direction,
    }
    known: Mapping[str, Any] = study.user_attrs.get(_SPACE) or {}
    for key in [key for key in asked if known and known[key] != asked[key]]:
        was, now = known[key], asked[key]
        if isinstance(was, list):
            was, now = "other parameters", "these"
        raise UserError(
            f"hydra.sweeper.study_name: the study {name} has {key} {was}, expected {now}; "
            "set hydra.sweeper.study_name=… for another study"
        )
    study.set_user_attr(_SPACE, asked)
    return study


def direction_of(file: Path, name: str) -> Direction | None:
    """Return which way the study `name` in `file` goes; None where there is no such study."""
    import optuna

    if not file.is_file():
        return None
    try:
        study = optuna.load_study(study_name=name, storage=open_storage(file))
    except KeyError:
        return None
    return "maximize" if study.direction == optuna.study.StudyDirection.MAXIMIZE else "minimize"


def draw(study: Study, storage: BaseStorage, number: int, space: Space, sampler: Sampler, seed: int) -> Trial:
    """Return trial `number` with all its values: a new one, or one whose process was killed while it drew.

    What is drawn is a function of seed, number and the trials known by now, never of the state of a generator in this
    process: a search that was stopped and goes on draws what it would have drawn.

    Raises:
        UserError: the sampler cannot search this space.
    """
    import numpy as np
    import optuna

    state = np.random.SeedSequence([seed, number]).generate_state(1)[0]
    study.sampler = _short_numbers(sampler_of(sampler, int(state), space))
    if number < len(study.get_trials(deepcopy=False)):
        trial = optuna.Trial(study, trial_id(study, storage, number))
    else:
        trial = study.ask()
    for parameter in space.parameters:
        parameter.suggest(trial)
    return trial


def trial_id(study: Study, storage: BaseStorage, number: int) -> int:
    """Return what the storage calls a trial."""
    return storage.get_trial_id_from_study_id_trial_number(
        storage.get_study_id_from_name(study.study_name), number
    )


def pruner_of(name: Pruner, min_epochs: int) -> BasePruner:
    """Return the pruner that conf/hydra/sweeper/optuna.yaml names; a step is an epoch."""
    from optuna import pruners

    if name == "median":
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=min_epochs)
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=min_epochs)
    return pruners.NopPruner()


def sampler_of(name: Sampler, seed: int, space: Space) -> BaseSampler:
    """Return the sampler that conf/hydra/sweeper/optuna.yaml names.

    Raises:
        UserError: it cannot search this space.
    """
    from optuna import samplers

    if name == "grid":
        values = {p.key: p.values() for p in space.parameters}
        for p in space.parameters:
            if p.values() is None:
                raise UserError(
                    f"hydra.sweeper.sampler: a grid needs values to count, and {p.key} is an interval; "
                    f"use {p.key}=range(…), or set hydra.sweeper.sampler=tpe"
                )
        # Its seed orders the grid and so is the same for all trials.
        grid = {p.key: [_as_drawn(p.kind, text) for text in values[p.key] or ()] for p in space.parameters}
        return samplers.GridSampler(grid, seed=0)
    if name == "random":
        return samplers.RandomSampler(seed=seed)
    if name == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=10)
    if name == "cmaes":
        return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    return samplers.TPESampler(seed=seed, constant_liar=True)  # trials of a batch keep apart


def _as_drawn(kind: str, text: str) -> str | int | float:
    return int(text) if kind == "int" else float(text) if kind == "float" else text


def _short_numbers(inner: BaseSampler) -> BaseSampler:
    """Return a sampler that draws as `inner` does, numbers between the ends of an interval with four digits."""
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.samplers import BaseSampler, GridSampler

    def short(value: Any, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, FloatDistribution) and distribution.step is None:
            return rounded(value, distribution.low, distribution.high)
        return value

    class ShortNumbers(BaseSampler):
        """Optuna's hook for what is drawn; everything but the rounding is `inner`'s."""

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return inner.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            drawn = inner.sample_relative(study, trial, search_space)
            return {key: short(value, search_space[key]) for key, value in drawn.items()}

        def sample_independent(
            self, study: Any, trial: Any, param_name: str, param_distribution: BaseDistribution
        ) -> Any:
            value = inner.sample_independent(study, trial, param_name, param_distribution)
            return short(value, param_distribution)

        def before_trial(self, study: Any, trial: Any) -> None:
            inner.before_trial(study, trial)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            if not isinstance(
                inner, GridSampler
            ):  # it asks a loop that is not there to stop; `Space.size` does
                inner.after_trial(study, trial, state, values)

    return ShortNumbers()
