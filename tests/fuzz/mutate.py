"""From a good file and a list of edits to a bad one: plain, repeatable, imported by the child alone.

An edit is JSON, so that a test can send it and a report can show it:

    ["flip", at, bit]  ["byte", at, value]  ["cut", at]  ["drop", at, n]  ["copy", from, to, n]
    ["int", at, width, value, "<" | ">"]  ["text", at, text]  ["splice", at, seed]
    ["json", which, value]  ["lose", which]      of a JSON or YAML document: one value replaced, one key lost

`at` is a position modulo the length. `inside` says what of the file is edited: all of it (`whole`), or a part
which is then put back so that the file is consistent again (a checksum, a zip's directory), lest every
input end at the first check.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import yaml

__all__ = ["mutated"]

Edit = Sequence[Any]
PNG = b"\x89PNG\r\n\x1a\n"


def mutated(seeds: Sequence[bytes], seed: int, inside: str, edits: Sequence[Edit]) -> bytes:
    """Return the seed of that number with the edits made in its part `inside`."""
    data = seeds[seed % len(seeds)]
    part, put_back = PARTS[inside](data)
    for edit in edits:
        part = DOCUMENT[inside](part, edit) if inside in DOCUMENT else _edit(part, edit, seeds)
    return put_back(part)


def _edit(data: bytes, edit: Edit, seeds: Sequence[bytes]) -> bytes:
    if not data:
        return data
    kind, at, *more = edit
    at %= len(data)
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ (1 << more[0])]) + data[at + 1 :]
    if kind == "byte":
        return data[:at] + bytes([more[0]]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "drop":
        return data[:at] + data[at + more[0] :]
    if kind == "copy":
        to, n = more[0] % len(data), more[1]
        return data[:to] + data[at : at + n] + data[to:]
    if kind == "int":
        width, value, order = more
        return (
            data[:at]
            + struct.pack(order + {2: "H", 4: "I", 8: "Q"}[width], value % 256**width)
            + data[at + width :]
        )
    if kind == "text":
        return data[:at] + str(more[0]).encode("utf-8", "surrogatepass") + data[at:]
    if kind == "splice":
        other = seeds[more[0] % len(seeds)]
        return data[:at] + other[at % max(1, len(other)) :]
    raise ValueError(kind)


def _whole(data: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    return data, lambda part: part


def _png(data: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    """The whole of a PNG, its chunks' checksums right again afterwards; another format as it is."""

    def mend(part: bytes) -> bytes:
        if not part.startswith(PNG):
            return part
        out, at = bytearray(part), 8
        while at + 12 <= len(part):
            end = at + 8 + struct.unpack_from(">I", part, at)[0]
            if end + 4 > len(part):
                break
            struct.pack_into(">I", out, end, zlib.crc32(part[at + 4 : end]))
            at = end + 4
        return bytes(out)

    return data, mend


def _entry(suffix: str) -> Callable[[bytes], tuple[bytes, Callable[[bytes], bytes]]]:
    """One file of a zip, the archive made anew around it; what is no zip as it is."""

    def part(data: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
        if not zipfile.is_zipfile(io.BytesIO(data)):
            return _whole(data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        chosen = next(name for name in entries if name.endswith(suffix))

        def put_back(part: bytes) -> bytes:
            target = io.BytesIO()
            with zipfile.ZipFile(target, "w") as archive:
                for name, content in entries.items():
                    archive.writestr(name, part if name == chosen else content)
            return target.getvalue()

        return entries[chosen], put_back

    return part


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of every value in a document."""
    pairs = (
        list(node.items())
        if isinstance(node, dict)
        else list(enumerate(node))
        if isinstance(node, list)
        else []
    )
    return [place for key, child in pairs for place in [(node, key), *_places(child)]]


def _document(load: Callable[[str], Any], dump: Callable[[Any], str]) -> Callable[[bytes, Edit], bytes]:
    def edit(data: bytes, edit: Edit) -> bytes:
        kind, which, *value = edit
        root = load(data.decode())
        places = _places(root)
        if kind == "json" and (not places or which % (len(places) + 1) == len(places)):
            root = value[0]
        elif places:
            container, key = places[which % len(places)]
            if kind == "json":
                container[key] = value[0]
            else:
                del container[key]
        return dump(root).encode("utf-8", "surrogatepass")

    return edit


PARTS: dict[str, Callable[[bytes], tuple[bytes, Callable[[bytes], bytes]]]] = {
    "whole": _whole,
    "png": _png,
    "pickle": _entry("data.pkl"),
    "storage": _entry("data/0"),
    "json": _whole,
    "yaml": _whole,
}
DOCUMENT = {
    "json": _document(json.loads, json.dumps),
    "yaml": _document(yaml.safe_load, lambda value: str(yaml.safe_dump(value, allow_unicode=True))),
}
