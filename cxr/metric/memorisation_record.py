"""The form of synthetic/<name>/memorisation/<file>.json, beside which <file>.png shows the closest pairs; reading it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr.errors import UserError
from cxr.files import read_json

__all__ = ["FOLDER", "KIND", "SCHEMA", "read_memorisation", "told"]

SCHEMA = 1
KIND = "memorisation"
FOLDER = "memorisation"
REQUIRED = (
    "protocol",
    "verdict",
    "spaces",
    "sets",
    "n_synthetic",
    "n_training",
    "n_held_out",
    "n_flagged",
    "warnings",
)


def read_memorisation(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the files and records of a synthetic set, in the order of their names."""
    found = []
    for file in sorted((folder / FOLDER).glob("*.json")):
        record = read_json(file)
        if not isinstance(record, dict) or (record.get("kind"), record.get("schema")) != (KIND, SCHEMA):
            raise UserError(
                f"{file}: no memorisation record of schema {SCHEMA}; delete it and run score.py again"
            )
        if missing := [key for key in REQUIRED if key not in record]:
            raise UserError(f"{file} lacks {', '.join(missing)}; delete it and run score.py again")
        found.append((file, record))
    return found


def told(record: Mapping[str, Any]) -> str:
    """Return a record in a sentence or two."""
    parts = [f"memorisation: {record['verdict']}"]
    for name, space in record["spaces"].items():
        one = space["copies"]
        parts.append(
            f"{name}: {one['n_flagged']} of {one['n']} flagged as copies, {100 * one['value']:.1f} % "
            f"[{100 * one['low']:.1f}, {100 * one['high']:.1f}]; of new real images {100 * one['level']:.1f} % would be "
            f"(n = {one['n_held_out']} held-out patients, {record['n_training']} training images; p = {one['p_value']:.2g})"
        )
    if record["n_identical"]:
        parts.append(f"{record['n_identical']} have exactly the pixels of a training image")
    return "; ".join(parts)
