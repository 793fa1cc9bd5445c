"""Text that may leave the machine: no home folder, no key, no password."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["clean"]

SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW", re.IGNORECASE)
SHORTEST_SECRET = 8  # characters: a shorter value may be a word that stands anywhere
NAME_CHARACTERS = re.compile(r"[^A-Za-z0-9._+-]+")  # as in a run's name, which may hold a path that was typed


def clean(value: Any) -> Any:
    """Return plain containers in which the home folder is `~` and the value of any secret variable is `***`.

    A secret is what an environment variable holds whose name says key, token, secret or password. Paths become text.
    """
    if isinstance(value, Mapping):
        return {clean(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if not isinstance(value, (str, Path)):
        return value
    text = str(value)
    for secret in _secrets():
        text = text.replace(secret, "***")
    for home in _homes():
        text = re.sub(re.escape(home) + r"(?=$|[^\w.-])", "~", text)
        if home.count("/") > 1:  # /home/me, not /root
            text = text.replace(NAME_CHARACTERS.sub("-", home), "-home")
    return text


def _secrets() -> list[str]:
    named = {value for name, value in os.environ.items() if SECRET.search(name) and not name.endswith("FILE")}
    return sorted((value for value in named if len(value) >= SHORTEST_SECRET), key=len, reverse=True)


def _homes() -> list[str]:
    """Return the home folder as named and as it is behind links; none where it is the root of all."""
    try:
        home = Path.home()
    except RuntimeError:  # a container's user without one
        return []
    return sorted({str(home), str(home.resolve())} - {"/"}, key=len, reverse=True)
