"""Composes the jobs of a sweep fast: what Hydra reads from files for the first of them is copied for the others.

Hydra composes each job from nothing: 25 YAML files parsed, merged and resolved, 0.1 s a job, and it does so twice. But
the files that a job is made of depend only on its choices of config groups (`classifier=…`, `experiment=…`); whatever
else is overridden (`seed=…`, `optimizer.lr=…`) is set afterwards. So Hydra composes one template for each set of
choices, and each job is a copy of its template with its values set by Hydra's own function, in its own order.
tests/launch/test_template.py holds the result against Hydra's `load_sweep_config`, and the errors too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

__all__ = ["Composer"]


class Composer:
    """Composes jobs of one sweep; files are read once, so a composer is made anew for each sweep."""

    def __init__(self, loader: ConfigLoader, sweep: DictConfig) -> None:
        """Take Hydra's loader and the sweep's composed configuration, with Hydra's node."""
        self._loader, self._sweep = loader, sweep
        self._name: str = sweep.hydra.job.config_name
        self._hydra: list[str] = list(OmegaConf.to_container(sweep.hydra.overrides.hydra) or [])  # type: ignore[arg-type]  # a list
        self._parser = OverridesParser.create()
        self._templates: dict[tuple[str, ...], DictConfig] = {}
        # groups may also lie in a search path that the primary configuration or the command line names
        self._files = (
            loader._parse_overrides_and_create_caching_repo(self._name, self._hydra)[1]
            if isinstance(loader, ConfigLoaderImpl)
            else None
        )

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return what `loader.load_sweep_config(sweep, overrides)` would."""
        if self._files is None:  # not the loader that this was written for
            return self._loader.load_sweep_config(self._sweep, list(overrides))
        parsed = self._parser.parse_overrides(list(overrides))
        ConfigLoaderImpl.validate_sweep_overrides_legal(parsed, run_mode=RunMode.RUN, from_shell=True)
        choices = [o for o in parsed if self._is_choice(o)]
        key = tuple(str(o.input_line) for o in choices)
        if key not in self._templates:
            self._templates[key] = self._loader.load_configuration(
                self._name, [*self._hydra, *key], run_mode=RunMode.RUN
            )
        config = copy.deepcopy(self._templates[key])
        try:
            ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if not self._is_choice(o)], config)
        except OmegaConfBaseException as error:
            raise ConfigCompositionException from error
        self._say_what_was_asked(config, parsed)
        OmegaConf.copy_cache(from_config=self._sweep, to_config=config)  # the same time of day, the same name
        return config

    def _is_choice(self, override: Override) -> bool:
        """Say whether an override chooses files: Hydra's own rule (`hydra._internal.defaults_list.Overrides`)."""
        assert self._files is not None
        return not isinstance(override.value(), dict) and self._files.group_exists(override.key_or_group)

    def _say_what_was_asked(self, config: DictConfig, parsed: Sequence[Override]) -> None:
        hydra = config.hydra
        ours = [o for o in parsed if not o.is_hydra_override()]
        dirname = hydra.job.config.override_dirname
        with open_dict(config):
            hydra.overrides.task = [o.input_line for o in ours]
            hydra.job.override_dirname = get_overrides_dirname(
                ours, exclude_keys=dirname.exclude_keys, item_sep=dirname.item_sep, kv_sep=dirname.kv_sep
            )
