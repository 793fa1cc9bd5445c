"""Ways between latents and from class to class: what a generator makes of what lies between its images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxr.data.convert import to_uint8
from cxr.data.synthetic import SyntheticSet
from cxr.evaluation.exploration import RANGE, Part, Pixels, Rows, Sizes, Strip
from cxr.evaluation.synthesize import TrainedGenerator
from cxr.gan.latent import interpolate, mix_seed
from cxr.metric.pixel_distance import rms
from cxr.task.sampling import latent_law, sample_latent

__all__ = ["images_at", "interpolation", "latents_of", "morph", "rows_of", "told_class"]

WAYS = (
    "From the latent of one image of the set to that of another, in {steps} images, {how}. A GAN that has learnt what "
    "radiographs have in common changes steadily; one that keeps a few pictures jumps from one to the next."
)
MORPHS = (
    "What the class changes, all else being equal; in the differences red is brighter, blue darker (full at "
    f"{RANGE} gray levels)."
)


def interpolation(
    made: SyntheticSet, gans: Sequence[TrainedGenerator], device: torch.device, sizes: Sizes
) -> Part:
    """Show ways between the first images of each class: pairs 0–1, 2–3, …"""
    strips, record = [], []
    for gan in gans:
        rows = rows_of(made, gan)
        law, _ = latent_law(gan.generator)
        for k in range(min(max(1, sizes.strips // len(gans)), len(rows) // 2)):
            a, b = rows[2 * k : 2 * k + 2].tolist()
            ends = latents_of(made, gan, [a, b])
            way = interpolate(ends[0], ends[1], sizes.steps, law)
            images = images_at(gan, way, None, device)
            gaps = [float(rms(x, y)) for x, y in pairwise(images)]
            strips.append(
                Strip(
                    f"{gan.label}: image {a} to image {b}. Steps of {np.mean(gaps):.1f} gray levels (RMS) on average, at most "
                    f"{max(gaps):.1f}.",
                    list(images),
                    [f"image {a}", *[""] * (sizes.steps - 2), f"image {b}"],
                )
            )
            record.append({"class": gan.label, "rows": [a, b], "rms_step": gaps})
    law, _ = latent_law(gans[0].generator)
    straight = (
        "straight, since these latents are uniform"
        if law == "uniform"
        else "along the great circle between them"
    )
    told = [WAYS.format(steps=sizes.steps, how=straight)]
    if not strips:
        told.append("The set has fewer than two images of a class: nothing to go between.")
    return Part("interpolation", "Between two images", told, strips, record={"strips": record})


def morph(made: SyntheticSet, gans: Sequence[TrainedGenerator], device: torch.device, sizes: Sizes) -> Part:
    """Show the same latents as every class, and what differs."""
    title, key = "The same latent as every class", "morph"
    classes = [gan for gan in gans if gan.position is not None]
    if len(classes) < 2:
        why = "This GAN is not told a class: there is none to change."
        return Part(key, title, [why], record={"classes": [gan.label for gan in gans], "strips": []})
    labels = [gan.label for gan in classes]
    positions = [cast(int, gan.position) for gan in classes]
    gan, seed = classes[0], mix_seed(int(made.manifest["seed"]), "morph")
    z = sample_latent(gan.generator, sizes.morph_latents, seed=seed, start=0, truncation=truncation_of(made))
    hard = [images_at(gan, z, torch.full((len(z),), p), device) for p in positions]
    soft = bool(getattr(gan.generator, "soft_labels", False))
    between = max(1, (sizes.steps - 1) // (len(labels) - 1))
    strips = []
    for i in range(min(sizes.morphs, len(z))):
        pictures: list[npt.NDArray[Any]] = []
        captions: list[str] = []
        if soft:
            weights, captions = _blends(labels, positions, between, int(cast(Any, gan.generator).n_classes))
            pictures = list(images_at(gan, z[i : i + 1].expand(len(weights), -1), weights, device))
        else:
            pictures, captions = [one[i] for one in hard], list(labels)
        for label, one in zip(labels[1:], hard[1:], strict=True):
            pictures.append(one[i].astype(np.int16) - hard[0][i])
            captions.append(f"{label} − {labels[0]}")
        strips.append(Strip(f"Latent {i}", pictures, captions))
    by_class = float(np.mean([rms(a, b).mean() for k, a in enumerate(hard) for b in hard[k + 1 :]]))
    by_latent = float(np.mean([rms(one, np.roll(one, 1, axis=0)).mean() for one in hard]))
    how = (
        "Between classes, their weights go from one to the other."
        if soft
        else "This generator takes no class between two others: the classes stand side by side."
    )
    compared = (
        f"Another class changes an image by {by_class:.1f} gray levels (RMS), another latent of the same class by "
        f"{by_latent:.1f} (mean over {len(z)} latents)."
    )
    told = [f"{MORPHS} {how}", compared]
    record = {"classes": labels, "soft": soft, "z_seed": str(seed), "n_latents": len(z),
              "rms_between_classes": by_class, "rms_between_latents": by_latent}  # fmt: skip
    return Part(key, title, told, strips, record=record)


def _blends(
    labels: Sequence[str], positions: Sequence[int], between: int, n_classes: int
) -> tuple[Tensor, list[str]]:
    """Return weights of the classes (W, n_classes) from each to the next, and captions."""
    rows, captions = [], []
    for k in range(len(labels) - 1):
        for step in range(between):
            share = step / between
            row = torch.zeros(n_classes)
            row[positions[k]], row[positions[k + 1]] = 1 - share, share
            rows.append(row)
            captions.append(labels[k] if step == 0 else f"{share:.0%}")
    last = torch.zeros(n_classes)
    last[positions[-1]] = 1.0
    return torch.stack([*rows, last]), [*captions, labels[-1]]


def rows_of(made: SyntheticSet, gan: TrainedGenerator) -> Rows:
    """Return the rows of a set that a GAN made."""
    return np.flatnonzero((made.index["class"] == gan.label).to_numpy())


def truncation_of(made: SyntheticSet) -> float | None:
    """Return what a set's latents were held to."""
    return cast("float | None", made.manifest["recipe"].get("truncation"))


def latents_of(made: SyntheticSet, gan: TrainedGenerator, rows: Sequence[int] | Rows) -> Tensor:
    """Return the latents (n, latent_dim) that images of the set were made from."""
    index = made.index.iloc[list(rows)]
    return torch.cat(
        [
            sample_latent(gan.generator, 1, seed=int(seed), start=int(at), truncation=truncation_of(made))
            for seed, at in zip(index["z_seed"], index["z_index"], strict=True)
        ]
    )


def told_class(gan: TrainedGenerator, n: int, device: torch.device) -> Tensor | None:
    """Return the class that a conditional GAN is told for n images, (n,)."""
    return None if gan.position is None else torch.full((n,), gan.position, device=device)


@torch.inference_mode()
def images_at(gan: TrainedGenerator, z: Tensor, labels: Tensor | None, device: torch.device) -> Pixels:
    """Return uint8 (n, S, S) of latents (n, latent_dim), as the GAN's class or as `labels`."""
    told = told_class(gan, len(z), device) if labels is None else labels.to(device)
    made = gan.generator(z.to(device)) if told is None else gan.generator(z.to(device), told)
    return cast(Pixels, to_uint8(made)[:, 0].cpu().numpy())
