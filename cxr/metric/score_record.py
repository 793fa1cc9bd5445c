"""The form of synthetic/<name>/scores/<file>.json: the names of its scores, which are their protocols; reading it.

    fid_softmax[acrnet@1a2b3c4d,test]      features, classifier @ its checkpoint's SHA-256, part of the real images
    is_softmax_splits3[acrnet@1a2b3c4d,val,all]     3 splits; real images of all classes of the run
    kid[inception@6726825d,test@0a1b2c3d]  another extractor says nothing of the real images: a hash of their split and size
    precision_k3[pixel16,val@0a1b2c3d]     balls to the third neighbour

A classifier's checkpoint fixes training, image size and split of its own real images. What is in the brackets is the
protocol: scores of two share no column. The record holds it in full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr.errors import UserError
from cxr.files import digest, read_json

__all__ = ["FOLDER", "SCHEMA", "check_score", "file_name", "protocol_name", "read_scores", "score_names"]

SCHEMA = 2
FOLDER = "scores"
USUAL_K = (3, 5)
REQUIRED = (
    "protocol",
    "names",
    "extractor",
    "real",
    "against",
    "sets",
    "classes",
    "counts",
    "settings",
    "metrics",
    "warnings",
)


def protocol_name(extractor: str, against: str, real_classes: str, real: Mapping[str, Any] | None) -> str:
    """Return what stands in a score's brackets: `acrnet@1a2b3c4d,test`.

    real: what decides the real images (split, size, …), where the extractor does not.
    """
    images = "" if real is None else f"@{digest(dict(real), 8)}"
    return f"{extractor},{against}{images}" + (",all" if real_classes == "all" else "")


def score_names(protocol: str, layer: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of all scores by what they are; `settings`: splits, k_precision, k_density.

    "is" is on the extractor's answers, "fid_logits" on their logits, the others on features of its `layer`.
    """
    cut = "" if settings["splits"] == 1 else f"_splits{settings['splits']}"
    of = f"_{layer}" if layer else ""
    precision, density = (f"_k{settings[key]}{of}[{protocol}]" for key in ("k_precision", "k_density"))
    return {
        "kid": f"kid{of}[{protocol}]",
        "fid": f"fid{of}[{protocol}]",
        "fid_logits": f"fid_logits[{protocol}]",
        "precision": f"precision{precision}",
        "recall": f"recall{precision}",
        "density": f"density{density}",
        "coverage": f"coverage{density}",
        "is": f"is_softmax{cut}[{protocol}]",
    }


def file_name(protocol: str, layer: str, settings: Mapping[str, Any], sets: Sequence[str]) -> str:
    """Return the record's file; sets that were scored together are told apart by a hash of their names."""
    stem = protocol.replace(",", "-") + (f"-{layer}" if layer not in ("", "softmax") else "")
    stem += "" if settings["splits"] == 1 else f"-splits{settings['splits']}"
    ks = (settings["k_precision"], settings["k_density"])
    stem += "" if ks == USUAL_K else "-k{}-{}".format(*ks)
    return stem + ("" if len(sets) == 1 else f"-joined-{digest(list(sets), 8)}") + ".json"


def check_score(record: Any, where: object) -> dict[str, Any]:
    """Return a record that has everything a reader needs; a UserError names what it lacks."""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or record.get("kind") != "score":
        raise UserError(
            f"{where}: not a score of schema {SCHEMA}; run score.py again, with the same overrides, or delete it"
        )
    if missing := [key for key in REQUIRED if key not in record]:
        raise UserError(f"{where} lacks {', '.join(missing)}; delete it and run score.py again")
    names = record["names"].values()
    if set(record["metrics"]) != set(names) or not all(n.endswith(f"[{record['protocol']}]") for n in names):
        raise UserError(
            f"{where}: its scores are not those of its protocol; delete it and run score.py again"
        )
    return record


def read_scores(synthetic_dir: Path) -> list[dict[str, Any]]:
    """Return the records below the synthetic sets of a folder, in the order of their paths."""
    files = sorted(synthetic_dir.glob(f"*/{FOLDER}/*.json"))
    return [check_score(read_json(file), file) for file in files]
