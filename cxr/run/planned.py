"""The run that a training command would open: its folder, its identity, and how it stands now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr.run.folder import Run, State, load_state, read_status
from cxr.run.naming import default_name, identity

__all__ = ["PlannedRun", "planned_run"]

TRAIN = "cxr.script.train.train"


@dataclass(frozen=True)
class PlannedRun:
    """A run before it is opened.

    Attributes:
        runs_dir, name: its folder is `runs_dir/name`.
        config: the configuration that it will keep, with `name` and `experiment` filled in.
        identity: what of it can change a result.
    """

    runs_dir: Path
    name: str
    config: dict[str, Any]
    identity: dict[str, Any]

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.runs_dir / self.name

    def standing(self) -> tuple[State, dict[str, Any]]:
        """Return how the run stands now and its status ({} for a new one); locks and writes nothing.

        `running`: a live process has it. `interrupted`, `failed`: the same command goes on from its last checkpoint.

        Raises:
            UserError: the name belongs to another configuration (told key by key).
        """
        run = Run(self.path, self.name, "new", self.config, self.identity)
        state = load_state(run)
        if state == "interrupted" and read_status(self.path)["state"] == "running":
            state = "running"
        return state, run.status


def planned_run(
    values: Mapping[str, Any], choices: Mapping[str, Any], overrides: Sequence[str], exclude: Sequence[str]
) -> PlannedRun | None:
    """Return the run of a checked training configuration; None for the programs that open none.

    Args:
        values: the configuration, plain containers.
        choices: what Hydra chose for each config group.
        overrides: those of the command, Hydra's own left out.
        exclude: keys that are no part of a default name (`hydra.job.config.override_dirname.exclude_keys`).
    """
    if values.get("_target_") != TRAIN:
        return None
    experiment: str | None = choices.get("experiment")
    base = str(experiment or choices.get("task") or "run").replace("/", "-")
    name = values["name"] or default_name(base, overrides, exclude)
    config = {**values, "name": name, "experiment": experiment}
    return PlannedRun(Path(values["runs_dir"]), str(name), config, identity(config))
