"""What Hydra does over and over before it answers `--help`, done once.

For each line of the groups that it lists (180 times) it parses the command line and copies its whole repository of
configurations: half of what `--help` took. The files do not change between two lines of one answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.object_type import ObjectType

__all__ = ["one_repository_for_lists"]


@contextmanager
def one_repository_for_lists() -> Iterator[None]:
    """Inside the block, a loader asked again for the choices of a group looks in the repository that it has made.

    Hydra offers no hook. What composes a configuration goes another way and is left alone.
    """
    original = ConfigLoaderImpl.get_group_options
    made: dict[tuple[int, str | None, tuple[str, ...]], CachingConfigRepository] = {}

    def options(
        self: ConfigLoaderImpl,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: Sequence[str] | None = None,
    ) -> list[str]:
        words = list(overrides or ())
        key = id(self), config_name, tuple(words)
        if key not in made:
            _, made[key] = self._parse_overrides_and_create_caching_repo(config_name, words)
        return made[key].get_group_options(group_name, results_filter)

    ConfigLoaderImpl.get_group_options = options  # type: ignore[method-assign]  # as said above
    try:
        yield
    finally:
        ConfigLoaderImpl.get_group_options = original  # type: ignore[method-assign]
