"""Real and synthetic images → what a generator copied: a record, and the closest pairs to look at.

Two spaces: pixels, by a distance that blur, small shifts and contrast hardly change (`cxr.metric.alignment`), and the
features of an extractor. In each a synthetic image's distance to its nearest training image, relative to the next
nearest ones, is held against the same of real images of patients that the generator never saw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cxr.data.picked import Picked
from cxr.errors import UserError
from cxr.evaluation.collection import Collection, first_of_each, yardstick
from cxr.metric.alignment import PROTOCOL, aligned_neighbours, normalised
from cxr.metric.memorisation import VERDICT_P, authenticity, copies, median_ratio, p_values, share
from cxr.metric.neighbours import Floats, Neighbours, feature_neighbours, relative_distance

__all__ = ["FEWEST_DIMENSIONS", "NEIGHBOURS", "Pair", "memorisation", "verdict_of"]

NEIGHBOURS = 16  # the nearest and the 15 it is held against
FEWEST_DIMENSIONS = 16  # with fewer, thousands of images lie too densely for a copy to stand out
FEWEST_TRAINING = 3
LISTED = 50  # flagged images named in the record; their number is always whole
NOTICED = 0.1  # "no sign" is said where so large a share of copies would have been noticed
QUERIES = 1024  # images normalised at once, 16 kB each, and held against all training images
SHOWN = 8  # closest pairs of each kind that the gallery gets

Pixels = npt.NDArray[np.uint8] | Picked
Verdict = Literal["memorised", "no sign", "undecided"]


@dataclass(frozen=True)
class Pair:
    """An image and the training image nearest to it: uint8 (S, S), ids, distances by space, for the gallery."""

    image: npt.NDArray[np.uint8]
    nearest: npt.NDArray[np.uint8]
    image_id: str
    nearest_id: str
    synthetic: bool
    distance: float
    relative: float
    p_value: float


def memorisation(
    synthetic: Collection,
    training: Collection,
    held_out: Collection,
    *,
    extractor: str,
    level: float,
    n_resamples: int,
    seed: int,
) -> tuple[dict[str, Any], list[Pair]]:
    """Return the record and the closest pairs: up to 8 synthetic ones, then up to 8 held-out ones as yardstick.

    Training images that are there twice count once. Of the held-out ones those that trained the generator, or
    whose patient did, are left out, and of each other patient one image is taken (by `seed`), so that the
    yardstick's images are independent.

    Raises:
        UserError: fewer than 3 training images or no held-out image of another patient.
    """
    training = training.take(first_of_each(training.hashes))
    null_rows, left_out = yardstick(held_out, training, seed)
    if len(training.ids) < FEWEST_TRAINING or len(null_rows) == 0:
        raise UserError(
            f"memorisation: {len(training.ids)} training images of the GAN and {len(null_rows)} real images of other patients, "
            f"expected at least {FEWEST_TRAINING} and 1 (100 for a level of 1 %); set run=… to the GAN's split and data, "
            "and against=test or val"
        )
    null = held_out.take(null_rows)
    exact = _identical(synthetic.images, training.images)
    spaces: dict[str, Any] = {}
    found: dict[str, tuple[Neighbours, Neighbours, npt.NDArray[np.bool_]]] = {}
    warnings = []
    for name in ("pixel", "feature"):
        if name == "feature" and (why := _no_features(synthetic.features, extractor)) is not None:
            warnings.append(why)
            continue
        near, near_null, own = _search(name, synthetic, training, null)
        record, flagged = copies(relative_distance(near_null), relative_distance(near), level=level)
        spaces[name] = {
            "protocol": PROTOCOL if name == "pixel" else f"Euclidean, {extractor}",
            "score": f"distance to the nearest / mean distance to the next {near.distance.shape[1] - 1} training images",
            "copies": record,
            "distance_ratio": median_ratio(
                near.nearest, near_null.nearest, n_resamples=n_resamples, seed=seed
            ),
            "authenticity": {
                kind: share(authenticity(one.nearest, own[one.rows[:, 0]]))
                for kind, one in (("synthetic", near), ("held_out", near_null))
            },
        }
        found[name] = (near, near_null, flagged)
        if record["level"] > level + 1e-9:
            warnings.append(
                f"{name}: {record['n_held_out']} held-out patients are too few for a level of {100 * level:g} %; "
                f"the lowest new real image decides, a level of {100 * record['level']:.1f} %"
            )
    flagged = np.logical_or.reduce([*(one[2] for one in found.values()), exact])
    result = {
        "verdict": verdict_of([one["copies"] for one in spaces.values()], int(exact.sum())),
        "verdict_rule": f"memorised: an identical image, or p < {VERDICT_P:g} in a space; "
        f"undecided: {100 * NOTICED:g} % copies would have gone unnoticed",
        "n_synthetic": len(synthetic.ids),
        "n_training": len(training.ids),
        "n_held_out": len(null.ids),
        "held_out_left_out": left_out,
        "n_flagged": int(flagged.sum()),
        "n_identical": int(exact.sum()),
        "spaces": spaces,
        "flagged": _listing(flagged, exact, found, synthetic, training),
        "settings": {"level": level, "neighbours": NEIGHBOURS, "n_resamples": n_resamples, "seed": seed},
        "warnings": warnings,
    }
    near, near_null, _ = found["pixel"]
    scores = relative_distance(near_null)
    pairs = _closest(near, synthetic, training, scores, True, exact)
    return result, pairs + _closest(near_null, null, training, scores, False, None)


def verdict_of(records: Sequence[dict[str, Any]], n_identical: int) -> Verdict:
    """Return the verdict of the `copies` of all spaces; no sign only where one copy in ten would have been one."""
    if n_identical or any(one["p_value"] < VERDICT_P for one in records):
        return "memorised"
    noticed = [one["needed"] is not None and one["needed"] <= NOTICED * one["n"] for one in records]
    return "no sign" if any(noticed) else "undecided"


def _search(
    space: str, synthetic: Collection, training: Collection, null: Collection
) -> tuple[Neighbours, Neighbours, Floats]:
    """Return the neighbours of both, and each nearest training image's distance to its own (M,), NaN for the others."""
    own = np.full(len(training.ids), np.nan)
    if space == "pixel":
        references = normalised(training.images)
        found = [_aligned(one.images, references) for one in (synthetic, null)]
        rows = np.unique(np.concatenate([one.rows[:, 0] for one in found]))
        own[rows] = aligned_neighbours(references[rows], references, 1, itself=rows).nearest
    else:
        if training.features is None or synthetic.features is None or null.features is None:
            raise ValueError("features of all or of none")
        vectors = training.features
        found = [feature_neighbours(one, vectors, NEIGHBOURS) for one in (synthetic.features, null.features)]
        rows = np.unique(np.concatenate([one.rows[:, 0] for one in found]))
        own[rows] = feature_neighbours(vectors[rows], vectors, 1, itself=rows).nearest
    return found[0], found[1], own


def _aligned(images: Pixels, references: npt.NDArray[np.float32]) -> Neighbours:
    """Return the neighbours of images among normalised references, some images at a time."""
    parts = [
        aligned_neighbours(normalised(images[start : start + QUERIES]), references, NEIGHBOURS)
        for start in range(0, len(images), QUERIES)
    ]
    return Neighbours(np.concatenate([p.distance for p in parts]), np.concatenate([p.rows for p in parts]))


def _listing(
    flagged: npt.NDArray[np.bool_],
    exact: npt.NDArray[np.bool_],
    found: dict[str, tuple[Neighbours, Neighbours, npt.NDArray[np.bool_]]],
    synthetic: Collection,
    training: Collection,
) -> list[dict[str, Any]]:
    """Return up to 50 flagged images, the nearest first."""
    pixel = relative_distance(found["pixel"][0])
    order = np.flatnonzero(flagged)
    order = order[np.argsort(pixel[order] - exact[order], kind="stable")][:LISTED]
    scores = {
        name: (relative_distance(near), relative_distance(null), near)
        for name, (near, null, _) in found.items()
    }
    return [
        {
            "image": synthetic.ids[i],
            "row": int(i),
            "identical": bool(exact[i]),
            **{
                name: {
                    "nearest": training.ids[int(near.rows[i, 0])],
                    "distance": float(near.nearest[i]),
                    "relative": float(score[i]),
                    "p_value": float(p_values(null, score[i : i + 1])[0]),
                }
                for name, (score, null, near) in scores.items()
            },
        }
        for i in order.tolist()
    ]


def _closest(
    near: Neighbours,
    images: Collection,
    training: Collection,
    null: Floats,
    synthetic: bool,
    exact: npt.NDArray[np.bool_] | None,
) -> list[Pair]:
    score = relative_distance(near)
    first = score if exact is None else score - exact  # identical ones lead
    ranks = p_values(null, score)
    return [
        Pair(
            images.images[i], training.images[near.rows[i, 0]], images.ids[i], training.ids[int(near.rows[i, 0])],
            synthetic, float(near.nearest[i]), float(score[i]), float(ranks[i]),
        )
        for i in np.argsort(first, kind="stable")[:SHOWN].tolist()
    ]  # fmt: skip


def _identical(images: Pixels, others: Pixels) -> npt.NDArray[np.bool_]:
    """Return (N,): has another image the same pixels, bit by bit? Only of the same size."""
    known = {hashlib.sha256(np.ascontiguousarray(one).data).digest() for one in others}
    return np.array([hashlib.sha256(np.ascontiguousarray(one).data).digest() in known for one in images])


def _no_features(features: npt.NDArray[np.floating] | None, extractor: str) -> str | None:
    """Return why the feature space is left out; None if it is not."""
    if features is None:
        return "no features were given: only pixels were compared"
    if features.shape[1] < FEWEST_DIMENSIONS:
        return (
            f"{extractor} has {features.shape[1]} dimensions, too few for a copy to stand out: only pixels were compared; "
            "set extractor.features=penultimate, or another extractor"
        )
    return None
