"""Generate.py's exploration: which real images trained the GAN, which validation images it never saw; the page."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cxr.data.index import DatasetNotFound
from cxr.data.picked import Picked
from cxr.data.synthetic import SyntheticSet
from cxr.errors import UserError
from cxr.evaluation.collection import Collection
from cxr.evaluation.exploration import Sizes
from cxr.evaluation.explore import explore
from cxr.evaluation.explore_page import write_exploration
from cxr.evaluation.synthesize import TrainedGenerator
from cxr.script.predict import Rows, prepare_as_trained
from cxr.script.prepare import Prepared
from cxr.share import Ids, ShareIds

__all__ = ["explore_set", "real_images"]


def real_images(run_dir: Path, config: Mapping[str, Any], data_root: Path | None) -> Prepared:
    """Return the images of a GAN's run, before any are made; a `UserError` where they are not here, or are others."""
    values = dict(config)
    if data_root is not None:
        values["data"] = {**values["data"], "root": str(data_root)}
    try:
        return prepare_as_trained(run_dir, values)[0]
    except DatasetNotFound as error:  # which names the key of train.py
        told = str(error).replace("data.root=", "data_root=")
        raise UserError(f"explore=true needs the real images that the GAN was trained with: {told}") from None


def explore_set(
    made: SyntheticSet,
    gans: Sequence[TrainedGenerator],
    prepared: Prepared,
    *,
    runs_dir: Path,
    share_ids: ShareIds,
    device: torch.device,
    sizes: Sizes | None = None,
) -> Path:
    """Write explore.html and explore/ into a set; return the page. A function of the set and of the run's images."""
    how = Sizes() if sizes is None else sizes
    ids = Ids(runs_dir, share_ids)
    index = prepared.cached.index
    seen = np.flatnonzero(index["content_hash"].isin(made.manifest["trained_on"]).to_numpy())
    columns = [prepared.classes.index(gan.label) for gan in gans]
    held_out = prepared.rows["val"]
    own = prepared.labels[held_out][:, columns] == 1
    held_out, own = held_out[own.sum(axis=1) == 1], own[own.sum(axis=1) == 1]
    shown = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*shown, transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("projecting", total=how.projection_steps * len(gans))
        parts = explore(
            made,
            gans,
            _real(prepared, seen, ids),
            _real(prepared, held_out, ids),
            [gans[k].label for k in own.argmax(axis=1)],
            device=device,
            sizes=how,
            advance=lambda: bar.advance(task),
        )
    facts = {
        "recipe": made.manifest["recipe"],
        "precision": "float32",
        "sizes": asdict(how),
        "split_fingerprint": made.manifest["split_fingerprint"],
        "n_trained_on": len(made.manifest["trained_on"]),
        "n_missing": len(made.manifest["trained_on"]) - int(index["content_hash"].iloc[seen].nunique()),
    }
    return write_exploration(made, parts, facts)


def _real(prepared: Prepared, rows: Rows, name: Ids) -> Collection:
    index = prepared.cached.index.iloc[rows]
    patients = [p if isinstance(p, str) and p else None for p in index["patient_id"]]
    names, hashes = [name(one) for one in index["image_id"]], index["content_hash"].tolist()
    return Collection(Picked([prepared.cached.images], rows), None, names, hashes, patients)
