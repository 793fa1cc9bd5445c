"""Who stands behind a run's synthetic images and first weights, and which real images they learnt from.

A set's manifest says it; where the runs are still here, their data are read and split again, and both are believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cxr.data.near import MIN_PX, Fingerprints, fingerprints
from cxr.data.near_store import NEAR_FILE, read_prints
from cxr.data.synthetic import SyntheticSet
from cxr.errors import UserError
from cxr.files import file_sha256, read_json
from cxr.run import read_config
from cxr.script.prepare import Prepared, prepare

__all__ = ["Maker", "as_audited", "makers_of", "starting_weights"]


@dataclass(frozen=True)
class Maker:
    """A run that learnt from real images and handed something on.

    Attributes:
        role: "GAN", "judge" or "first weights".
        of: the synthetic set it stands behind, or the file.
        learnt: content hashes of the images that trained it, as recorded and as its data and split say today.
        chose: of those that chose among its epochs (a judge's validation images).
        forgotten: how many of `learnt` the record that came along does not name.
        prints: fingerprints of the images that trained it, of its data or as its set kept them; None: neither is here.
        unknown: why its own run could not be read again; None: it was.
    """

    role: str
    name: str
    of: str
    learnt: frozenset[str]
    chose: frozenset[str] = frozenset()
    forgotten: int = 0
    prints: Fingerprints | None = None
    unknown: str | None = field(default=None)


def as_audited(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's configuration such that no guard stops its preparation: the audit is to see what they saw."""
    found = {**config, "leakage": "allow"}
    if "on_overlap" in found["split"]:
        found["split"] = {**found["split"], "on_overlap": "report"}
    if found.get("near_duplicates") in ("refuse", "report"):  # "group" decides who is where
        found["near_duplicates"] = "off"
    return found


def makers_of(one: SyntheticSet, runs_dir: Path, data_root: Path | None, own_root: str | None) -> list[Maker]:
    """Return the GANs and the judges behind a set.

    data_root: where the images that lay at `own_root` lie now.
    """
    manifest = one.manifest
    recorded = frozenset(manifest["trained_on"])
    chosen_on = frozenset(manifest.get("chosen_on", ()))
    found, seen = [], set()
    asked = [("GAN", Path(str(c.get("path", ""))), str(c["sha256"])) for c in manifest["checkpoints"]]
    for step in manifest.get("curated") or ():
        if "checkpoint" in step.get("inputs", {}):
            file = Path(str(step["parameters"].get("checkpoint", "last"))).name
            where = Path(str(step["parameters"]["run"])) / "checkpoints" / f"{file}.ckpt"
            asked.append(("judge", where, str(step["inputs"]["checkpoint"])))
    for role, path, sha256 in asked:
        if (role, sha256) in seen:
            continue
        seen.add((role, sha256))
        name = path.parent.parent.name
        chose = chosen_on if role == "judge" else frozenset()
        prepared, unknown = _again(runs_dir / name, path.name, sha256, data_root, own_root)
        if prepared is None:
            kept = _kept(one) if role == "GAN" else None
            found.append(Maker(role, name, one.path.name, recorded, chose, prints=kept, unknown=unknown))
            continue
        today = frozenset(prepared.hashes("train"))
        if role == "judge":
            chose = chose | frozenset(prepared.hashes("val"))
        found.append(
            Maker(
                role, name, one.path.name, recorded | today, chose, len(today - recorded), _prints(prepared)
            )
        )
    return found


def starting_weights(
    config: Mapping[str, Any], runs_dir: Path, data_root: Path | None, own_root: str | None
) -> Maker | None:
    """Return the run whose checkpoint a classifier started from; None where it started from no file.

    A file that is no checkpoint of a run below `runs_dir` is one of which nothing is known.
    """
    file = config["classifier"].get("checkpoint_path")
    if not file:
        return None
    path = Path(str(file))
    run_dir = runs_dir / path.parent.parent.name
    here = run_dir / "checkpoints" / path.name
    if not path.is_file() or not here.is_file() or not path.samefile(here):
        return Maker(
            "first weights",
            path.name,
            path.name,
            frozenset(),
            unknown="it is no checkpoint of a run that is here",
        )
    recorded = frozenset(read_json(run_dir / "manifest.json")["trained_on"])
    prepared, unknown = _again(run_dir, path.name, None, data_root, own_root)
    if prepared is None:
        return Maker("first weights", run_dir.name, path.name, recorded, unknown=unknown)
    today = frozenset(prepared.hashes("train"))
    return Maker(
        "first weights",
        run_dir.name,
        path.name,
        recorded | today,
        frozenset(),
        len(today - recorded),
        _prints(prepared),
    )


def _again(
    run_dir: Path, file: str, sha256: str | None, data_root: Path | None, own_root: str | None
) -> tuple[Prepared | None, str | None]:
    """Return a run's images as its configuration makes them today, or why not."""
    checkpoint = run_dir / "checkpoints" / file
    if not (run_dir / "config.yaml").is_file() or not checkpoint.is_file():
        return None, f"no run {run_dir.name} is here"
    if sha256 is not None and file_sha256(checkpoint) != sha256:
        return None, f"{run_dir.name} has another {file} by now"
    try:
        config = as_audited(read_config(run_dir))
        if data_root is not None and config["data"].get("root") == own_root:
            config["data"] = {**config["data"], "root": str(data_root)}
        return prepare(config), None
    except UserError as error:
        return None, f"the data of {run_dir.name} cannot be read ({error})"


def _prints(prepared: Prepared) -> Fingerprints | None:
    rows = prepared.rows["train"]
    if prepared.mixture is not None:
        rows = np.unique(rows[prepared.mixture.real])
    images = prepared.cached.images
    return None if images.shape[1] < MIN_PX else fingerprints(np.asarray(images[rows]))


def _kept(one: SyntheticSet) -> Fingerprints | None:
    """Return the fingerprints that a set keeps of what trained its GAN; older sets keep none."""
    sha256 = one.manifest.get("near_sha256")
    return None if sha256 is None else read_prints(one.path / NEAR_FILE, sha256)
