"""All jobs of a sweep, composed and checked before the first starts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from cxr.config import check_config, explain, plain
from cxr.errors import UserError
from cxr.files import digest
from cxr.launch.job import Job, shown
from cxr.launch.template import Composer
from cxr.run import PlannedRun, holder, machine_values, planned_run, read_config

__all__ = ["compose_jobs", "mark_conflicts", "refuse_problems", "sweep_folder"]


def sweep_folder(config: DictConfig) -> Path:
    """Return the folder of the sweep of a composed sweep configuration."""
    return Path(str(config.hydra.sweep.dir)).resolve()


def compose_jobs(
    loader: ConfigLoader, config: DictConfig, job_overrides: Mapping[int, Sequence[str]]
) -> list[Job]:
    """Compose and check every job, by number; a job that cannot run carries its `problem`, one line."""
    folder, outer = sweep_folder(config), HydraConfig.instance().cfg
    composer, door = Composer.of_sweep(loader, config), _Door()
    jobs = []
    for number, overrides in job_overrides.items():
        job = Job(number, list(overrides), folder / str(number))
        try:
            _compose(job, composer.compose(job.overrides, config), door)
        except Exception as error:
            if (message := explain(error)) is None:
                raise
            job.problem = message
        finally:
            HydraConfig.instance().cfg = outer
        jobs.append(job)
    return jobs


def _compose(job: Job, config: DictConfig, door: _Door) -> None:
    with open_dict(config):
        config.hydra.job.id, config.hydra.job.num = str(job.number), job.number
        config.hydra.runtime.output_dir = str(job.folder)
    HydraConfig.instance().set_config(config)
    hydra = config.hydra
    with open_dict(config):
        del config["hydra"]
    job.config = config
    exclude = hydra.job.config.override_dirname.exclude_keys
    values = plain(config)
    if not _has_place(values):
        check_config(config)  # and so tells what is wrong with its place
    job.plan = planned_run(values, hydra.runtime.choices, list(hydra.overrides.task), exclude)
    if job.plan is None:
        check_config(config)
        return
    job.run = job.plan.path
    try:
        job.before, _ = job.plan.standing()
    except UserError:  # another configuration under this name
        check_config(config)  # what is wrong with this one comes first
        raise
    door.check(config, job)


def _has_place(values: Mapping[str, Any]) -> bool:
    """Say whether the run folder can be named: other values of these keys are the door's to refuse."""
    return isinstance(values.get("runs_dir"), str) and isinstance(values.get("name", ""), str | None)


class _Door:
    """`check_config`, spared where it has let the very same in before.

    A finished run is not started, so its images need not be here any more. What its result depends on (its identity)
    came through the door when it ran; what does not (`cxr.run.naming.MACHINE_KEYS`: places, workers, logger) is
    compared with what it ran with, once for all jobs that share it. So a sweep that is finished imports no torch.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def check(self, config: DictConfig, job: Job) -> None:
        """Refuse the job's configuration as `check_config` does."""
        assert job.plan is not None
        if job.before != "finished":
            check_config(config)
            return
        ours = digest(_machine(job.plan.config))
        if ours not in self._known and not _ran_with(job.plan, ours):
            check_config(config, find_data=False)
        self._known.add(ours)


def _machine(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in machine_values(config).items() if key != "name"}


def _ran_with(plan: PlannedRun, machine: str) -> bool:
    try:
        return digest(_machine(read_config(plan.path))) == machine
    except UserError:  # none, or none of ours: this job's own goes through the door
        return False


def mark_conflicts(jobs: Sequence[Job], joins_running: bool = False) -> None:
    """Give every job its `problem` whose run is also an earlier job's, or is some other process's now.

    Args:
        joins_running: that process may be the job itself, started before by such a launcher: it is no conflict.
    """
    taken: dict[Path, int] = {}
    for job in jobs:
        if job.plan is not None and not job.problem:
            other = taken.setdefault(job.plan.path.resolve(), job.number)
            if other != job.number:
                job.problem = (
                    f"name: {job.plan.name} is also the run of job {other}; leave name=… out, or sweep it too"
                )
            elif job.before == "running" and not joins_running:
                job.problem = f"{job.plan.path}: in use by {holder(job.plan.path)}; wait for it or stop it"


def refuse_problems(jobs: Sequence[Job], joins_running: bool = False) -> None:
    """Tell all that is wrong, one line a job, and refuse the sweep if anything is; two jobs may not share a run.

    Args:
        joins_running: see `mark_conflicts`.

    Raises:
        UserError: some job cannot run.
    """
    mark_conflicts(jobs, joins_running)
    bad = [job for job in jobs if job.problem]
    for job in bad:
        print(f"error: job {job.number} ({shown(job.overrides)}): {job.problem}", file=sys.stderr)
    if bad:
        raise UserError(f"{len(bad)} of {len(jobs)} jobs cannot run; none was started")
