"""Are copies of training images found among honest images? Prints the table of docs/results/memorisation.md.

    python benchmarks/planted_copies.py data=pneumonia data.root=FOLDER split.test=0.3

Keys are those of train.py. A generator is played twice. Honest: real radiographs of half of the held-out patients, the
other half being the yardstick; and 1,000 samples of a Gaussian fitted to the training images, smooth as a GAN's.
Copying: 5 % of the honest images are replaced by changed copies of training images. Over 200 draws (which patients are
which half, which copies) it counts who is flagged, and the verdicts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hydra import compose, initialize_config_dir

from cxr.config import check_config, conf_dir, plain
from cxr.evaluation.collection import Collection, yardstick
from cxr.evaluation.memorisation import NEIGHBOURS, verdict_of
from cxr.evaluation.planted import KINDS, gaussian_samples, plant
from cxr.extractor import extract
from cxr.extractor.pixel import PixelExtractor
from cxr.metric.alignment import SIZE_PX, aligned_neighbours, normalised
from cxr.metric.memorisation import copies, share
from cxr.metric.neighbours import feature_neighbours, relative_distance
from cxr.script.prepare import Prepared, prepare

LEVEL = 0.01
PLANTED = 0.05
N_COPIES = 200  # of each kind, of as many training images
DRAWS = 200
N_GAUSSIAN, COMPONENTS = 1000, 32  # samples; principal components

Floats = npt.NDArray[np.float64]


def main(overrides: Sequence[str]) -> None:
    """Compute and print."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", [f"cache.size_px={SIZE_PX}", *overrides])
    check_config(config)
    started = time.perf_counter()
    prepared = prepare(plain(config))
    rng = np.random.default_rng(0)
    train = _collection(prepared, prepared.rows["train"])
    train = train.take(np.sort(np.unique(np.asarray(train.hashes), return_index=True)[1]))
    held = _collection(prepared, np.concatenate([prepared.rows["val"], prepared.rows["test"]]))
    rows, left_out = yardstick(held, train, seed=0)
    training, real = train.images, held.images[rows]
    source = rng.choice(len(training), min(N_COPIES, len(training)), replace=False)
    sets = {"held-out": real, "gaussian": gaussian_samples(training, N_GAUSSIAN, COMPONENTS, rng)}
    sets |= {kind: plant(training[source], kind, rng) for kind in KINDS}
    scores = {space: _scores(space, training, sets, source) for space in ("pixel", "pixel16 features")}
    print(f"left out: {left_out}")
    print(f"{len(training):,} training images; {len(real):,} held-out patients, one image each; "
          f"{len(source)} copies of each kind; {DRAWS} draws; {time.perf_counter() - started:.0f} s\n")  # fmt: skip
    for space, found in scores.items():
        print(
            f"{space}: source found for "
            + ", ".join(f"{k} {100 * v[1]:.1f} %" for k, v in found.items() if k in KINDS)
        )
        for line in _table({name: v[0] for name, v in found.items()}, len(real), rng):
            print(line)
        print()


def _collection(prepared: Prepared, rows: npt.NDArray[np.int64]) -> Collection:
    index = prepared.cached.index.iloc[rows]
    names, hashes, patients = (index[c].tolist() for c in ("image_id", "content_hash", "patient_id"))
    return Collection(np.asarray(prepared.cached.images[rows]), None, names, hashes, patients)


def _scores(
    space: str, training: npt.NDArray[np.uint8], sets: dict[str, npt.NDArray[np.uint8]], source: Any
) -> dict[str, tuple[Floats, float]]:
    """Return each set's relative distances, and how often the nearest is the image that was copied."""
    found = {}
    extractor = PixelExtractor(size_px=16)
    references = normalised(training) if space == "pixel" else _features(extractor, training)
    for name, images in sets.items():
        near = (
            aligned_neighbours(normalised(images), references, NEIGHBOURS)
            if space == "pixel"
            else feature_neighbours(_features(extractor, images), references, NEIGHBOURS)
        )
        hit = float((near.rows[:, 0] == source).mean()) if name in KINDS else float("nan")
        found[name] = (relative_distance(near), hit)
    return found


def _features(extractor: PixelExtractor, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return extract(extractor, images, batch=64, device=torch.device("cpu")).features


def _table(scores: dict[str, Floats], n_real: int, rng: np.random.Generator) -> list[str]:
    """Return the Markdown rows of one space."""
    rows = [
        "| hidden among the honest images | detected | flagged honest images | verdict “memorised” |",
        "|---|---|---|---|",
    ]
    for honest in ("held-out", "gaussian"):
        for kind in ("none", *KINDS, "one kind each"):
            rows.append(_row(scores, honest, kind, n_real, rng))
    return rows


def _row(scores: dict[str, Floats], honest: str, kind: str, n_real: int, rng: np.random.Generator) -> str:
    kinds = [] if kind == "none" else list(KINDS[:4]) if kind == "one kind each" else [kind]
    false, verdicts, planted = [], 0, 0
    caught: dict[str, list[Floats]] = {k: [] for k in kinds}
    for _ in range(DRAWS):
        order = rng.permutation(n_real)
        null = scores["held-out"][order[: n_real // 2]]
        made = (
            scores[honest][order[n_real // 2 :]] if honest == "held-out" else rng.permutation(scores[honest])
        )
        planted = round(PLANTED * len(made)) if kinds else 0
        hidden = []
        for i, one in enumerate(kinds):
            n = planted // len(kinds) + (i < planted % len(kinds))
            hidden.append(rng.choice(scores[one], n, replace=False))
        mixed = np.concatenate([made[planted:], *hidden])
        record, flagged = copies(null, mixed, level=LEVEL)
        verdicts += verdict_of([record], 0) == "memorised"
        false.append(flagged[: len(made) - planted].mean())
        for one in kinds:
            caught[one].append(scores[one] < record["threshold"])
    often = [np.mean(caught[k], axis=0) > 0.5 for k in kinds]  # by most draws' thresholds
    told = _detected(np.concatenate(often)) if kinds else "—"
    low, high = np.percentile(false, (2.5, 97.5))
    who = "real radiographs" if honest == "held-out" else "Gaussian samples"
    label = (
        f"{planted} × {kind} among {len(made) - planted} {who}" if kinds else f"nothing: {len(made)} {who}"
    )
    return (f"| {label} | {told} | {100 * np.mean(false):.1f} % ({100 * low:.1f} to {100 * high:.1f} %) | "
            f"{verdicts} of {DRAWS} |")  # fmt: skip


def _detected(hits: npt.NDArray[np.bool_]) -> str:
    found = share(hits)
    return f"{100 * found['value']:.1f} % [{100 * found['low']:.1f}, {100 * found['high']:.1f}], n = {found['n']}"


if __name__ == "__main__":
    main(sys.argv[1:])
