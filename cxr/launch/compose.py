"""All jobs of a sweep, composed and checked before the first starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from cxr.config import check_config, explain, plain
from cxr.errors import UserError
from cxr.launch.job import Job, shown
from cxr.run import planned_run

__all__ = ["compose_jobs", "refuse_problems", "sweep_folder"]


def sweep_folder(config: DictConfig) -> Path:
    """Return the folder of the sweep of a composed sweep configuration."""
    return Path(str(config.hydra.sweep.dir)).resolve()


def compose_jobs(
    loader: ConfigLoader, config: DictConfig, job_overrides: Sequence[Sequence[str]], first: int
) -> list[Job]:
    """Compose and check every job; a job that cannot run carries its `problem`, one line."""
    folder, outer = sweep_folder(config), HydraConfig.instance().cfg
    jobs = []
    for number, overrides in enumerate(job_overrides, first):
        job = Job(number, list(overrides), folder / str(number))
        try:
            _compose(job, loader, config)
        except Exception as error:
            if (message := explain(error)) is None:
                raise
            job.problem = message
        finally:
            HydraConfig.instance().cfg = outer
        jobs.append(job)
    return jobs


def _compose(job: Job, loader: ConfigLoader, outer: DictConfig) -> None:
    config = loader.load_sweep_config(outer, list(job.overrides))
    with open_dict(config):
        config.hydra.job.id, config.hydra.job.num = str(job.number), job.number
        config.hydra.runtime.output_dir = str(job.folder)
    HydraConfig.instance().set_config(config)
    hydra = config.hydra
    with open_dict(config):
        del config["hydra"]
    check_config(config)
    job.config = config
    exclude = hydra.job.config.override_dirname.exclude_keys
    job.plan = planned_run(plain(config), hydra.runtime.choices, list(hydra.overrides.task), exclude)
    if job.plan is not None:
        job.before, _ = job.plan.standing()
        job.run = job.plan.path


def refuse_problems(jobs: Sequence[Job]) -> None:
    """Tell all that is wrong, one line a job, and refuse the sweep if anything is; two jobs may not share a run.

    Raises:
        UserError: some job cannot run.
    """
    taken: dict[Path, int] = {}
    for job in jobs:
        if job.plan is not None and not job.problem:
            other = taken.setdefault(job.plan.path, job.number)
            if other != job.number:
                job.problem = (
                    f"name: {job.plan.name} is also the run of job {other}; leave name=… out, or sweep it too"
                )
    bad = [job for job in jobs if job.problem]
    for job in bad:
        print(f"error: job {job.number} ({shown(job.overrides)}): {job.problem}", file=sys.stderr)
    if bad:
        raise UserError(f"{len(bad)} of {len(jobs)} jobs cannot run; none was started")
