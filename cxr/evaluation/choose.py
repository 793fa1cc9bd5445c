"""Which images of a synthetic set stay, from what a classifier or real images say of them: arrays in, masks out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors

from cxr.errors import UserError

__all__ = ["Reference", "agreeing", "near", "nearest_distance"]

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Labels = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Reference:
    """Features (M, d) of the real images of a class and their patients (M,); None = unknown, one of its own."""

    features: Floats
    patients: Sequence[str | None]


def agreeing(probability: Floats, labels: Labels, *, at_least: float, keep: int | None) -> Mask:
    """Return the images (N,) whose own class has a probability (N,) of at least `at_least`.

    With `keep`: of these, in each class of `labels` (N,), the `keep` most probable (ties: the earlier).
    """
    kept = np.asarray(probability >= at_least)
    if keep is not None:
        for name in np.unique(labels):
            rows = np.flatnonzero(kept & (labels == name))
            kept[rows[np.argsort(-probability[rows], kind="stable")[keep:]]] = False
    return kept


def near(
    features: Floats, labels: Labels, references: Mapping[str, Reference], *, quantile: float
) -> tuple[Mask, npt.NDArray[np.float64], dict[str, dict[str, Any]]]:
    """Return the images (N,) near enough to real ones, their distances (N,), and what each class was held to.

    An image's distance is that from its features (N, d) to the nearest of its class's references. The limit is
    the `quantile` of the same distance between the references themselves, each to those of other patients.
    """
    distance, kept = np.full(len(labels), np.nan), np.zeros(len(labels), dtype=bool)
    compared: dict[str, dict[str, Any]] = {}
    for name, reference in references.items():
        between = nearest_distance(reference.features, reference.features, patients=reference.patients)
        between = between[np.isfinite(between)]
        if not len(between):
            raise UserError(
                f"filter.run: the {len(reference.features)} real images of {name} are of one patient, expected at least "
                "2 patients to compare; set filter.run=… to another run"
            )
        limit = float(np.quantile(between, quantile))
        rows = np.flatnonzero(labels == name)
        if len(rows):
            distance[rows] = nearest_distance(features[rows], reference.features)
            kept[rows] = distance[rows] <= limit
        named = {who for who in reference.patients if who is not None}
        unnamed = sum(who is None for who in reference.patients)
        compared[name] = {
            "limit": limit,
            "n_images": len(reference.features),
            "n_patients": len(named) + unnamed,
        }
    return kept, distance, compared


def nearest_distance(
    images: Floats, references: Floats, *, patients: Sequence[str | None] | None = None
) -> npt.NDArray[np.float64]:
    """Return the Euclidean distance (N,) of each of `images` (N, d) to the nearest of `references` (M, d).

    With `patients`, the images are the references, and each is compared with those of other patients only: a
    second image of a patient is nearer than any stranger's. An image without any stranger's has infinity.
    """
    if patients is None:
        return _nearest(images, references)
    names = [f"\0{i}" if who is None else who for i, who in enumerate(patients)]
    groups = np.unique(names, return_inverse=True)[1]
    if len(np.unique(groups)) == len(groups):  # leave one out: the second nearest, as the nearest is itself
        distance = NearestNeighbors(n_neighbors=min(2, len(references))).fit(references).kneighbors(images)[0]
        return np.asarray(distance[:, 1], np.float64) if distance.shape[1] > 1 else np.full(1, np.inf)
    found = np.full(len(images), np.inf)
    for group in np.unique(groups):
        own = groups == group
        if not own.all():
            found[own] = _nearest(images[own], references[~own])
    return found


def _nearest(images: Floats, references: Floats) -> npt.NDArray[np.float64]:
    distance = NearestNeighbors(n_neighbors=1).fit(references).kneighbors(images)[0]
    return np.asarray(distance[:, 0], dtype=np.float64)
