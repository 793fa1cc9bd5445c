"""Which cxr and which Lightning wrote a checkpoint, and what may be read of it.

Weights (evaluate, generate) are read whatever wrote them: their names and shapes are checked. Training goes on only
where everything is there that it needs, and never from a newer Lightning, whose loops this one does not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cxr import __version__
from cxr.errors import UserError

__all__ = ["FORMAT", "check_format", "check_resumable", "differing", "need", "stamp", "versions"]

FORMAT = 1  # goes up when cxr of before can no longer read what is written now
_STAMP, _LIGHTNING = "cxr", "pytorch-lightning_version"
_LOOPS = (
    "epoch",
    "global_step",
    _LIGHTNING,
    "state_dict",
    "loops",
    "callbacks",
    "optimizer_states",
    "lr_schedulers",
)
_RECORDS = {
    "gan": ("g_steps", "images_seen", "batches_seen", "log_count", "classes"),
    "classifier": ("classes", "train_sums", "plateau"),
}


def stamp() -> dict[str, Any]:
    """Return what a checkpoint says of its writer, under `cxr`; Lightning adds its own version."""
    return {_STAMP: {"format": FORMAT, "version": __version__}}


def versions(checkpoint: Mapping[str, Any]) -> tuple[str, str]:
    """Return who wrote a checkpoint, and who this is, in words."""
    record, lightning = checkpoint.get(_STAMP), checkpoint.get(_LIGHTNING)
    name = f"cxr {record.get('version', '?')}" if isinstance(record, dict) else "an earlier cxr"
    return (
        name + (f" with Lightning {lightning}" if lightning else ""),
        f"cxr {__version__} with Lightning {version('lightning')}",
    )


def differing(checkpoint: Mapping[str, Any]) -> str:
    """Return "; written by …, this is …" where another version of cxr did; else nothing."""
    record = checkpoint.get(_STAMP)
    if isinstance(record, dict) and record.get("version") == __version__:
        return ""
    written, here = versions(checkpoint)
    return f"; written by {written}, this is {here}"


def check_format(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse a format that only a later cxr knows."""
    record = checkpoint.get(_STAMP)
    found = record.get("format") if isinstance(record, dict) else FORMAT
    if not isinstance(found, int) or found > FORMAT:
        written, here = versions(checkpoint)
        raise UserError(
            f"{path}: in format {found} of {written}; this is {here} and reads formats up to {FORMAT}: "
            "install the version that wrote it, or train the run again"
        )


def need(checkpoint: Mapping[str, Any], path: Path, keys: Iterable[str], record: str | None = None) -> None:
    """Refuse a checkpoint, or a record in it, that lacks one of the keys."""
    place = checkpoint if record is None else checkpoint.get(record)
    lacks = [key for key in keys if not isinstance(place, Mapping) or key not in place]
    if lacks:
        written, here = versions(checkpoint)
        told = lacks[0] if record is None else f"{record}.{lacks[0]}"
        raise UserError(
            f"{path}: lacks '{told}'; written by {written}, this is {here}: install the version that wrote it, "
            "or delete it and train the run again"
        )


def check_resumable(checkpoint: Mapping[str, Any], kind: str, path: Path) -> str | None:
    """Refuse what training cannot go on from; return a warning where another version wrote it.

    kind: `gan` or `classifier`.
    """
    need(checkpoint, path, _LOOPS)
    need(checkpoint, path, _RECORDS[kind], kind)
    written, here = versions(checkpoint)
    if _minor(checkpoint[_LIGHTNING]) > _minor(version("lightning")):
        raise UserError(
            f"{path}: written by {written}, which is newer than this: {here}; "
            f"install lightning=={checkpoint[_LIGHTNING]}, or delete it and train the run again"
        )
    return None if written == here else f"{path}: written by {written}; {here} goes on, but not bit for bit"


def _minor(text: object) -> tuple[int, ...]:
    """Return major and minor version; (0,) of a text that is none."""
    parts = str(text).split(".")[:2]
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else (0,)
