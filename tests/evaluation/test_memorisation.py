"""Planted copies are found, honest images are not, on phantoms and on real radiographs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxr.data.decode import fit, read_gray, to_uint8
from cxr.data.phantom import Phantom
from cxr.errors import UserError
from cxr.evaluation.collection import Collection, yardstick
from cxr.evaluation.memorisation import Pair, memorisation
from cxr.evaluation.nearest import draw_pairs, residual
from cxr.evaluation.planted import KINDS, gaussian_samples, plant
from cxr.metric.memorisation import VERDICT_P

Pixels = Any


def collection(images: Pixels, name: str, features: Any = None) -> Collection:
    ids = [f"{name}-{i}" for i in range(len(images))]
    return Collection(images, features, ids, ids, [None] * len(images))


def judged(synthetic: Pixels, training: Pixels, held_out: Pixels) -> dict[str, Any]:
    parts = [collection(x, n) for x, n in ((synthetic, "made"), (training, "train"), (held_out, "held"))]
    record, pairs = memorisation(*parts, extractor="none", level=0.01, n_resamples=50, seed=0)
    json.dumps(record, allow_nan=False)
    assert [p.synthetic for p in pairs] == [True] * 8 + [False] * 8
    return record


def check_planted(training: Pixels, held_out: Pixels, honest: Pixels, rng: np.random.Generator) -> None:
    """Without plants no verdict; with 5 %, mixed from all kinds, a verdict and every kind detected."""
    clean = judged(honest, training, held_out)
    assert clean["verdict"] == "no sign" and clean["spaces"]["pixel"]["copies"]["value"] <= 0.02
    each = max(1, round(0.05 * len(honest) / 5))
    source = rng.choice(len(training), each * len(KINDS), replace=False)
    hidden = [plant(training[source[i * each : (i + 1) * each]], kind, rng) for i, kind in enumerate(KINDS)]
    mixed = np.concatenate([honest[each * len(KINDS) :], *hidden])
    found = judged(mixed, training, held_out)
    assert found["verdict"] == "memorised"
    assert found["spaces"]["pixel"]["copies"]["p_value"] < VERDICT_P  # not by the identical ones alone
    named = {one["row"]: one for one in found["flagged"]}
    for i, row in enumerate(range(len(honest) - len(source), len(honest))):
        assert row in named, f"copy {i} of kind {KINDS[i // each]} was missed"
        assert named[row]["pixel"]["nearest"] == f"train-{source[i]}"
    assert found["n_identical"] == each  # the exact ones


@pytest.fixture(scope="module")
def chests() -> Pixels:
    source = Phantom(510, 1, ["normal"], 0.5, 64, 0, False)
    return np.stack([source.read(f"phantom/{n:06d}") for n in range(510)])


def test_planted_copies_among_phantoms(chests: Pixels) -> None:
    check_planted(chests[:150], chests[150:330], chests[330:], np.random.default_rng(0))


def test_planted_copies_among_real_radiographs(pack: Callable[[str], Path]) -> None:
    root = pack("chest-xray-pneumonia-224") / "chest_xray"
    rng = np.random.default_rng(0)
    train, test = (sorted((root / part).rglob("*.jpeg")) for part in ("train", "test"))
    chosen = [train[i] for i in rng.choice(len(train), 250, replace=False)]
    training, held_out = (
        np.stack([fit(to_uint8(read_gray(f), None), 64, "stretch") for f in files])
        for files in (chosen, test[::2])
    )
    order = rng.permutation(len(held_out))
    check_planted(training, held_out[order[:156]], held_out[order[156:]], rng)
    smooth = judged(gaussian_samples(training, 60, 16, rng), training, held_out[order[:120]])
    assert smooth["verdict"] == "no sign"  # near to everything is no copy


def test_features_are_a_space_of_their_own(chests: Pixels) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 24))
    made = np.concatenate([features[210:290], features[:10]])
    parts = [
        collection(x, n, f)
        for x, n, f in (
            (chests[210:300], "made", made),
            (chests[:60], "train", features[:60]),
            (chests[60:210], "held", features[60:210]),
        )
    ]
    record, _ = memorisation(*parts, extractor="noise", level=0.01, n_resamples=50, seed=0)
    assert record["verdict"] == "memorised" and record["spaces"]["pixel"]["copies"]["p_value"] > VERDICT_P
    found = record["spaces"]["feature"]
    assert found["copies"]["n_flagged"] >= 10 and found["protocol"] == "Euclidean, noise"
    assert found["authenticity"]["synthetic"]["value"] < found["authenticity"]["held_out"]["value"] + 0.1
    few = replace(parts[0], features=made[:, :2])
    record, _ = memorisation(few, *parts[1:], extractor="softmax", level=0.01, n_resamples=50, seed=0)
    assert set(record["spaces"]) == {"pixel"} and "too few" in record["warnings"][0]


def test_the_yardstick_has_new_patients_once() -> None:
    blank = np.zeros((6, 8, 8), np.uint8)
    training = Collection(blank[:2], None, ["t0", "t1"], ["h0", "h1"], ["anna", None])
    held = Collection(blank, None, list("abcdef"), ["h0", "x", "y", "z", "u", "v"],
                      ["kim", "anna", "lee", "lee", None, None])  # fmt: skip
    rows, left_out = yardstick(held, training, seed=0)
    assert {held.ids[i] for i in rows} in ({"c", "e", "f"}, {"d", "e", "f"})
    assert list(left_out.values()) == [1, 1, 1]


def test_too_few_images(chests: Pixels) -> None:
    few, more = collection(chests[:2], "train"), collection(chests[2:20], "other")
    with pytest.raises(UserError, match="against=test or val"):
        memorisation(more, few, more, extractor="none", level=0.01, n_resamples=5, seed=0)
    record, _ = memorisation(few, more, collection(chests[20:30], "held"), extractor="none", level=0.01,
                             n_resamples=5, seed=0)  # fmt: skip
    assert record["verdict"] == "undecided"
    assert "too few for a level of 1 %" in " ".join(record["warnings"])


def test_the_gallery_shows_what_is_left(chests: Pixels, tmp_path: Path) -> None:
    copied = np.roll(chests[0] // 2 + 20, 2, axis=1)
    left = residual(copied, chests[0])
    assert np.isnan(left).sum() == 2 * 64 and np.nanstd(left) < 2
    assert np.nanstd(residual(chests[1], chests[0])) > 8
    pairs = [
        Pair(copied, chests[0], "a" * 60, "b", made, 0.1, 0.2, 0.3) for made in (True, True, True, False)
    ]
    draw_pairs(pairs, tmp_path / "x" / "nearest.png", "training")
    drawn = cv2.imread(str(tmp_path / "x" / "nearest.png"))
    assert drawn is not None and drawn.shape[1] == 1020 and drawn.std() > 10
