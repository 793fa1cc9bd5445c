"""Hashes of files that were read before, so that a second run does not read all of them again.

    <cache dir>/hashes-<digest of the folder>.json    of every file of a data set: size, times, inode, SHA-256

A hash is believed while the file's path, size, time of change (mtime), time of its entry's change (ctime) and inode
are what they were when it was read. ctime is what makes this more than `make` does: a program can set a file's mtime
back, `cp -p` and `rsync -t` do, but not its ctime. What is left is the known limit: a file whose bytes change with neither
size nor times, as a network disk with a coarse or wrong clock may show it, or a disk written to past its file system.
`cache.rehash=true` reads every file again and believes nothing.

Like git's index it keeps no file that changed within the last moments before it was read: such a file could change once more
in the same tick of the clock. A store that is damaged, or of another format, is thrown away whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from cxr.files import digest, write_text

__all__ = ["HashStore"]

FORMAT = 1
SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system in use (FAT)
CHUNK = 512  # files that a thread looks at before it takes the next ones

Facts = tuple[int, int, int, int]  # size in bytes, mtime and ctime in ns, inode
Reader = Callable[[Sequence[Path]], list[str]]


class HashStore:
    """The hashes of the files below `folder`, kept in `directory`.

    `rehash`: believe nothing that is kept, and write it anew.
    """

    def __init__(self, directory: Path, folder: Path, *, rehash: bool) -> None:
        self.folder = folder.expanduser().absolute()
        self.file = directory.expanduser() / f"hashes-{digest(str(self.folder))}.json"
        self.rehash = rehash

    def hashes(self, paths: Sequence[Path], read: Reader) -> list[str]:
        """Return the SHA-256 of every file, in order; `read` gives those of files that are not known, or not any more.

        A file that cannot be looked at is left to `read`, which says why.
        """
        names = [str(path.absolute()) for path in paths]
        known = {} if self.rehash else self._load()
        facts = _facts(names)
        found: dict[str, str] = {}
        for name, now in facts.items():
            kept, sha256 = known.get(name, (None, ""))
            if now is not None and now == kept:
                found[name] = sha256
        unread = [i for i, name in enumerate(names) if name not in found]
        if unread:
            newest = time.time_ns() - SETTLED_NS
            for i, sha256 in zip(unread, read([paths[i] for i in unread]), strict=True):
                found[names[i]] = sha256
            again = _facts(names[i] for i in unread)
            for i in unread:
                name, now = names[i], facts[names[i]]
                known.pop(name, None)
                if now is not None and now == again[name] and max(now[1:3]) < newest:
                    known[name] = (now, found[name])
            self._save(known)
        return [found[name] for name in names]

    def _load(self) -> dict[str, tuple[Facts, str]]:
        """Return what is kept; nothing where there is no store, or one that is not as it was written."""
        try:
            head, _, body = self.file.read_text(encoding="ascii").partition("\n")
        except (OSError, UnicodeDecodeError):
            return {}
        if head != _head(body):
            return {}
        kept: dict[str, tuple[int, int, int, int, str]] = json.loads(body)
        return {name: ((size, mtime, ctime, inode), sha256)
                for name, (size, mtime, ctime, inode, sha256) in kept.items()}  # fmt: skip

    def _save(self, known: dict[str, tuple[Facts, str]]) -> None:
        body = json.dumps({name: [*facts, sha256] for name, (facts, sha256) in known.items()})
        with suppress(OSError):  # somebody else's cache, a full disk: the files are read again next time
            write_text(self.file, f"{_head(body)}\n{body}")


def _head(body: str) -> str:
    return f"cxr hashes {FORMAT} {hashlib.sha256(body.encode()).hexdigest()}"


def _facts(names: Iterable[str]) -> dict[str, Facts | None]:
    """Return size, times and inode of files by name, None of one that cannot be looked at; threads look."""
    listed = list(dict.fromkeys(names))

    def look(start: int) -> list[Facts | None]:
        return [_fact(name) for name in listed[start : start + CHUNK]]

    with ThreadPoolExecutor(max_workers=8) as pool:  # a network disk answers after a while, but many at once
        found = [fact for chunk in pool.map(look, range(0, len(listed), CHUNK)) for fact in chunk]
    return dict(zip(listed, found, strict=True))


def _fact(name: str) -> Facts | None:
    try:
        stat = os.stat(name)  # noqa: PTH116  a Path for each of 100,000 files takes longer than looking
    except (OSError, ValueError):
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
