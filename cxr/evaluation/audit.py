"""Looks for leaks between the parts of a run: pure functions from its images and records to verdicts.

Rows are positions in an index (see cxr.data.index); `name` turns an id into one that may be shared (cxr.share.Ids).
What a run chose and how its network answers is judged in `cxr.evaluation.audit_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.data.near import MIN_PX, Fingerprints, near_pairs
from cxr.metric.audit_record import Verdict

__all__ = ["drawn_alike", "files", "held_out_learnt", "near", "near_learnt", "patients", "recorded_split"]

Rows = npt.NDArray[np.int64]
Name = Callable[[str], str]
Parts = Mapping[str, Rows]
APART = "split.on_overlap=refuse and split=patient keep them apart: train again"


def recorded_split(computed: str, recorded: Mapping[str, str | None], n: int) -> Verdict:
    """Compare the split that the configuration makes of the images with what each record names (None: none)."""
    question = "the split that was recorded"
    other = [
        f"{where} says {(value or 'nothing')[:12]}" for where, value in recorded.items() if value != computed
    ]
    if other:
        return Verdict(question, "LEAK", f"config.yaml makes {computed[:12]} of the {n:,} images, {' and '.join(other)}: which "
                       "images trained is not what it seems", n, mend="train again under a new name, then evaluate")  # fmt: skip
    return Verdict(
        question,
        "clean",
        f"{computed[:12]}, made again from the {n:,} images, is that of {', '.join(recorded)}",
        n,
    )


def patients(index: pd.DataFrame, parts: Parts, name: Name) -> Verdict:
    """Look for patients with images in two parts."""
    question = "a patient in two parts"
    known = index["patient_id"].notna().to_numpy()
    n_images = sum(len(rows) for rows in parts.values())
    n_unknown = n_images - sum(int(known[rows].sum()) for rows in parts.values())
    if n_unknown == n_images:
        return Verdict(question, "not known", f"none of the {n_images:,} images has a patient id",
                       mend="data.patients=… where a table or a file name tells")  # fmt: skip
    crossing = list(_crossing(index, parts, "patient_id"))
    n = len({one for rows in parts.values() for one in index["patient_id"].iloc[rows].dropna()})
    but = f"; {n_unknown:,} of {n_images:,} images have no patient id" if n_unknown else ""
    if crossing:
        value, a, b = crossing[0]
        return Verdict(
            question,
            "LEAK",
            f"{len(crossing):,} of {n:,} patients{but}",
            n,
            f"{name(str(value))} ({a}, {b})",
            APART,
        )
    return Verdict(question, "clean", f"none of {n:,} patients ({_sizes(parts)} images){but}", n)


def files(index: pd.DataFrame, parts: Parts, name: Name) -> Verdict:
    """Look for files whose bytes are in two parts."""
    question = "a file in two parts"
    n = sum(len(rows) for rows in parts.values())
    crossing = list(_crossing(index, parts, "content_hash"))
    if crossing:
        value, a, b = crossing[0]
        pair = " and ".join(
            f"{name(str(index['image_id'].iloc[_row(index, parts[part], str(value))]))} ({part})"
            for part in (a, b)
        )
        return Verdict(question, "LEAK", f"{len(crossing):,} by SHA-256, of {n:,} images", n, pair, APART)
    return Verdict(question, "clean", f"none of {n:,} images, by SHA-256 ({_sizes(parts)})", n)


def near(index: pd.DataFrame, prints: Fingerprints | None, parts: Parts, name: Name) -> Verdict:
    """Look for near-duplicates in two parts, other than identical files; `prints` as in `near_learnt`."""
    question = "a near-duplicate in two parts"
    if prints is None:
        return _too_small(question)
    hashes, ids = index["content_hash"].to_numpy(), index["image_id"].to_numpy()
    rows = np.concatenate([parts[part] for part in parts])
    part_of = np.repeat(list(parts), [len(parts[part]) for part in parts])
    n = sum(len(parts[a]) * len(parts[b]) for a, b in combinations(parts, 2))
    found: list[tuple[float, str]] = []
    pairs = near_pairs(prints.take(rows))
    for a, b, likeness in zip(pairs.i, pairs.j, pairs.likeness, strict=True):
        i, j = rows[a], rows[b]
        if part_of[a] != part_of[b] and hashes[i] != hashes[j]:
            both = f"{name(str(ids[i]))} ({part_of[a]}) and {name(str(ids[j]))} ({part_of[b]})"
            found.append((float(likeness), f"{both}, {likeness:.3f} alike"))
    if found:
        return Verdict(question, "LEAK", f"{len(found):,} of {n:,} pairs are one radiograph, if not one file", n,
                       max(found)[1], "look at them (share_ids=plain names them); near_duplicates=group keeps them together: "
                       "train again")  # fmt: skip
    return Verdict(question, "clean", f"none of {n:,} pairs of images", n)


def held_out_learnt(
    question: str,
    index: pd.DataFrame,
    held_out: Rows,
    learnt: Collection[str],
    name: Name,
    *,
    who: str,
    mend: str,
) -> Verdict:
    """Look for held-out images (rows) among the content hashes that somebody learnt from."""
    hashes = index["content_hash"].to_numpy()
    known = set(learnt)
    found = [int(row) for row in held_out if hashes[row] in known]
    if found:
        first = name(str(index["image_id"].iloc[found[0]]))
        return Verdict(question, "LEAK", f"{len(found):,} of {len(held_out):,} held-out images are among the "
                       f"{len(known):,} that {who}", len(held_out), first, mend)  # fmt: skip
    told = f"none of {len(held_out):,} held-out images is among the {len(known):,} that {who}"
    return Verdict(question, "clean", told, len(held_out))


def near_learnt(
    question: str,
    index: pd.DataFrame,
    held_out: Rows,
    prints: Fingerprints | None,
    others: Fingerprints,
    learnt: Collection[str],
    name: Name,
    *,
    who: str,
    mend: str,
) -> Verdict:
    """Look for held-out images (rows) among the near-duplicates of what somebody learnt from.

    prints: of all rows of the index; None: the images are too small. others: of what was learnt from; `learnt` are
    its content hashes: an image of which the very file is among them is another question's.
    """
    if prints is None:
        return _too_small(question)
    hashes = index["content_hash"].to_numpy()
    held_out = held_out[~np.isin(hashes[held_out].astype(str), list(learnt))]
    n = len(held_out) * len(others)
    pairs = near_pairs(prints.take(held_out), others)
    found = [(float(likeness), int(held_out[i])) for i, likeness in zip(pairs.i, pairs.likeness, strict=True)]
    n_images = len({row for _, row in found})
    if found:
        likeness, row = max(found)
        first = f"{name(str(index['image_id'].iloc[row]))}, {likeness:.3f} alike"
        told = f"{n_images:,} of {len(held_out):,} held-out images are near-duplicates of the {len(others):,} that {who}"
        return Verdict(question, "LEAK", told, n, first, mend)
    told = f"none of {len(held_out):,} held-out images is near one of the {len(others):,} that {who} ({n:,} pairs)"
    return Verdict(question, "clean", told, n)


def drawn_alike(
    changed: Mapping[str, Collection[str]], n: int, name: Name, part_names: str = "validation and test"
) -> Verdict:
    """Judge images that were drawn twice for testing: `changed` are ids, by part, that differed from the cache."""
    question = "augmentation where it is tested"
    found = [(part, one) for part, ids in changed.items() for one in ids]
    if found:
        part, one = found[0]
        return Verdict(question, "LEAK", f"{len(found):,} of {n:,} {part_names} images, drawn twice by the run's own loader, are "
                       "not as the cache holds them", n, f"{name(one)} ({part})",
                       "augment training images only (CXRDataModule does), then evaluate again")  # fmt: skip
    told = f"{n:,} {part_names} images, drawn twice by the run's own loader, are the cache's to the byte"
    return Verdict(question, "clean", told, n)


def _too_small(question: str) -> Verdict:
    told = f"images of fewer than {MIN_PX} px are too small to know copies by"
    return Verdict(question, "not known", told, mend=f"train at cache.size_px={MIN_PX} or more")


def _crossing(index: pd.DataFrame, parts: Parts, column: str) -> Iterator[tuple[Any, str, str]]:
    """Yield each value of a column that is in two parts, once, with the first two that hold it."""
    values = {part: set(index[column].iloc[rows].dropna()) for part, rows in parts.items()}
    told: set[Any] = set()
    for a, b in combinations(values, 2):
        for value in sorted((values[a] & values[b]) - told):
            told.add(value)
            yield value, a, b


def _row(index: pd.DataFrame, rows: Rows, content_hash: str) -> int:
    return int(rows[np.flatnonzero(index["content_hash"].to_numpy()[rows] == content_hash)[0]])


def _sizes(parts: Parts) -> str:
    return ", ".join(f"{part} {len(rows):,}" for part, rows in parts.items())
