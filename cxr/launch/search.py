"""`hydra/sweeper=optuna`: trials drawn by Optuna, run by whatever launcher is chosen, in batches.

A batch is drawn, run to its last job and told to the study, then the next is drawn. The study is a file in the sweep's
folder, so the same command goes on: finished trials stay, trials that were cut off run again under their own number
and so resume their runs, and `n_trials` is the total. Every job is checked before it starts, as in any sweep.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from cxr.config import plain
from cxr.errors import UserError
from cxr.launch.base import JobLauncher
from cxr.launch.compose import sweep_folder
from cxr.launch.found import best_so_far, print_found, write_found
from cxr.launch.job import Job, shown
from cxr.launch.outcome import Outcome, outcome_of
from cxr.launch.record import hold
from cxr.launch.trials import Asked, Trials, consecutive
from cxr.run.headline import Direction, is_of_validation, known_direction
from cxr.search.space import Space, parse_space
from cxr.search.study import Pruner, Sampler, direction_of, need_optuna, sampler_of
from cxr.search.trial import TrialOf

__all__ = ["OptunaSweeper"]

JOURNAL = "study.journal"


class OptunaSweeper(Sweeper):
    """Search `n_trials` points for the best validation score."""

    def __init__(
        self,
        n_trials: int,
        metric: str | None,
        direction: Direction | None,
        sampler: Sampler,
        seed: int,
        study_name: str | None,
        batch_size: int | None,
        pruner: Pruner,
        min_epochs: int,
    ) -> None:
        """Keep what conf/hydra/sweeper/optuna.yaml explains; checked in `sweep`: Hydra hides what is raised here."""
        self.n_trials, self.metric, self.direction = n_trials, metric, direction
        self.sampler, self.seed, self.study_name = sampler, seed, study_name
        self.batch_size, self.pruner, self.min_epochs = batch_size, pruner, min_epochs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over, and make the launcher; a search has a folder of its own beside the sweep's."""
        if not any(o.startswith("hydra.sweep.dir=") for o in config.hydra.overrides.hydra):
            with open_dict(config):
                config.hydra.sweep.dir = f"{config.hydra.sweep.dir}-search"
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search; exits with 1 where no trial finished or one was cut off.

        Raises:
            UserError: a wrong value, a space that cannot be searched, or one of which no probe passes the checks.
        """
        setup_globals()
        self._check_own_values()
        need_optuna(self.sampler)
        assert self.hydra_context is not None and self.config is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        space = parse_space(parser.parse_overrides(arguments))
        sampler_of(self.sampler, self.seed, space)
        if name := next((word for word in space.words if str(word).lstrip("+").startswith("name=")), None):
            raise UserError(f"{name}: all trials would be one run; leave name=… out")
        runner = _job_launcher(self.launcher, self.config)
        runner.check_own_values()
        self.size = self._batch_size(runner)
        self.folder = sweep_folder(self.config)
        self.name = self.study_name or self.folder.name
        known = direction_of(self.folder / JOURNAL, self.name)
        if (
            known is None
        ):  # a new study; one that is there has been probed, and each job is checked before it starts
            job = _probe(runner, space)
            known = self._find_direction(job) if self.direction is None else self.direction
        direction = self.direction or known
        self.asked = Asked(
            space, self.metric, direction, self.sampler, self.seed, self.pruner, self.min_epochs
        )
        if not runner.starts_jobs:
            self._preview(runner)
            return
        with hold(self.folder):
            trials = Trials(self.folder / JOURNAL, self.name, self.asked)
            try:
                tried: set[int] = set()
                while batch := trials.next_batch(self.size, self.n_trials, tried):
                    tried |= batch.keys()
                    self._run(runner, trials, batch)
            finally:
                outcomes = trials.outcomes()
                write_found(self.folder, outcomes, space, direction)
                print_found(self.folder, outcomes, space, direction)
        states = {outcome.state for outcome in outcomes}
        if "finished" not in states or "cut off" in states:
            sys.exit(1)

    def _check_own_values(self) -> None:
        from cxr.signature import check_value

        for key, kind in get_type_hints(OptunaSweeper.__init__).items():
            if key != "return" and (problem := check_value(getattr(self, key), kind)):
                raise UserError(f"hydra.sweeper.{key}: {problem}; set hydra.sweeper.{key}=…")
        for key, least in {"n_trials": 1, "seed": 0, "batch_size": 1, "min_epochs": 1}.items():
            value = getattr(self, key)
            if value is not None and value < least:
                raise UserError(
                    f"hydra.sweeper.{key}: got {value}, expected {least} or more; set hydra.sweeper.{key}=…"
                )
        if self.metric is not None and not is_of_validation(self.metric):
            raise UserError(
                f"hydra.sweeper.metric: got '{self.metric}', expected a score of validation images (test images are "
                "for the end); set hydra.sweeper.metric=val/accuracy"
            )

    def _batch_size(self, runner: JobLauncher) -> int:
        at_a_time: int | None = self.batch_size or getattr(runner, "n_jobs", None)
        if at_a_time is None and runner.starts_jobs:
            raise UserError(
                f"hydra.sweeper.batch_size: hydra/launcher={runner.name} does not say how many trials run at a time; "
                "set hydra.sweeper.batch_size=4"
            )
        return at_a_time or 1

    def _find_direction(self, job: Job) -> Direction:
        if self.metric is not None:
            name = self.metric
        else:  # as the task's headline will be: cxr/run/headline.py
            task = {} if job.config is None else plain(job.config).get("task") or {}
            name = "val/accuracy" if str(task.get("_target_")).endswith(".ClassifierTask") else "kid_*/val"
        if (way := known_direction(name)) is None:
            raise UserError(
                f"hydra.sweeper.direction: whether more of {name} is better is not known; "
                "set hydra.sweeper.direction=maximize or minimize"
            )
        return way

    def _run(self, runner: JobLauncher, trials: Trials, batch: Mapping[int, Sequence[str]]) -> None:
        jobs = runner.compose(batch)
        for job in jobs:
            if job.problem:
                job.state, job.error, job.exit_code = "refused", job.problem, 2
            if self.pruner != "none":
                journal = str((self.folder / JOURNAL).resolve())
                trial = TrialOf(journal, self.name, job.number, self.metric, self.pruner, self.min_epochs)
                job.variables |= trial.variables()
        # A run that is at work has outlived its launcher; where that cannot wait for it, the search goes on without.
        ready = [job for job in jobs if not job.problem and (runner.joins_running or job.before != "running")]
        others = [o.job(self.folder) for o in trials.outcomes() if o.number not in batch]
        runner.work(ready, [*others, *(job for job in jobs if job not in ready)])
        for job in jobs:
            outcome = outcome_of(job, self.metric)
            self._check_outcome(outcome)
            trials.tell(outcome)
        outcomes = trials.outcomes()
        write_found(self.folder, outcomes, self.asked.space, self.asked.direction)
        said = best_so_far(outcomes, self.asked.direction)
        print(f"{len(outcomes)} of {self.n_trials} trials: {said}", flush=True)

    def _check_outcome(self, outcome: Outcome) -> None:
        """Refuse a score that the search would take the wrong way, or that is not of validation images."""
        if outcome.metric is None:
            return
        known = known_direction(outcome.metric)
        if not is_of_validation(outcome.metric):
            raise UserError(
                f"hydra.sweeper.metric: the runs' headline is {outcome.metric}, expected a score of validation images; "
                "set hydra.sweeper.metric=…"
            )
        if self.direction is None and known not in (None, self.asked.direction):
            raise UserError(
                f"hydra.sweeper.direction: {outcome.metric} is to be {known}d, and this study does the opposite; "
                f"set hydra.sweeper.direction={known} and hydra.sweeper.study_name=…"
            )

    def _preview(self, runner: JobLauncher) -> None:
        """Show the next batch, drawn in a copy of the study: nothing is left behind."""
        with tempfile.TemporaryDirectory() as scratch:
            if (self.folder / JOURNAL).is_file():
                shutil.copy(self.folder / JOURNAL, scratch)
            trials = Trials(Path(scratch) / JOURNAL, self.name, self.asked)
            batch = trials.next_batch(self.size, self.n_trials, set())
            before = len([o for o in trials.outcomes() if o.number not in batch])
        print(
            f"search {self.name}: {before} of {self.n_trials} trials have run" + ("; next:" if batch else "")
        )
        for numbers in consecutive(sorted(batch)):
            runner.launch([batch[n] for n in numbers], numbers[0])
        if before + len(batch) < self.n_trials:
            print("the trials after these depend on how these go")


def _probe(runner: JobLauncher, space: Space) -> Job:
    """Check each choice and both ends of each number once; return the first job that can run.

    Raises:
        UserError: none can.
    """
    jobs = runner.compose(dict(enumerate(space.probes())))
    good = next((job for job in jobs if not job.problem), None)
    if good is None:
        raise UserError(jobs[0].problem)
    for job in jobs:
        if job.problem:
            print(f"warning: {shown(job.overrides)}: {job.problem}", file=sys.stderr)
    return good


def _job_launcher(launcher: Any, config: DictConfig) -> JobLauncher:
    if not isinstance(launcher, JobLauncher):
        chosen = config.hydra.runtime.choices["hydra/launcher"]
        raise UserError(
            f"hydra/launcher={chosen}: cannot run a search; set hydra/launcher=processes or hydra/launcher=slurm"
        )
    return launcher
