"""What Hydra composes before the first job of a sweep.

Before it knows the jobs, Hydra composes one configuration to find the sweeper and the launcher, and leaves out what is
swept. `-m experiment=talukdar/cnn,talukdar/gan data.root=…` then has no experiment, so `data` is not the experiment's
and has no `root`, and the sweep is refused although each of its jobs is right. Here the first job's values stand in for
what is swept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

__all__ = ["first_job", "first_job_stands_in"]


def first_job(overrides: Sequence[str]) -> list[str]:
    """Return overrides with the first value of each that is swept; a range without one is left out."""
    found = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if not override.is_sweep_override():
            found.append(str(override.input_line))
        elif override.is_discrete_sweep():
            found.append(f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}")
    return found


@contextmanager
def first_job_stands_in() -> Iterator[None]:
    """Let Hydra compose sweeps so, inside the block: it offers no hook between its parser and its composition."""
    original = ConfigLoaderImpl._load_configuration_impl

    def load(
        self: ConfigLoaderImpl,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        *rest: Any,
        **named: Any,
    ) -> DictConfig:
        if run_mode != RunMode.MULTIRUN:
            return original(self, config_name, overrides, run_mode, *rest, **named)
        config = original(self, config_name, first_job(overrides), run_mode, *rest, **named)
        parsed = OverridesParser.create().parse_overrides(overrides)
        config.hydra.overrides.task = [o.input_line for o in parsed if not o.is_hydra_override()]
        return config

    ConfigLoaderImpl._load_configuration_impl = load  # type: ignore[method-assign]  # as said above
    try:
        yield
    finally:
        ConfigLoaderImpl._load_configuration_impl = original  # type: ignore[method-assign]
