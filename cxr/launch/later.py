"""A plugin that is imported when it is used: Hydra imports all of them at every start, and uses two in a sweep."""

from __future__ import annotations

import importlib
import inspect
from abc import ABCMeta
from typing import Any

__all__ = ["Later"]


class Later(ABCMeta):
    """Makes the class that stands where Hydra looks for a plugin; a call of it builds the class `of` the same name.

    Hydra wants a class below `hydra_plugins` that is a Launcher or a Sweeper and is not abstract, and calls it.
    """

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], *, of: str) -> Later:
        """Make it; `of` is the module of the class that it stands for."""
        made = super().__new__(cls, name, bases, body)
        made.module = of
        made.__abstractmethods__ = frozenset()
        return made

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], *, of: str) -> None:
        super().__init__(name, bases, body)

    module: str

    @property
    def real(cls) -> type:
        """Return the class that it stands for."""
        found: type = getattr(importlib.import_module(cls.module), cls.__name__)
        return found

    @property
    def __signature__(cls) -> inspect.Signature:
        """What `inspect.signature` shows, for the message about a key that there is not."""
        return inspect.signature(cls.real)

    def __call__(cls, *values: Any, **named: Any) -> Any:
        """Build the real one: a launcher's keys are checked against its own constructor."""
        return cls.real(*values, **named)
