"""What may leave the machine: text without home folder, key or password, and images without the patient's name.

Ids are replaced by an HMAC under a key that never leaves, not by a plain hash: ids are few and orderly
("00000013_005.png"), so whoever has a list of them hashes it and looks each up.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

__all__ = ["KEY_FILE", "Ids", "ShareIds", "clean", "clean_page", "homes"]

ShareIds = Literal["hashed", "plain"]

KEY_FILE = ".share_key"  # in the folder of the runs; 32 random bytes, readable by their owner
DIGITS = 12  # of an id that is shared: among 112,120 images, two are alike once in 45,000 data sets
PICTURE = re.compile(r"(data:image/[^\"]*)")

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
    for home in homes():
        text = re.sub(re.escape(home) + r"(?=$|[^\w.-])", "~", text)
        if home.count("/") > 1:  # /home/me, not /root
            text = text.replace(NAME_CHARACTERS.sub("-", home), "-home")
    return text


def clean_page(text: str) -> str:
    """Return a page in HTML as `clean` does its text; the pictures inside are left alone (letters at random)."""
    parts = PICTURE.split(text)
    return "".join(part if number % 2 else str(clean(part)) for number, part in enumerate(parts))


class Ids:
    """Names images and patients for those who are shown them: the same name for the same id, below one folder of runs."""

    def __init__(self, runs_dir: Path, share: ShareIds) -> None:
        """Take the key of `runs_dir`, made now if there is none; where none can be kept, names last for this object."""
        self._key = _key(runs_dir) if share == "hashed" else None

    def __call__(self, own: str) -> str:
        """Return "id-" and 12 hex digits of HMAC-SHA256, or the id itself where plain ones were asked for."""
        if self._key is None:
            return own
        return f"id-{hmac.new(self._key, own.encode(), hashlib.sha256).hexdigest()[:DIGITS]}"


def _key(folder: Path) -> bytes:
    file = folder / KEY_FILE
    try:
        if not file.is_file():
            handle, name = tempfile.mkstemp(prefix=f"{KEY_FILE}.", dir=folder)  # 0600
            try:
                with os.fdopen(handle, "wb") as written:
                    written.write(secrets.token_bytes(32))
                os.link(name, file)  # whole, and by the first of several processes
            except FileExistsError:
                pass
            finally:
                Path(name).unlink()
        key = file.read_bytes()
    except OSError:  # a folder that is not ours to write in
        return secrets.token_bytes(32)
    return key if len(key) == 32 else secrets.token_bytes(32)


def _secrets() -> list[str]:
    named = {value for name, value in os.environ.items() if SECRET.search(name) and not name.endswith("FILE")}
    return sorted((value for value in named if len(value) >= SHORTEST_SECRET), key=len, reverse=True)


def homes() -> list[str]:
    """Return the home folder as named and as it is behind links; none where it is the root of all."""
    try:
        home = Path.home()
    except RuntimeError:  # a container's user without one
        return []
    return sorted({str(home), str(home.resolve())} - {"/"}, key=len, reverse=True)
