"""Curation: a synthetic set with fewer images, chosen by people, by a classifier or by nearness to real images.

What is chosen and why is recorded in the new set's manifest (`curated`, one entry per step, oldest first), and
so are the real images behind the choice: a filter tells about what its judge has seen. `trained_on` grows by
the images the judge learnt from, `chosen_on` by those that chose among its epochs; see `check_leak`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.data.picture import contact_sheet
from cxr.data.synthetic import NEAR_FILE, SyntheticSet, load_synthetic, write_synthetic
from cxr.errors import UserError
from cxr.files import file_sha256

__all__ = ["Verdict", "curate", "done_before", "planned"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Verdict:
    """Which of a set's N images stay.

    Attributes:
        kept: (N,).
        score: (N,) what decided (`facts` says its meaning), for the index; None where people did.
        facts: how it was found, as plain containers, beside the filter's parameters.
        trained_on, chosen_on: content hashes of the real images behind the judgement.
        files: further files of the new set (the reviewers' CSVs).
        relax: what the user may do where too few are left.
    """

    kept: Mask
    score: Floats | None
    facts: dict[str, Any]
    trained_on: frozenset[str] = frozenset()
    chosen_on: frozenset[str] = frozenset()
    files: Mapping[str, bytes] = field(default_factory=dict)
    relax: str = "keep more"


def planned(
    source: SyntheticSet, chosen: object, parameters: Mapping[str, Any], inputs: Mapping[str, str]
) -> dict[str, Any]:
    """Return what decides a step before it is taken: two steps with the same are the same step."""
    return {
        "method": type(chosen).__name__.lower(),
        "parameters": dict(parameters),
        "inputs": dict(inputs),
        "source": {
            "name": source.path.name,
            "images_sha256": source.manifest["images_sha256"],
            "manifest_sha256": file_sha256(source.path / "manifest.json"),
            "n": len(source.index),
        },
    }


def done_before(path: Path, plan: Mapping[str, Any]) -> SyntheticSet | None:
    """Return the set at `path` if the same step made it; None where there is none; refuse another."""
    if not (path / "manifest.json").is_file():
        return None
    found = load_synthetic(path)
    steps = found.manifest.get("curated") or [{}]
    if any(steps[-1].get(key) != value for key, value in plan.items()):
        raise UserError(f"{path}: another synthetic set is there; set name=… to a free name")
    return found


def curate(source: SyntheticSet, path: Path, plan: Mapping[str, Any], verdict: Verdict) -> SyntheticSet:
    """Write the images of `source` that `verdict` keeps as the set `path`, in their order, and return it.

    The index keeps its columns, so that every image is still traced to its latent and generator;
    `source_row` is its row in the set that came out of the GAN.

    Raises:
        UserError: nothing is left, of all or of a class.
    """
    labels = source.index["class"].to_numpy()
    counts = {
        str(name): {
            "kept": int((verdict.kept & (labels == name)).sum()),
            "rejected": int((~verdict.kept & (labels == name)).sum()),
        }
        for name in source.index["class"].unique()
    }
    if emptied := [name for name, n in counts.items() if not n["kept"]]:
        raise UserError(_too_few(source, verdict, counts, emptied))
    rows = np.flatnonzero(verdict.kept)
    index = source.index.iloc[rows].reset_index(drop=True)
    if "source_row" not in index:
        index["source_row"] = rows.astype(np.int64)
    if verdict.score is not None:
        index["score"] = verdict.score[rows]
    images = np.asarray(source.images[rows])
    before = source.manifest
    manifest = {key: value for key, value in before.items() if key != "recipe"}  # which made other images
    manifest |= {
        "trained_on": sorted({*before["trained_on"], *verdict.trained_on}),
        "chosen_on": sorted({*before.get("chosen_on", []), *verdict.chosen_on}),
        "curated": [*before.get("curated", []), {**plan, "counts": counts, **verdict.facts}],
    }
    files = dict(verdict.files)
    if before.get("near_sha256") is not None and (source.path / NEAR_FILE).is_file():  # of the GAN's images
        files[NEAR_FILE] = (source.path / NEAR_FILE).read_bytes()
    manifest["generated"] = before.get("generated") or {
        "images_sha256": before["images_sha256"],
        "recipe": before.get("recipe"),
    }
    return write_synthetic(path, images, index, manifest, contact_sheet(images, index), files)


def _too_few(
    source: SyntheticSet, verdict: Verdict, counts: Mapping[str, Mapping[str, int]], emptied: list[str]
) -> str:
    which = "nothing is left" if len(emptied) == len(counts) else f"no image of {', '.join(emptied)} is left"
    told = ", ".join(f"{n['kept']} of {n['kept'] + n['rejected']} {name}" for name, n in counts.items())
    if verdict.score is not None:
        found = verdict.score[source.index["class"].to_numpy() == emptied[0]]
        told += f"; those of {emptied[0]} have {found.min():.3g} to {found.max():.3g}"
    return (f"{which} of {source.path.name} ({told}); expected some of each class; {verdict.relax}, or make more "
            "images with generate.py n=…")  # fmt: skip
