"""Draws patients with replacement: the resamples behind every interval (see `cxr.metric.bootstrap`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Answers", "Resamples", "draw_patients", "draw_small", "effective_patients", "patients_bearing"]

_WEIGHTS = 2**21  # of patients in resamples, float64 at once

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Resamples:
    """Which patient each image belongs to, (N,) in [0, P), and how often each resample drew it, (R, P).

    `weights` are float64, or bytes where drawn by `draw_small`: those are for `blocks` only, since their products and
    squares wrap around.
    """

    groups: Ints
    weights: npt.NDArray[Any]
    seed: int

    @property
    def n_patients(self) -> int:
        """How many patients the test images come from."""
        return int(self.weights.shape[1])

    @property
    def images(self) -> Floats:
        """How many images each patient has, (P,)."""
        return np.bincount(self.groups, minlength=self.n_patients).astype(np.float64)

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Yield some resamples at a time: which, and their weights (r, P), 16 MB of float64."""
        step = max(1, _WEIGHTS // self.n_patients)
        for start in range(0, len(self.weights), step):
            part = slice(start, start + step)
            yield part, self.weights[part].astype(np.float64)

    def totals(self, values: Floats) -> Floats:
        """Return the sum (R,) in each resample of a value of each patient (P,)."""
        return np.concatenate([weights @ values for _, weights in self.blocks()])


@dataclass(frozen=True)
class Answers:
    """A test set (all of it, or a fold) and what the model of each seed answers on it.

    Attributes:
        target: (N, C) of 0, 1 (NaN where unknown, multi-label only).
        probs: one (N, C) table of probabilities per seed, rows in the order of `target`.
        resamples: of its patients.
    """

    target: npt.ArrayLike
    probs: Sequence[npt.ArrayLike]
    resamples: Resamples


def draw_patients(
    patients: Sequence[str | None], *, n_resamples: int, seed: int, fold: int | None = None
) -> Resamples:
    """Draw patients with replacement `n_resamples` times; one id per image, None = a patient of its own.

    `fold`: its number in a cross-validation; each fold has a draw of its own.
    """
    return _drawn(patients, n_resamples, seed, [seed] if fold is None else [seed, 3, fold], np.float64)


def draw_small(patients: Sequence[str | None], *, n_resamples: int, seed: int) -> Resamples:
    """Draw as `draw_patients` does, with a byte for each weight: for many images that are patients of their own.

    Of P patients some one is drawn more than 255 times in P draws with a probability below P / 256! (0 where P < 256).
    """
    return _drawn(patients, n_resamples, seed, [seed], np.uint8)


def _drawn(
    patients: Sequence[str | None], n_resamples: int, seed: int, stream: list[int], dtype: type[np.generic]
) -> Resamples:
    if len(patients) == 0 or n_resamples < 1:
        raise ValueError("needs at least one image and one resample")
    known = sorted(
        {p for p in patients if isinstance(p, str) and p}
    )  # sorted: the draw does not depend on the row order
    position = {p: i for i, p in enumerate(known)}
    groups = np.empty(len(patients), dtype=np.int64)
    n_groups = len(known)
    for i, patient in enumerate(patients):
        if isinstance(patient, str) and patient:  # None, NaN and "" are no ids
            groups[i] = position[patient]
        else:
            groups[i], n_groups = n_groups, n_groups + 1
    rng = np.random.default_rng(stream[0] if len(stream) == 1 else stream)
    weights = np.empty((n_resamples, n_groups), dtype)
    for r in range(n_resamples):
        weights[r] = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
    return Resamples(groups, weights, seed)


def patients_bearing(target: npt.ArrayLike, resamples: Resamples, classes: Sequence[str], name: str) -> float:
    """Count the patients that bear on a score: those with its class, without it, the rarer of both, or all.

    A patient of many images weighs more than others, so fewer decide than are there: the number is the effective one
    of `effective_patients`.

    Args:
        target: (N, C) of 0, 1, NaN (unknown).
        name: of `cxr.metric.classification.metric_names`; a macro score takes its rarest class.
    """
    score, _, label = name.partition("/")
    kind = score.removesuffix("_macro")
    y, groups = np.asarray(target, dtype=np.float64), resamples.groups
    if "/" not in name and kind == score:
        return effective_patients(groups)
    columns = [y[:, list(classes).index(label)]] if label else list(y.T)
    if kind.startswith("ece"):
        return min(effective_patients(groups[~np.isnan(column)]) for column in columns)
    sides = {"specificity": (0.0,), "auroc": (0.0, 1.0), "auprc": (0.0, 1.0)}.get(kind, (1.0,))
    return min(effective_patients(groups[column == side]) for column in columns for side in sides)


def effective_patients(groups: Ints) -> float:
    """Return (sum n)² / sum n² of the patients' numbers of images n, their count where all have as many.

    Kish (1965, 8.2); of clusters that a standard error rests on, Carter, Schnepel & Steigerwald (2017, Rev. Econ.
    Stat. 99:698). `groups`: (N,) patient of each image; 0 patients where there is none.
    """
    n = np.bincount(groups).astype(np.float64)
    return float(n.sum() ** 2 / (n**2).sum()) if groups.size else 0.0
