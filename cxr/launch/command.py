"""A job as a command of its own: `python -m <script> <its overrides>` in plain RUN mode, in a clean environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from hydra.types import TaskFunction
from omegaconf import DictConfig

from cxr.launch.job import OPENED, Job
from cxr.run import POINTER, SWEEP
from cxr.search.trial import TRIAL

__all__ = ["clean", "command", "environment", "importable"]

# What one job must not inherit from another, or from whatever distributed job we are part of.
FOREIGN = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "WANDB_RUN_ID", "WANDB_RUN_NAME", "HYDRA_FULL_ERROR"),
    *(POINTER, SWEEP, TRIAL),
)
FOREIGN_PREFIXES = ("PL_", "TORCHELASTIC_", "WANDB_SERVICE")
# The sweep's, not a job's.
OURS = ("hydra.launcher", "hydra.sweeper", "hydra.sweep.", "hydra.mode", "hydra.run.")


def command(job: Job, config: DictConfig, task_function: TaskFunction) -> list[str]:
    """Return the words that start a job; `config` is the sweep's, with Hydra's node."""
    hydra = config.hydra
    extra = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
    passed_on = [o for o in hydra.overrides.hydra if not o.lstrip("+~").replace("/", ".").startswith(OURS)]
    run_dir = str(job.folder).replace("'", "\\'")
    return [
        *_program(task_function),
        *(f"--config-dir={path}" for path in extra),
        f"--config-name={hydra.job.config_name}",
        *job.overrides,
        *passed_on,
        "hydra.mode=RUN",
        f"hydra.run.dir='{run_dir}'",
    ]


def environment(job: Job, sweep: str) -> dict[str, str]:
    """Return what a job adds to a clean environment: where to name its run, and the sweep it belongs to."""
    return {"PYTHONUNBUFFERED": "1", POINTER: str(job.folder / OPENED), SWEEP: sweep, **job.variables}


def clean(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what belongs to another job, in which a new interpreter finds this cxr."""
    kept = {k: v for k, v in inherited.items() if k not in FOREIGN and not k.startswith(FOREIGN_PREFIXES)}
    return importable(kept)


def importable(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a new interpreter finds this cxr: that of a checkout may not be installed."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "pyproject.toml").is_file():
        return dict(environment)
    path = os.pathsep.join(filter(None, [str(checkout), environment.get("PYTHONPATH")]))
    return {**environment, "PYTHONPATH": path}


def _program(task_function: TaskFunction) -> list[str]:
    """Return the command that starts the script of a task function in a new interpreter."""
    module = task_function.__module__
    if module == "__main__":
        spec = sys.modules["__main__"].__spec__
        if spec is None:
            return [sys.executable, str(Path(sys.argv[0]).resolve())]
        module = spec.name
    return [sys.executable, "-m", module]
