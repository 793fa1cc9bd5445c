"""Generated images beside real ones: nearest training images, and projections of radiographs that no GAN saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxr.data.synthetic import SyntheticSet
from cxr.evaluation.collection import Collection
from cxr.evaluation.exploration import RANGE, Part, Pixels, Rows, Sizes, Strip
from cxr.evaluation.explore_latent import latents_of, rows_of, told_class
from cxr.evaluation.project import PROTOCOL as PROJECTED_BY
from cxr.evaluation.project import passes_gradients, project
from cxr.evaluation.synthesize import TrainedGenerator
from cxr.gan.latent import mix_seed
from cxr.metric.alignment import PROTOCOL as ALIGNED_BY
from cxr.metric.alignment import aligned_neighbours, correlations, normalised
from cxr.metric.pixel_distance import pixel_distances, rms
from cxr.task.sampling import latent_law, sample_latent

__all__ = ["nearest", "projection"]

GALLERY = (
    "Images drawn from the set, each beside the nearest of the {n:,} images that trained the GAN: by pixels (RMS of the "
    "difference, gray levels), and aligned: by a distance that blur, small shifts and contrast hardly change (0 = the same, "
    "about 1 = nothing in common)."
)
COPIES = "A copy lies far below what new patients have; for a verdict see score.py memorisation=true."
PROJECTIONS = (
    "Real validation images of patients that the GAN never saw, and the image nearest to each that its generator was found to "
    "make: the latent was searched for from {starts} starts in {steps} steps. What is missing there is what the GAN does not "
    "show; in the differences red is brighter in the projection, blue darker (full at {range} gray levels)."
)
DISTANCES = (
    "Mean RMS difference of {n} images, in gray levels: projection {projection:.1f}, nearest of the set's {count:,} images (of "
    "the class) {nearest:.1f}. So few are there to be looked at, not to estimate from."
)


def nearest(made: SyntheticSet, training: Collection, held_out: Collection, seed: int, sizes: Sizes) -> Part:
    """Show some images beside the training images that are nearest to them, by pixels and by the aligned distance."""
    title, key = "Nearest training images", "nearest"
    if len(training.ids) == 0:
        why = "None of the images that trained this GAN is in the run's data: nothing to compare with."
        return Part(key, title, [why], record={"n_training": 0, "pairs": []})
    drawn = _drawn(made, min(sizes.searched, len(made.index)), seed)
    others = np.random.default_rng(seed).permutation(len(held_out.ids))[: sizes.searched]
    images = made.images[drawn]
    references = normalised(training.images)
    found = {}
    for kind, queries in (("synthetic", images), ("held-out real", held_out.images[others])):
        if len(queries):
            by_pixel = pixel_distances(queries, training.images)
            row = by_pixel.argmin(axis=1)
            aligned = aligned_neighbours(normalised(queries), references, 1)
            found[kind] = (row, by_pixel[np.arange(len(row)), row], aligned.rows[:, 0], aligned.nearest)
    row, distance, aligned_row, aligned_distance = found["synthetic"]
    strips, pairs = [], []
    for i in range(min(sizes.gallery, len(drawn))):
        label, at = str(made.index["class"].iloc[drawn[i]]), int(drawn[i])
        near, also = int(row[i]), int(aligned_row[i])
        strips.append(
            Strip(
                f"Image {at}, {label}",
                [images[i], training.images[near], training.images[also]],
                [
                    "synthetic",
                    f"nearest by pixels: {distance[i]:.1f}\n{training.ids[near]}",
                    f"nearest aligned: {aligned_distance[i]:.2f}\n{training.ids[also]}",
                ],
            )
        )
        pairs.append({"row": at, "class": label, "pixel": {"nearest": training.ids[near], "rms": float(distance[i])},
                      "aligned": {"nearest": training.ids[also], "distance": float(aligned_distance[i])}})  # fmt: skip
    medians = {
        kind: {"n": len(one[0]), "pixel_rms": float(np.median(one[1])), "aligned": float(np.median(one[3]))}
        for kind, one in found.items()
    }
    found_told = "; ".join(
        f"{kind} {one['pixel_rms']:.1f} gray levels and {one['aligned']:.2f} (n = {one['n']})"
        for kind, one in medians.items()
    )
    told = [
        GALLERY.format(n=len(training.ids)),
        f"Medians of the distance to the nearest: {found_told}. {COPIES}",
    ]
    if missing := len(set(made.manifest["trained_on"]) - set(training.hashes)):
        told.append(
            f"{missing:,} more images that trained it are not in the run's data: copies of those are not seen here."
        )
    record = {"protocol": {"pixel": "RMS difference, gray levels", "aligned": ALIGNED_BY}, "n_training": len(training.ids),
              "medians": medians, "pairs": pairs}  # fmt: skip
    return Part(key, title, told, strips, real=True, record=record)


def projection(
    made: SyntheticSet,
    gans: Sequence[TrainedGenerator],
    held_out: Collection,
    classes: Sequence[str],
    left_out: dict[str, int],
    device: torch.device,
    sizes: Sizes,
    advance: Callable[[], object],
) -> Part:
    """Show how near the generators come to real images that they never saw."""
    title, key = "Projections of held-out radiographs", "projection"
    seed, count = int(made.manifest["seed"]), len(made.index)
    chosen = _held_out_rows(classes, [gan.label for gan in gans], sizes.projected, seed)
    if not chosen:
        why = "No validation image of a patient that the GAN never saw is in the run's data: nothing to project."
        return Part(key, title, [why], record={"left_out": left_out, "images": []})
    if why_not := next(filter(None, (_no_search(made, gan, device) for gan in gans)), ""):
        return Part(key, title, [why_not], record={"left_out": left_out, "images": []})
    strips: list[Strip] = []
    record: list[dict[str, Any]] = []
    for gan in gans:
        rows = [i for i in chosen if classes[i] == gan.label]
        if not rows:
            continue
        own = rows_of(made, gan)
        real = held_out.images[np.array(rows)]
        to_set = pixel_distances(real, made.images[own])
        law, scale = latent_law(gan.generator)
        near = np.argsort(to_set, axis=1, kind="stable")[:, : max(1, sizes.starts - 1)]
        known = [latents_of(made, gan, own[one].tolist()) for one in near]
        drawn = sample_latent(gan.generator, len(rows), seed=mix_seed(seed, "project", gan.label), start=0)
        found = project(
            gan.generator,
            real,
            torch.stack([torch.cat([drawn[i : i + 1], one]) for i, one in enumerate(known)]),
            None if gan.position is None else [gan.position] * len(rows),
            law=law,
            scale=scale,
            steps=sizes.projection_steps,
            device=device,
            advance=advance,
        )
        aligned_set = normalised(made.images[own])
        for i, row in enumerate(rows):
            query = normalised(real[i : i + 1])
            best = own[near[i, 0]]
            by_shape = aligned_neighbours(query, aligned_set, 1)
            one = {
                "id": held_out.ids[row],
                "class": gan.label,
                "projection": {"pixel_rms": float(rms(found.images[i], real[i])),
                               "aligned": _aligned(query, normalised(found.images[i : i + 1]))},
                "nearest_synthetic": {"n": len(own), "pixel_rms": float(to_set[i].min()), "row": int(best),
                                      "aligned": float(by_shape.nearest[0]), "aligned_row": int(own[by_shape.rows[0, 0]])},
                "start": "random" if found.start[i] == 0 else f"image {int(own[near[i, found.start[i] - 1]])}",
                "objective": found.objective[i].tolist(),
                "latent": found.latents[i].tolist(),
            }  # fmt: skip
            record.append(one)
            strips.append(_projected(one, real[i], found.images[i], np.asarray(made.images[best])))
    strips = [
        s for _, s in sorted(zip([r["id"] for r in record], strips, strict=True), key=lambda pair: pair[0])
    ]
    record.sort(key=lambda r: r["id"])
    means = [
        float(np.mean([one[kind]["pixel_rms"] for one in record]))
        for kind in ("projection", "nearest_synthetic")
    ]
    told = [
        PROJECTIONS.format(starts=sizes.starts, steps=sizes.projection_steps, range=RANGE),
        DISTANCES.format(n=len(record), projection=means[0], count=count, nearest=means[1]),
    ]
    settings = {"protocol": PROJECTED_BY, "aligned": ALIGNED_BY, "starts": sizes.starts, "steps": sizes.projection_steps,
                "truncation": None, "left_out": left_out, "n_held_out": len(held_out.ids)}  # fmt: skip
    return Part(key, title, told, strips, real=True, record={**settings, "images": record})


def _no_search(made: SyntheticSet, gan: TrainedGenerator, device: torch.device) -> str:
    """Return why a generator's latents are not searched for a real image; "" where they are."""
    z = latents_of(made, gan, rows_of(made, gan)[:1])
    if z.shape[1] >= made.images[0].size:
        return (
            f"This generator's latents are {z.shape[1]:,} numbers, for images of {made.images[0].size:,} pixels, as a diffusion "
            "model's are: some latent gives nearly any image, so to find it says nothing of what the model has learnt."
        )
    if not passes_gradients(gan.generator, z, told_class(gan, 1, device), device):
        return (
            "This generator's images have no gradient in its latents: it cannot be searched for a real image."
        )
    return ""


def _projected(one: dict[str, Any], real: Pixels, image: Pixels, nearest: Pixels) -> Strip:
    shown, other = one["projection"], one["nearest_synthetic"]
    aligned = f"\nnearest aligned {other['aligned']:.2f}"
    return Strip(
        f"{one['class']}, {one['id']}",
        [real, image, image.astype(np.int16) - real, nearest],
        [
            "real",
            f"projection: {shown['pixel_rms']:.1f}\naligned {shown['aligned']:.2f}",
            "projection − real",
            f"nearest of {other['n']:,} synthetic, image {other['row']}: {other['pixel_rms']:.1f}{aligned}",
        ],
    )


def _held_out_rows(classes: Sequence[str], wanted: Sequence[str], n: int, seed: int) -> list[int]:
    """Return up to n rows, the classes in turn, by a draw."""
    order = np.random.default_rng(mix_seed(seed, "project")).permutation(len(classes)).tolist()
    waiting = {label: [i for i in order if classes[i] == label] for label in wanted}
    chosen: list[int] = []
    while len(chosen) < n and any(waiting.values()):
        for label in wanted:
            if waiting[label] and len(chosen) < n:
                chosen.append(waiting[label].pop(0))
    return chosen


def _drawn(made: SyntheticSet, n: int, seed: int) -> Rows:
    """Return n rows of a set, the classes in turn, by a draw."""
    rng = np.random.default_rng(mix_seed(seed, "nearest"))
    labels = made.index["class"].to_numpy()
    order = rng.permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in sorted(set(labels)):
        own = order[labels[order] == label]
        turn[own] = np.arange(len(own))
    return np.asarray(order[np.argsort(turn[order], kind="stable")][:n], np.int64)


def _aligned(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Return the aligned distance of two normalised images (1, 64, 64)."""
    return max(0.0, 1.0 - float(correlations(a[0], b).max()))
