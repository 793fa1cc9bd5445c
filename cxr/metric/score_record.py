"""The form of synthetic/<name>/scores/<file>.json: the names of its scores, which are their protocols; reading it.

    fid_softmax[acrnet@1a2b3c4d,test]      features, classifier @ its checkpoint's SHA-256, part of the real images
    is_softmax_splits3[acrnet@1a2b3c4d,val,all]     3 splits; real images of all classes of the run

The checkpoint fixes the classifier's training, image size and split. Scores of two names share no column.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxr.errors import UserError
from cxr.files import digest, read_json

__all__ = ["FOLDER", "SCHEMA", "check_score", "extractor_name", "file_name", "read_scores", "score_names"]

SCHEMA = 1
FOLDER = "scores"
REQUIRED = (
    "protocol",
    "extractor",
    "against",
    "sets",
    "classes",
    "counts",
    "settings",
    "metrics",
    "warnings",
)


def extractor_name(model: str, checkpoint_sha256: str, against: str, real_classes: str) -> str:
    """Return what stands in a score's brackets: `acrnet@1a2b3c4d,test`."""
    return f"{model}@{checkpoint_sha256[:8]},{against}" + (",all" if real_classes == "all" else "")


def score_names(protocol: str, splits: int) -> dict[str, str]:
    """Return the names of the scores by what they are: "is", "fid" (on probabilities), "fid_logits"."""
    cut = "" if splits == 1 else f"_splits{splits}"
    return {
        "is": f"is_softmax{cut}[{protocol}]",
        "fid": f"fid_softmax[{protocol}]",
        "fid_logits": f"fid_logits[{protocol}]",
    }


def file_name(protocol: str, splits: int, sets: Sequence[str]) -> str:
    """Return the record's file; sets that were scored together are told apart by a hash of their names."""
    stem = protocol.replace(",", "-") + ("" if splits == 1 else f"-splits{splits}")
    return stem + ("" if len(sets) == 1 else f"-joined-{digest(list(sets), 8)}") + ".json"


def check_score(record: Any, where: object) -> dict[str, Any]:
    """Return a record that has everything a reader needs; a UserError names what it lacks."""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or record.get("kind") != "score":
        raise UserError(f"{where}: not a score of schema {SCHEMA}; delete it and run score.py again")
    if missing := [key for key in REQUIRED if key not in record]:
        raise UserError(f"{where} lacks {', '.join(missing)}; delete it and run score.py again")
    names = score_names(record["protocol"], record["settings"]["splits"])
    if set(record["metrics"]) != set(names.values()):
        raise UserError(
            f"{where}: its scores are not those of its protocol; delete it and run score.py again"
        )
    return record


def read_scores(synthetic_dir: Path) -> list[dict[str, Any]]:
    """Return the records below the synthetic sets of a folder, in the order of their paths."""
    files = sorted(synthetic_dir.glob(f"*/{FOLDER}/*.json"))
    return [check_score(read_json(file), file) for file in files]
