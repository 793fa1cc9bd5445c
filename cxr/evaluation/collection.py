"""Images with what memorisation needs to know of them, and which held-out ones are its yardstick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.data.picked import Picked

__all__ = ["Collection", "first_of_each", "yardstick"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Collection:
    """N images: pixels (N, S, S) uint8, features (N, d) or None, one id each; what only real ones have is None.

    Attributes:
        hashes: of the content of each file, as in an index and in a manifest's `trained_on`.
        patients: None where a patient is unknown, which counts as one of its own.
    """

    images: npt.NDArray[np.uint8] | Picked
    features: npt.NDArray[np.floating] | None
    ids: Sequence[str]
    hashes: Sequence[str]
    patients: Sequence[str | None]

    def take(self, rows: Rows) -> Collection:
        """Return some of them."""
        names, hashes, patients = ([v[i] for i in rows] for v in (self.ids, self.hashes, self.patients))
        features = None if self.features is None else self.features[rows]
        return Collection(Picked([self.images], rows), features, names, hashes, patients)


def yardstick(held_out: Collection, training: Collection, seed: int) -> tuple[Rows, dict[str, int]]:
    """Return one row for each patient that the GAN has not seen, and how many images were left out and why."""
    seen, patients = set(training.hashes), {p for p in training.patients if p}
    kept: list[int] = []
    taken: set[str] = set()
    left_out = {"trained the GAN": 0, "patient trained the GAN": 0, "further images of a patient": 0}
    for i in np.random.default_rng(seed).permutation(len(held_out.ids)).tolist():
        patient = held_out.patients[i]
        if held_out.hashes[i] in seen:
            left_out["trained the GAN"] += 1
        elif patient and patient in patients:
            left_out["patient trained the GAN"] += 1
        elif patient and patient in taken:
            left_out["further images of a patient"] += 1
        else:
            kept.append(i)
            taken |= {patient} if patient else set()
    return np.sort(np.array(kept, np.int64)), left_out


def first_of_each(hashes: Sequence[str]) -> Rows:
    """Return the row of the first image of each hash, ascending."""
    return np.sort(np.unique(np.asarray(hashes, dtype=str), return_index=True)[1]).astype(np.int64)
