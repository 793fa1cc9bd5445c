"""What a job of a search knows of its trial, and how it tells the study how well it goes.

The sweeper hands a job its trial through the environment; a run started by hand has none and is never pruned.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from cxr.run.headline import find_score
from cxr.search.study import Pruner, open_storage, pruner_of, trial_id

__all__ = ["TRIAL", "Pruned", "TrialOf", "current_trial"]

TRIAL = "CXR_TRIAL"  # in the environment of a job that may be pruned


class Pruned(Exception):
    """Why a run was ended by its search: its status says so, beside `failed`."""


@dataclass(frozen=True)
class TrialOf:
    """A trial of a study on disk.

    Attributes:
        journal: the study's file, absolute.
        metric: the pattern of the score that is searched for; None: the headline.
    """

    journal: str
    study: str
    number: int
    metric: str | None
    pruner: Pruner
    min_epochs: int

    def variables(self) -> dict[str, str]:
        """Return what hands it to a job."""
        return {TRIAL: json.dumps(asdict(self))}

    def score(self, values: dict[str, float]) -> tuple[str, float] | None:
        """Return name and value of the score that counts; None where it was not computed."""
        name = find_score(values, self.metric)
        return None if name is None else (name, values[name])

    def report(self, epochs: int, name: str, value: float) -> str | None:
        """Tell the study the score after whole epochs; return why the run should end here, None: go on."""
        import optuna
        from optuna.samplers import RandomSampler

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = open_storage(Path(self.journal))
        study = optuna.load_study(
            study_name=self.study,
            storage=storage,
            sampler=RandomSampler(),  # draws nothing here
            pruner=pruner_of(self.pruner, self.min_epochs),
        )
        number = trial_id(study, storage, self.number)
        storage.set_trial_intermediate_value(number, epochs, value)
        if epochs < self.min_epochs or not study.pruner.prune(study, storage.get_trial(number)):
            return None
        behind = f"behind the other trials of its search ({self.pruner})"
        return f"after {epochs} epoch{'s' * (epochs > 1)} {name} was {value:.4g}, {behind}"


def current_trial() -> TrialOf | None:
    """Return the trial that this process trains, None outside a search that prunes."""
    text = os.environ.get(TRIAL)
    return TrialOf(**json.loads(text)) if text else None
