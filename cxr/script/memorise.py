"""Score.py's memorisation: which real images trained the GAN, which it never saw; the record and the gallery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxr.data.picked import Picked
from cxr.data.synthetic import SyntheticSet
from cxr.evaluation.collection import Collection
from cxr.evaluation.memorisation import memorisation
from cxr.evaluation.nearest import draw_pairs
from cxr.extractor import Answer, Extractor, cached_answer
from cxr.files import write_json
from cxr.metric.memorisation_record import FOLDER, KIND, SCHEMA, told
from cxr.script.predict import Rows
from cxr.script.prepare import Prepared

__all__ = ["LEVEL", "memorise", "record_file"]

LEVEL = 0.01  # share of new real images that may be called a copy


def record_file(score: Path) -> Path:
    """Return the memorisation record that belongs to a score record."""
    return score.parent.parent / FOLDER / score.name


def memorise(
    by: Extractor,
    prepared: Prepared,
    held_out: Rows,
    sets: Sequence[SyntheticSet],
    made: tuple[Picked, Answer],
    held_out_answer: Answer,
    facts: Mapping[str, Any],
    target: Path,
    *,
    cache: Path,
    batch: int,
    device: torch.device,
    n_resamples: int,
    seed: int,
    ids: Callable[[str], str],
) -> dict[str, Any]:
    """Write record and gallery at `target` (.json, .png); return what the score record says of them.

    Args:
        held_out: rows of the real images that are the yardstick, with `held_out_answer`.
        made: synthetic images (N, S, S) at the real ones' size, the sets one after the other, with their answer.
        facts: of the score record: protocol, sets, split and so on.
        ids: names a real image in record and gallery, which lie in the set and go where it goes; see cxr.share.

    Raises:
        UserError: the run has too few images that trained the GAN, or none that did not.
    """
    index = prepared.cached.index
    trained = sorted(set().union(*(one.manifest["trained_on"] for one in sets)))
    seen = np.flatnonzero(index["content_hash"].isin(trained).to_numpy())
    seen = seen[~index["content_hash"].iloc[seen].duplicated().to_numpy()]
    n_missing = len(trained) - len(seen)
    learnt = (
        cached_answer(
            by, Picked([prepared.cached.images], seen), folder=cache, batch=batch, device=device
        ).features
        if len(seen)
        else np.empty((0, made[1].features.shape[1]), np.float32)
    )
    names = [
        f"{one.path.name}/{label}-{z}"
        for one in sets
        for label, z in one.index[["class", "z_index"]].to_numpy()
    ]
    pixels, answer = made
    synthetic = Collection(pixels, answer.features, names, names, [None] * len(names))
    found, pairs = memorisation(
        synthetic,
        _real(prepared, seen, learnt, ids),
        _real(prepared, held_out, held_out_answer.features, ids),
        extractor=f"{by.name}{f',{by.layer}' if by.layer else ''}",
        level=LEVEL,
        n_resamples=n_resamples,
        seed=seed,
    )
    if n_missing:
        found["warnings"].append(
            f"{n_missing} of {len(trained)} images that trained the GAN (or chose among its images) are not in this "
            "run's data: copies of those cannot be found"
        )
    gallery = target.with_suffix(".png")
    draw_pairs(pairs, gallery, "training")
    record = {**facts, **found, "schema": SCHEMA, "kind": KIND, "n_trained_on": len(trained), "n_missing": n_missing,
              "gallery": gallery.name}  # fmt: skip
    write_json(target, record)
    about = {key: record[key] for key in ("verdict", "n_flagged", "n_synthetic", "warnings")}
    return {
        **about,
        "told": told(record),
        "record": f"{FOLDER}/{target.name}",
        "gallery": f"{FOLDER}/{gallery.name}",
    }


def _real(
    prepared: Prepared, rows: Rows, features: npt.NDArray[np.float32], name: Callable[[str], str]
) -> Collection:
    index = prepared.cached.index.iloc[rows]
    patients = [p if isinstance(p, str) and p else None for p in index["patient_id"]]
    ids, hashes = [name(one) for one in index["image_id"]], index["content_hash"].tolist()
    return Collection(Picked([prepared.cached.images], rows), features, ids, hashes, patients)
