"""The guard against near-duplicates: in two parts of a split, and among what trained a synthetic set's GAN."""

from __future__ import annotations

from itertools import combinations
from typing import Any, Literal

import numpy as np

from cxr.data.near import Fingerprints, NearPairs, near_pairs
from cxr.data.near_store import NEAR_FILE, looked_up, read_prints
from cxr.data.split import PARTS
from cxr.data.synthetic import SyntheticSet
from cxr.errors import UserError
from cxr.script.prepare import Prepared

__all__ = ["NearPolicy", "guard_near", "training_prints"]

NearPolicy = Literal["report", "refuse", "group", "off"]
FIRST = 20  # pairs that a manifest lists
REFUSED = "or near_duplicates=report trains all the same and says so"


def guard_near(prepared: Prepared, policy: NearPolicy) -> tuple[dict[str, Any], list[str]]:
    """Return the record for a run's manifest, and the lines to print.

    Parts are compared in pairs; identical files are not counted, which the split keeps together or tells of.
    Held-out images are compared with the images that trained each synthetic set's GAN, where the set kept their
    fingerprints. Under `group` what the split has kept together is in one part, and what a shipped split has
    not is reported.

    Raises:
        UserError: policy is `refuse` and there is one.
    """
    if policy == "off":
        return {"policy": "off"}, []
    found = looked_up(prepared.cached)
    if found is None:
        size_px = prepared.cached.images.shape[1]
        return {"policy": policy, "looked": False, "why": f"images of {size_px} px, fewer than 32"}, []
    prints, pairs = found
    record: dict[str, Any] = {"policy": policy, "looked": True}
    record["across_parts"], lines = _across(prepared, pairs, policy)
    record["synthetic"] = {}
    for one in prepared.synthetic:
        record["synthetic"][one.path.name], told = _of_set(prepared, prints, one, policy)
        lines += told
    return record, lines


def training_prints(prepared: Prepared) -> Fingerprints | None:
    """Return the fingerprints of the real images that are trained on, each once; None below 32 px."""
    if (found := looked_up(prepared.cached)) is None:
        return None
    rows = prepared.rows["train"]
    if prepared.mixture is not None:
        rows = rows[prepared.mixture.real]
    return found[0].take(np.unique(rows))


def _across(prepared: Prepared, pairs: NearPairs, policy: NearPolicy) -> tuple[dict[str, Any], list[str]]:
    """Look for pairs of which one image is in one part and one in another."""
    index = prepared.cached.index
    hashes, names = index["content_hash"].to_numpy(), index["path"].to_numpy()
    part = np.full(len(index), -1)
    for number, name in enumerate(PARTS):
        part[prepared.rows[name]] = number
    a, b = part[pairs.i], part[pairs.j]
    crossing = (a != b) & (a >= 0) & (b >= 0) & (hashes[pairs.i] != hashes[pairs.j])
    order = np.flatnonzero(crossing)[np.argsort(-pairs.likeness[crossing], kind="stable")]
    counts = {
        f"{PARTS[p]}/{PARTS[q]}": int((((a == p) & (b == q)) | ((a == q) & (b == p)))[crossing].sum())
        for p, q in combinations(range(len(PARTS)), 2)
    }
    listed = [
        {"parts": [PARTS[a[k]], PARTS[b[k]]], "content_hash": [str(hashes[pairs.i[k]]), str(hashes[pairs.j[k]])],
         "likeness": round(float(pairs.likeness[k]), 4)}
        for k in order[:FIRST]
    ]  # fmt: skip
    record = {"n": len(order), "counts": counts, "first": listed}
    if not len(order):
        return record, []
    k = order[0]
    told = (
        f"{len(order)} near-duplicate pairs lie in two parts ("
        + ", ".join(f"{n} {which}" for which, n in counts.items() if n)
        + f"), the most alike are {names[pairs.i[k]]} ({PARTS[a[k]]}) and {names[pairs.j[k]]} ({PARTS[b[k]]}), "
        f"{pairs.likeness[k]:.2f} of 1"
    )
    mend = "near_duplicates=group keeps them together"
    if policy == "group":
        mend = "the split is shipped so: draw one, e.g. split=patient"
    if policy == "refuse":
        raise UserError(f"leak: {told}; expected none: {mend}, {REFUSED}")
    return record, [f"warning: {told}; {mend}"]


def _of_set(
    prepared: Prepared, prints: Fingerprints, one: SyntheticSet, policy: NearPolicy
) -> tuple[dict[str, Any], list[str]]:
    """Look for held-out images among the near-duplicates of what trained a set's GAN; identical ones are check_leak's."""
    sha256 = one.manifest.get("near_sha256")
    if sha256 is None:
        return {"n": None, "why": "the set keeps no fingerprints of its GAN's images"}, []
    others = read_prints(one.path / NEAR_FILE, sha256)
    rows = np.concatenate([prepared.split.parts["val"], prepared.split.parts["test"]])
    index = prepared.cached.index
    seen = np.isin(index["content_hash"].to_numpy()[rows].astype(str), list(one.manifest["trained_on"]))
    rows = rows[~seen]
    pairs = near_pairs(prints.take(rows), others)
    copies = rows[np.unique(pairs.i)]
    record = {"n": len(copies), "n_held_out": len(rows), "n_trained_on": len(others),
              "content_hash": [str(h) for h in index["content_hash"].to_numpy()[copies[:FIRST]]]}  # fmt: skip
    if not len(copies):
        return record, []
    told = (
        f"{len(copies):,} of the {len(rows):,} validation and test images are near-duplicates of images that trained "
        f"the GAN of synthetic set {one.path.name}, the first is {index['path'].to_numpy()[copies[0]]}"
    )
    if policy == "refuse":
        raise UserError(f"leak: {told}; expected none: train the GAN on the classifier's split, {REFUSED}")
    return record, [f"warning: {told}"]
