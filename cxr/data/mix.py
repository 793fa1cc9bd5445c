"""Mixes: which real and which synthetic images a classifier trains on.

Pure functions of the labels of the training part and of the synthetic set, and of nothing
else, so that no mix can touch validation or test. Partially applied by conf/mix, then called
as `mix(real_labels, synthetic_labels, classes=classes)`:

    real_labels       (n_real, L) float32, the training part
    synthetic_labels  (n_synthetic, L) float32, or None where there is no set
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cxr.errors import UserError, did_you_mean

__all__ = [
    "Mixture",
    "add",
    "composition",
    "duplicate_real",
    "ratio",
    "real_only",
    "synthetic_only",
    "top_up",
    "training_rows",
    "undersample",
]

Labels = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
To = Literal["max", "twice_max"]


@dataclass(frozen=True)
class Mixture:
    """Positions into the training part (one may come more than once) and into the synthetic set."""

    real: Rows
    synthetic: Rows


def real_only(
    real_labels: Labels,
    synthetic_labels: Labels | None,
    *,
    classes: Sequence[str],
    limit: dict[str, int] | None,
    seed: int,
) -> Mixture:
    """Train on the training part as it is, or on at most `limit[class]` of its images; then single-label only."""
    del synthetic_labels
    return Mixture(_limited(real_labels, classes, limit, seed), _none())


def add(
    real_labels: Labels,
    synthetic_labels: Labels | None,
    *,
    classes: Sequence[str],
    counts: dict[str, int] | None,
    limit: dict[str, int] | None = None,
    seed: int,
) -> Mixture:
    """Add `counts[class]` synthetic images to the training part, or to what `real_only` keeps of it."""
    wanted = _counts(counts, classes)
    return Mixture(
        _limited(real_labels, classes, limit, seed), _synthetic(synthetic_labels, wanted, classes, seed)
    )


def top_up(
    real_labels: Labels,
    synthetic_labels: Labels | None,
    *,
    classes: Sequence[str],
    to: To | int,
    seed: int,
) -> Mixture:
    """Add synthetic images to every class until it has `to` images, or (twice) as many as the largest class."""
    wanted = _lacking(real_labels, classes, to)
    return Mixture(_all(real_labels), _synthetic(synthetic_labels, wanted, classes, seed))


def ratio(
    real_labels: Labels,
    synthetic_labels: Labels | None,
    *,
    classes: Sequence[str],
    synthetic_per_real: float,
    seed: int,
) -> Mixture:
    """Add `synthetic_per_real` synthetic images per real one, class by class."""
    if synthetic_per_real < 0:
        raise UserError(f"mix.synthetic_per_real is {synthetic_per_real}; expected 0 or more")
    per_class = _per_class(real_labels)
    wanted = {c: round(int(n) * synthetic_per_real) for c, n in zip(classes, per_class, strict=True)}
    return Mixture(_all(real_labels), _synthetic(synthetic_labels, wanted, classes, seed))


def undersample(
    real_labels: Labels, synthetic_labels: Labels | None, *, classes: Sequence[str], seed: int
) -> Mixture:
    """Leave out real images until every class has as many as the smallest; single-label only."""
    del synthetic_labels
    _one_class_each(real_labels, "mix=undersample")
    rng = np.random.default_rng(seed)
    fewest = int(_per_class(real_labels).min())
    kept = [rng.permutation(np.flatnonzero(real_labels[:, k] == 1))[:fewest] for k in range(len(classes))]
    return Mixture(np.sort(np.concatenate(kept)).astype(np.int64), _none())


def synthetic_only(
    real_labels: Labels,
    synthetic_labels: Labels | None,
    *,
    classes: Sequence[str],
    amount: Literal["match", "all"],
    seed: int,
) -> Mixture:
    """Train on no real image: on as many synthetic ones per class (match), or on the whole set (all)."""
    if amount == "all":
        if synthetic_labels is None or not len(synthetic_labels):
            raise UserError(
                "mix=synthetic_only has no synthetic images; expected a set: set synthetic=[NAME]"
            )
        return Mixture(_none(), _all(synthetic_labels))
    wanted = {c: int(n) for c, n in zip(classes, _per_class(real_labels), strict=True)}
    return Mixture(_none(), _synthetic(synthetic_labels, wanted, classes, seed))


def duplicate_real(
    real_labels: Labels,
    synthetic_labels: Labels | None,
    *,
    classes: Sequence[str],
    counts: dict[str, int] | None,
    to: To | int | None,
    limit: dict[str, int] | None = None,
    seed: int,
) -> Mixture:
    """Add `counts[class]` repeats of real images, or as many as `top_up` adds: the gain by numbers alone.

    Spread evenly: every image of a class is repeated once before any is repeated twice. `limit` as in
    `real_only`; what it leaves out is not repeated either.
    """
    del synthetic_labels
    if to is not None and counts:
        raise UserError("mix=duplicate_real takes mix.counts or mix.to, not both: set mix.to=null")
    rng = np.random.default_rng(seed)
    real = _limited(real_labels, classes, limit, seed)
    extra = [real]
    wanted = _counts(counts, classes) if to is None else _lacking(real_labels[real], classes, to)
    for name, n in wanted.items():
        rows = real[real_labels[real, list(classes).index(name)] == 1]
        if n and not len(rows):
            raise UserError(f"no training image of class {name} to repeat {n} times: mend mix.counts")
        extra += [rng.permutation(rows)[: n - start] for start in range(0, n, max(1, len(rows)))]
    return Mixture(np.sort(np.concatenate(extra)).astype(np.int64), _none())


def training_rows(train: Rows, mixture: Mixture) -> Rows:
    """Return the rows to train on: rows of the cache, and -1 - position for synthetic images."""
    return np.concatenate([train[mixture.real], -1 - mixture.synthetic]).astype(np.int64)


def composition(
    mixture: Mixture, real_labels: Labels, synthetic_labels: Labels | None, *, classes: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Count what is trained on: class → {"real", "synthetic", "duplicated"}, for the result record."""
    once = np.unique(mixture.real)
    counts = {}
    for k, name in enumerate(classes):
        all_real, n_real = (int((real_labels[rows, k] == 1).sum()) for rows in (mixture.real, once))
        n_synthetic = 0
        if synthetic_labels is not None:
            n_synthetic = int((synthetic_labels[mixture.synthetic, k] == 1).sum())
        counts[name] = {"real": n_real, "synthetic": n_synthetic, "duplicated": all_real - n_real}
    return counts


def _all(labels: Labels) -> Rows:
    return np.arange(len(labels), dtype=np.int64)


def _none() -> Rows:
    return np.empty(0, dtype=np.int64)


def _per_class(labels: Labels) -> Rows:
    return np.asarray((labels == 1).sum(axis=0), dtype=np.int64)


def _counts(counts: Mapping[str, int] | None, classes: Sequence[str]) -> dict[str, int]:
    if not counts:
        example = "{" + ",".join(f"{c}:100" for c in classes[:2]) + "}"
        raise UserError(f"mix.counts is empty; expected images to add per class: set 'mix.counts={example}'")
    return _known(counts, classes, "mix.counts")


def _known(numbers: Mapping[str, int], classes: Sequence[str], key: str) -> dict[str, int]:
    for name, n in numbers.items():
        if name not in classes:
            raise UserError(f"{key} names the class '{name}'{did_you_mean(name, classes)}")
        if n < 0:
            raise UserError(f"{key}.{name} is {n}; expected 0 or more")
    return dict(numbers)


def _limited(labels: Labels, classes: Sequence[str], limit: Mapping[str, int] | None, seed: int) -> Rows:
    """Return the rows of the training part, at most `limit[class]` of a class; which ones, `seed` says."""
    if not limit:
        return _all(labels)
    _one_class_each(labels, "mix.limit")
    rng = np.random.default_rng(seed)
    kept = np.ones(len(labels), dtype=bool)
    for name, n in _known(limit, classes, "mix.limit").items():
        rows = np.flatnonzero(labels[:, list(classes).index(name)] == 1)
        kept[rng.permutation(rows)[n:]] = False
    return np.flatnonzero(kept).astype(np.int64)


def _lacking(labels: Labels, classes: Sequence[str], to: To | int) -> dict[str, int]:
    """Return how many images every class lacks of `to`, or of (twice) as many as the largest class has."""
    per_class = _per_class(labels)
    largest = int(per_class.max(initial=0))
    goal = to if isinstance(to, int) else 2 * largest if to == "twice_max" else largest
    return {c: max(0, goal - int(n)) for c, n in zip(classes, per_class, strict=True)}


def _one_class_each(labels: Labels, key: str) -> None:
    if not (labels.sum(axis=1) == 1).all():
        raise UserError(
            f"{key} needs exactly one class per image: set mix=real_only mix.limit=null or data.classes"
        )


def _synthetic(labels: Labels | None, wanted: Mapping[str, int], classes: Sequence[str], seed: int) -> Rows:
    """Draw the wanted number per class without replacement; a set too small is refused."""
    rng = np.random.default_rng(seed)
    drawn = [_none()]
    for name, n in wanted.items():
        k = list(classes).index(name)
        rows = _none() if labels is None else np.flatnonzero(labels[:, k] == 1)
        if n > len(rows):
            raise UserError(
                f"the mix wants {n} synthetic images of {name}, {len(rows)} are there: make more with "
                f"python generate.py … n={n}, or lower what conf/mix asks for"
            )
        drawn.append(rng.permutation(rows)[:n])
    return np.sort(np.concatenate(drawn)).astype(np.int64)
