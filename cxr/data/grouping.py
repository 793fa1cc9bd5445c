"""Groups of images that belong together, and dealing them out to parts."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["allot", "fold_rows", "groups_of", "near_groups", "strata", "surplus"]

Ints = npt.NDArray[np.int64]


def groups_of(index: pd.DataFrame, *, patients: bool = True) -> Ints:
    """Return a group number (N,) per row: the connected components over content hash, patient id and near_group.

    `near_group` (see `near_groups`) is a column only where near-duplicates are to be kept together.

    One patient's images are one group, and so are two patients of whom one file is the
    same; an unknown patient links nothing. Numbered by first appearance.
    """
    parent = list(range(len(index)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    near = ["near_group"] if "near_group" in index else []
    for column in ["content_hash", *(["patient_id"] if patients else []), *near]:
        first: dict[str, int] = {}
        for row, value in enumerate(index[column]):
            if pd.notna(value):
                a, b = root(first.setdefault(value, row)), root(row)
                parent[max(a, b)] = min(a, b)
    roots = np.array([root(row) for row in range(len(parent))], dtype=np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64).reshape(-1)


def near_groups(index: pd.DataFrame, i: Ints, j: Ints) -> pd.DataFrame:
    """Return the index with a column near_group: the same name for rows that pairs (i, j) link, blank for others."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    linked = coo_matrix((np.ones(len(i), np.int8), (i, j)), shape=(len(index), len(index)))
    chain = connected_components(linked, directed=False)[1]
    names = np.full(len(index), None, object)
    for row in np.union1d(i, j):
        names[row] = f"near-{chain[row]}"
    return index.assign(near_group=names)


def strata(labels: npt.NDArray[np.float32]) -> Ints:
    """Return one class (N,) per row of labels (N, L): the rarest that the row has; L where it has none."""
    positive = labels == 1
    order = np.argsort(positive.sum(axis=0), kind="stable")
    has = positive[:, order]
    rarest = order[has.argmax(axis=1)]
    return np.asarray(np.where(has.any(axis=1), rarest, labels.shape[1]), dtype=np.int64)


def fold_rows(
    groups: Ints, labels: npt.NDArray[np.float32], folds: int, seed: int
) -> list[tuple[Ints, Ints]]:
    """Return (other rows, tested rows) of each fold, sorted; groups whole, stratified by `strata`.

    Raises:
        ValueError: scikit-learn's, where no class has as many images as there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # of a class with fewer images than folds: the caller names it
        warnings.filterwarnings("ignore", message="The least populated class")
        pairs = list(splitter.split(np.zeros(len(groups)), strata(labels), groups))
    return [(np.sort(rest).astype(np.int64), np.sort(test).astype(np.int64)) for rest, test in pairs]


def allot(groups: Ints, labels: npt.NDArray[np.float32], sizes: list[int], seed: int) -> Ints:
    """Return the part (N,) of every row: groups whole, `sizes` images per part, classes in proportion.

    Greedy: a group goes where the squared lack of every class, relative to what the part
    should have, falls most, and not where it would overfill a part while it fits another.
    Groups of several images come first, in random order (sorted by size, the largest would
    always train), then single images even out what the groups left.
    """
    positive = labels == 1
    counted = np.column_stack([positive, ~positive.any(axis=1)]).astype(np.float64)
    share = np.array(sizes, dtype=np.float64) / max(1, len(groups))
    target = np.column_stack([np.outer(share, counted.sum(axis=0)), sizes])  # (parts, classes + 1)
    weight = 1.0 / np.maximum(target, 1e-9)
    weight[:, :-1][target[:, :-1] == 0] = 0.0

    _, group = np.unique(groups, return_inverse=True)
    group = group.reshape(-1)
    n_images = np.bincount(group)
    content = np.zeros((len(n_images), counted.shape[1]))
    np.add.at(content, group, counted)
    content = np.column_stack([content, n_images])

    rng = np.random.default_rng(seed)
    order = rng.permutation(len(n_images))
    order = order[np.argsort(n_images[order] == 1, kind="stable")]
    have = np.zeros_like(target)
    part_of = np.zeros(len(n_images), dtype=np.int64)
    open_parts = np.array(sizes) > 0
    # Without it, the first groups would go to the largest part whatever the seed.
    dither = rng.random(len(sizes)) * n_images.max(initial=0)
    for g in order:
        cost = ((2 * (have - target) * content[g] + content[g] ** 2) * weight).sum(axis=1)
        if n_images[g] > 1:
            cost += 2 * dither * n_images[g] * weight[:, -1]
        fits = open_parts & (have[:, -1] + n_images[g] <= target[:, -1])
        cost[~(fits if fits.any() else open_parts)] = np.inf
        part_of[g] = int(cost.argmin())
        have[part_of[g]] += content[g]
    return part_of[group]


def surplus(groups: Ints, labels: npt.NDArray[np.float32], limits: Ints, seed: int) -> npt.NDArray[np.bool_]:
    """Return the rows (N,) to give away so that at most `limits` (L,) images of every class stay.

    Groups go whole, and only those of which every image is of classes that are over their limit,
    in random order, those of several classes first, as one class at its limit would keep them. Where
    the last ones to go are several images, a class may end a little below.
    """
    positive = labels == 1
    _, group = np.unique(groups, return_inverse=True)
    group = group.reshape(-1)
    content = np.zeros((group.max(initial=-1) + 1, positive.shape[1]), dtype=np.int64)
    np.add.at(content, group, positive)
    labelled = np.ones(len(content), dtype=bool)
    labelled[group[~positive.any(axis=1)]] = False
    gone = np.zeros(len(content), dtype=bool)
    over = positive.sum(axis=0) - limits
    order = np.random.default_rng(seed).permutation(len(content))
    most_classes_first = order[np.argsort(-(content[order] > 0).sum(axis=1), kind="stable")]
    smallest_first = order[np.argsort(content[order].sum(axis=1), kind="stable")]
    # First what leaves no class below its limit, then the smallest that is needed.
    for ordered, need in ((most_classes_first, content), (smallest_first, np.minimum(content, 1))):
        for g in ordered:
            if labelled[g] and not gone[g] and (over >= need[g])[content[g] > 0].all():
                gone[g] = True
                over = over - content[g]
    return gone[group]
