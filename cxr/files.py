"""Files that are either whole or absent: atomic writes, hashes, JSON.

Everything a stage leaves is written under a temporary name beside its target and renamed
when complete, so that a killed process leaves the old file or the new one, never half.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cxr.errors import UserError

__all__ = [
    "atomic_path",
    "below",
    "digest",
    "file_sha256",
    "locked",
    "read_json",
    "read_parquet",
    "remove_unfinished",
    "write_json",
    "write_text",
]


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it there on success, remove it on failure.

    The temporary file is locked while it is written (flock), so that what a killed process left is known from what a
    living one writes: it goes when `target` is written again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(target.parent, target)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
    temporary = Path(name)
    try:
        _lock(handle)
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes 0600; a shared disk wants the user's umask
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    except OSError as error:  # a full disk's says no name, or the temporary one
        if error.errno is None or error.filename not in (None, name):
            raise
        raise OSError(error.errno, error.strerror, str(target)) from None
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def remove_unfinished(folder: Path, target: Path | None = None) -> None:
    """Remove what killed processes left of `atomic_path` in a folder: of `target`, or of whatever was written there."""
    named = r"\..+" if target is None else re.escape(f".{target.name}")
    for left in os.scandir(folder) if folder.is_dir() else ():  # as mkstemp names them
        if (
            left.name[0] == "."
            and re.fullmatch(rf"{named}\.[a-z0-9_]{{8}}(\.[^.]+)?", left.name)
            and left.is_file()
        ):
            with suppress(OSError):  # gone by now, or not ours
                handle = os.open(left.path, os.O_RDONLY)
                try:
                    if _lock(handle):
                        Path(left.path).unlink()
                finally:
                    os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file; return whether no other process has. Where a disk knows no locks, nobody has."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def locked(path: Path, waits: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on a file made for it; the system frees it when the process dies, however it dies.

    It is asked for again and again: who waits inside `flock` hears no signal. `waits` is called once where another
    process has it.
    """
    with path.open("w") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    waits()
                    told = True
                time.sleep(0.1)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def write_text(target: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically; NaN is refused (not JSON)."""
    write_text(target, json.dumps(value, indent=2, sort_keys=True, allow_nan=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or truncated one is a `UserError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a JSON file that an earlier stage wrote") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # no JSON, no UTF-8; numbers of thousands of digits, such nesting
        raise UserError(
            f"{path}: not valid JSON ({error}); delete it and run the stage that wrote it again"
        ) from None


def read_parquet(path: Path, expected: str) -> Any:
    """Read a parquet file as a pandas table; what is none, or a damaged one, is a `UserError` that ends in `expected`."""
    import pandas as pd  # here: what starts a job has no need of it

    try:
        return pd.read_parquet(path)
    except Exception as error:  # Arrow's reader raises a dozen kinds where bytes are not what they were
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: not a parquet file ({told}); expected {expected}") from None


def below(folder: Path, name: str, key: str) -> Path:
    """Return `folder`/`name`; a name that leads out of the folder (`..`, an absolute one) is a `UserError` on `key`.

    Links are followed: whoever put one into the folder may have it on another disk.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).parts:
        raise UserError(
            f"{key}: got {name!r}, expected a name below {folder}; set {key}=NAME, and the folder by its own key"
        )
    return folder / name


def file_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _sha256(file)
        )


def _sha256(file: Any) -> str:
    """`hashlib.file_digest` for Python 3.10, which lacks it."""
    sha = hashlib.sha256()
    while chunk := file.read(1 << 20):
        sha.update(chunk)
    return sha.hexdigest()


def digest(value: Any, length: int = 16) -> str:
    """Return the first `length` hex digits of the SHA-256 of a JSON-able value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
