"""Reads what an offline W&B run left on the disk, with wandb's own protocol."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Offline", "read", "read_all"]


@dataclass(frozen=True)
class Offline:
    """One offline run: its records, in order, and its folder."""

    records: list[Any]
    folder: Path

    def of(self, kind: str) -> list[Any]:
        """Return the records of a kind: run, history, summary, metric, artifact, exit."""
        return [getattr(r, kind) for r in self.records if r.HasField(kind)]

    @property
    def run(self) -> Any:
        """The record that began it."""
        return self.of("run")[0]

    @property
    def config(self) -> dict[str, Any]:
        """Its configuration."""
        found = {u.key: json.loads(u.value_json) for u in self.run.config.update}
        for later in self.of("config"):
            found |= {u.key or u.nested_key[0]: json.loads(u.value_json) for u in later.update if u.key}
        return found

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Its history: a row for each log call, nested keys joined by dots."""
        return [{_key(i): json.loads(i.value_json) for i in row.item} for row in self.of("history")]

    @property
    def summary(self) -> dict[str, Any]:
        """Its summary at the end; nested keys joined by dots where they were set apart."""
        found: dict[str, Any] = {}
        for one in self.of("summary"):
            found |= {_key(u): json.loads(u.value_json) for u in one.update}
        return found

    @property
    def metrics(self) -> dict[str, Any]:
        """Its `define_metric` records by name."""
        return {m.name: m for m in self.of("metric")}

    @property
    def made(self) -> dict[str, Any]:
        """The artifacts that it logged, by name; those of its tables are W&B's own and left out."""
        return {
            a.name: a for a in self.of("artifact") if not a.use_after_commit and not a.name.startswith("run-")
        }

    @property
    def used(self) -> dict[str, Any]:
        """The artifacts that it says it used, by name."""
        return {a.name: a for a in self.of("artifact") if a.use_after_commit}


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def read(folder: Path, kind: str | None = None) -> Offline:
    """Return the one offline run below `folder`, or the one of a job type."""
    found = [one for one in read_all(folder) if kind is None or one.run.job_type == kind]
    assert len(found) == 1, [one.folder.name for one in found]
    return found[0]


def read_all(folder: Path) -> list[Offline]:
    """Return all offline runs below `folder` in the order of their start, each whole.

    `finish` returns before wandb's service process has written everything: wait for the record that ends a run.
    """
    deadline = time.monotonic() + 60
    runs = []
    for file in sorted(folder.rglob("offline-run-*/run-*.wandb")):
        while not (one := Offline(_records(file), file.parent)).of("exit"):
            assert time.monotonic() < deadline, f"the end of {file} was never written"
            time.sleep(0.05)
        runs.append(one)
    return runs


def _records(file: Path) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    found = []
    for chunk in _chunks(file.read_bytes()):
        found.append(wandb_internal_pb2.Record())
        found[-1].ParseFromString(chunk)
    return found


def _chunks(data: bytes) -> Iterator[bytes]:
    """Return the records of a .wandb file: a 7-byte header, then LevelDB's log format in blocks of 32 KiB.

    wandb itself reads it in compiled code only. A record that is still being written is left for the next look.
    """
    if len(data) < 7:
        return
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        if kind == 0:  # padding at the end of a block
            at += left
            continue
        if at + 7 + size > len(data):
            return
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # full, last
            yield whole
            whole = b""
