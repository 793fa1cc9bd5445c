"""`hydra/sweeper=grid`: every combination of what was swept, as Hydra's own sweeper, whose words this takes over.

Hydra's composes every job before it hands them to the launcher, which composes them again, and stops at the first that
it cannot compose. Our launchers check all jobs and tell everything that is wrong; and `hydra/launcher=plan` is to
leave nothing behind, where Hydra's sweeper writes a file first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from cxr.launch.base import JobLauncher

__all__ = ["GridSweeper"]


class GridSweeper(BasicSweeper):
    """Run the jobs of a grid in one batch.

    Args:
        params: overrides that every sweep has, by key, values with commas; those of the command line come after.
    """

    def __init__(self, params: dict[str, str] | None) -> None:
        super().__init__(max_batch_size=None, params=params)

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Start the launcher with all jobs of the grid."""
        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        [jobs] = self.split_arguments(parser.parse_overrides([*self._parse_config(), *arguments]), None)
        if not isinstance(self.launcher, JobLauncher) or self.launcher.starts_jobs:
            folder = Path(str(self.config.hydra.sweep.dir))
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.config, folder / "multirun.yaml")
        returned = self.launcher.launch(jobs, initial_job_idx=0)
        for job in returned:
            _ = job.return_value  # raises what ended it
        return [returned]
