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
    """Composes jobs of one program; files are read once, so a composer is made anew for each sweep."""

    def __init__(self, loader: ConfigLoader, name: str, hydra: Sequence[str] = ()) -> None:
        """Take Hydra's loader, the configuration's name, and overrides of Hydra's own node that all jobs have."""
        self._loader, self._name, self._hydra = loader, name, list(hydra)
        self._parser = OverridesParser.create()
        self._templates: dict[tuple[str, ...], DictConfig] = {}
        # groups may also lie in a search path that the primary configuration or the command line names
        self._files = (
            loader._parse_overrides_and_create_caching_repo(name, self._hydra)[1]
            if isinstance(loader, ConfigLoaderImpl)
            else None
        )

    @classmethod
    def of_sweep(cls, loader: ConfigLoader, sweep: DictConfig) -> Composer:
        """Return the composer of a sweep's jobs; `sweep` is its composed configuration, with Hydra's node."""
        return cls(loader, sweep.hydra.job.config_name, list(sweep.hydra.overrides.hydra))

    def compose(self, overrides: Sequence[str], sweep: DictConfig | None = None) -> DictConfig:
        """Return what `loader.load_configuration(name, hydra + overrides)` would.

        Args:
            sweep: what it has resolved (the time of day, its name) its jobs share: `loader.load_sweep_config`.
        """
        parsed = self._parser.parse_overrides(list(overrides))
        if self._files is None or any(
            o.key_or_group == "hydra.searchpath" for o in parsed
        ):  # not known to us
            config = self._loader.load_configuration(
                self._name, [*self._hydra, *overrides], run_mode=RunMode.RUN
            )
        else:
            config = self._from_template(parsed)
        if sweep is not None:
            OmegaConf.copy_cache(from_config=sweep, to_config=config)
        return config

    def _from_template(self, parsed: Sequence[Override]) -> DictConfig:
        ConfigLoaderImpl.validate_sweep_overrides_legal(list(parsed), run_mode=RunMode.RUN, from_shell=True)
        key = tuple(str(o.input_line) for o in parsed if self._is_choice(o))
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
            hydra.overrides.hydra = [*self._hydra, *(o.input_line for o in parsed if o.is_hydra_override())]
            hydra.job.override_dirname = get_overrides_dirname(
                ours, exclude_keys=dirname.exclude_keys, item_sep=dirname.item_sep, kv_sep=dirname.kv_sep
            )
