"""GAN checkpoints → a synthetic set, resumable at any block, the same bytes for the same seed.

Latents are counted (seed, index), and mapped in fixed whole blocks, so a set that was killed and continued, a
longer set, or one that keeps only the last images of a longer run holds the same image at the same index.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from cxr.callback.atomic_checkpoint import load_checkpoint
from cxr.data.picture import contact_sheet, write_png
from cxr.data.synthetic import NEAR_FILE, SyntheticSet, load_synthetic, write_synthetic
from cxr.errors import UserError, did_you_mean
from cxr.files import file_sha256, read_json, write_json
from cxr.gan.latent import check_truncation
from cxr.task.by_class import class_seed
from cxr.task.gan import sample_images
from cxr.task.sampling import latent_law
from cxr.task.version import differing, need

__all__ = ["TrainedGenerator", "curated", "load_generators", "synthesize"]

Curation = Literal["none", "last_fraction"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator with its trained weights, and where they came from."""

    generator: nn.Module
    label: str  # the class that it makes
    checkpoint: Path
    sha256: str
    weights: Literal["ema", "raw"]
    g_steps: int
    position: int | None = None  # of the class, for a generator that is told one

    def latent_seed(self, seed: int) -> int:
        """Return the seed of its latents; a conditional generator has its own for each class."""
        return seed if self.position is None else class_seed(seed, self.label)


def load_generators(
    generator: nn.Module, checkpoint: Path, *, weights: Literal["ema", "raw"]
) -> list[TrainedGenerator]:
    """Load a GAN checkpoint's weights into a built generator of the same architecture; one entry per class it makes.

    `ema` takes the moving average, `raw` the generator as trained. The entries of a conditional GAN share
    the network. Another GAN of several classes is refused: its images have no label.
    """
    content = load_checkpoint(checkpoint)
    record = content.get("gan")
    if not isinstance(record, dict):
        raise UserError(
            f"{checkpoint}: not the checkpoint of a GAN; expected a run of task=gan; name another run"
            f"{differing(content)}"
        )
    need(content, checkpoint, ("classes", "g_steps"), "gan")
    need(content, checkpoint, ("state_dict",))
    classes = list(record["classes"])
    conditional = bool(record.get("conditional", False))
    if len(classes) != 1 and not conditional:
        raise UserError(
            f"{checkpoint}: this GAN saw {len(classes)} classes ({', '.join(classes)}) and its images have "
            "no label; expected one class; train one GAN per class with train_classes=[NAME], or task=acgan"
        )
    prefix = "generator_ema." if weights == "ema" else "generator."
    state = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    if not state:
        raise UserError(
            f"{checkpoint}: holds no moving average; expected one for weights=ema; set weights=raw"
        )
    try:
        generator.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{checkpoint}: fits another generator ({reason}); build it from its run's config{differing(content)}"
        ) from None
    generator.requires_grad_(False).eval()
    cast(Any, generator).to(memory_format=torch.channels_last)
    sha256, g_steps = file_sha256(checkpoint), int(record["g_steps"])
    return [
        TrainedGenerator(
            generator, label, checkpoint, sha256, weights, g_steps, position if conditional else None
        )
        for position, label in enumerate(classes)
    ]


def curated(n: int, *, curation: Curation, fraction: float) -> int:
    """Return the index of the first latent that is kept; the n from there on are.

    `last_fraction` reads "approximately the last 7 % of the newly generated images" (Talukdar et al.): of
    ceil(n / fraction) images the last n. Latents are counted, so the others need not be made.
    """
    if curation == "none":
        return 0
    if not 0.0 < fraction <= 1.0:
        raise UserError(f"fraction: got {fraction:g}, expected a share in (0, 1]; set fraction=0.07")
    return math.ceil(n / fraction) - n


def synthesize(
    path: Path,
    gans: Sequence[TrainedGenerator],
    *,
    n: dict[str, int],
    seed: int,
    curation: Curation,
    fraction: float,
    block: int,
    precision: Precision,
    export: Literal["png", "none"],
    device: torch.device,
    trained_on: Sequence[str],
    split_fingerprint: str,
    near: Path | None = None,
    truncation: float | None = None,
    progress: bool = True,
) -> SyntheticSet:
    """Write n[class] images of each class's GAN to the synthetic set `path` and return it.

    trained_on: content hash of every real image that any of the GANs saw. near: the file of their fingerprints
    (cxr/data/near_store.py), copied into the set; None: not recorded. block: images per forward pass;
    part of the recipe, since a network's last bits depend on it. truncation: of the latents (cxr/gan/latent.py);
    None: as in training. A set that is there from the same recipe is returned; one of another recipe is refused. A
    killed call leaves `.<name>.partial`, from which the same call goes on.
    """
    recipe = _recipe(
        gans, n, seed=seed, curation=curation, fraction=fraction, block=block, precision=precision
    )
    if truncation is not None:  # a recipe without it stays as it was: sets made before it was there hold
        recipe["truncation"] = check_truncation(truncation, latent_law(gans[0].generator)[0])
    if (path / "manifest.json").is_file():
        done = load_synthetic(path)
        if done.manifest.get("recipe") != recipe:
            raise UserError(
                f"{path}: a synthetic set made from another recipe is there; set name=… to another"
            )
    else:
        partial = path.with_name(f".{path.name}.partial")
        total = sum(n.values())
        images = _generate(partial, gans, n, recipe, total, device, progress)
        index = _index(gans, n, seed=seed, curation=curation, fraction=fraction)
        manifest = {
            "classes": [gan.label for gan in gans],
            "seed": seed,
            "checkpoints": [
                {"path": str(g.checkpoint), "sha256": g.sha256, "class": g.label, "g_steps": g.g_steps}
                for g in gans
            ],
            "trained_on": sorted(set(trained_on)),
            "split_fingerprint": split_fingerprint,
            "recipe": recipe,
        }
        files = {NEAR_FILE: near.read_bytes()} if near is not None else None
        done = write_synthetic(path, images, index, manifest, contact_sheet(images, index), files)
        shutil.rmtree(partial)
    if export == "png":
        _export_png(done)
    return done


def _recipe(gans: Sequence[TrainedGenerator], n: dict[str, int], **values: Any) -> dict[str, Any]:
    """Return all that the pixels depend on, as plain containers; refuse counts that fit no GAN."""
    labels = [gan.label for gan in gans]
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(f"two GANs of the class {repeated[0]}; expected one per class and set; name one run")
    for label, count in n.items():
        if label not in labels:
            raise UserError(f"n.{label}: no GAN of that class was given{did_you_mean(label, labels)}")
        if count < 1:
            raise UserError(f"n.{label}: got {count}, expected at least 1 image; set n.{label}=…")
    if missing := [label for label in labels if label not in n]:
        raise UserError(f"n.{missing[0]}: missing, expected how many images to make; set n.{missing[0]}=…")
    if values["block"] < 1:
        raise UserError(f"block: got {values['block']}, expected at least 1 image per pass; set block=64")
    makers = [{"class": g.label, "sha256": g.sha256, "weights": g.weights, "n": n[g.label]} for g in gans]
    return {"gans": makers, **values}


def _generate(
    partial: Path,
    gans: Sequence[TrainedGenerator],
    n: dict[str, int],
    recipe: dict[str, Any],
    total: int,
    device: torch.device,
    progress: bool,
) -> npt.NDArray[np.uint8]:
    """Fill the partial memory-map block by block; what its counter says is done is not made again."""
    size = int(cast(Any, gans[0].generator).image_size_px)
    if any(cast(Any, gan.generator).image_size_px != size for gan in gans):
        raise UserError("the GANs make images of different sizes; expected one size per set; make two sets")
    state, file = partial / "progress.json", partial / "images.npy"
    done = 0
    if state.is_file() and (found := read_json(state))["recipe"] == recipe:
        done = int(found["done"])
        images = np.lib.format.open_memmap(file, mode="r+")
    else:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        images = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(total, size, size))
        write_json(state, {"recipe": recipe, "done": 0})
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("generating", total=total, completed=done)
        row = 0
        for gan in gans:
            first = curated(n[gan.label], curation=recipe["curation"], fraction=recipe["fraction"])
            gan.generator.to(device)
            for start, count in _blocks(first, n[gan.label], recipe["block"]):
                if row + count > done:
                    images[row : row + count] = _pixels(gan, start, count, recipe, device)
                    images.flush()
                    done = row + count
                    write_json(state, {"recipe": recipe, "done": done})
                    bar.update(task, completed=done)
                row += count
    return images


def _blocks(first: int, n: int, block: int) -> list[tuple[int, int]]:
    """Cut latents first … first + n - 1 where whole blocks begin; (start, count) pairs."""
    edges = [first, *range((first // block + 1) * block, first + n, block), first + n]
    return [(a, b - a) for a, b in pairwise(edges)]


def _pixels(
    gan: TrainedGenerator, start: int, count: int, recipe: dict[str, Any], device: torch.device
) -> npt.NDArray[np.uint8]:
    low = recipe["precision"] == "bfloat16"
    cast_context = torch.autocast(device.type, torch.bfloat16) if low else contextlib.nullcontext()
    with cast_context:
        images = sample_images(
            gan.generator,
            count,
            seed=gan.latent_seed(recipe["seed"]),
            start=start,
            block=recipe["block"],
            device=device,
            label=gan.position,
            truncation=recipe.get("truncation"),
        )
    return cast("npt.NDArray[np.uint8]", images[:, 0].numpy())


def _index(
    gans: Sequence[TrainedGenerator], n: dict[str, int], *, seed: int, curation: Curation, fraction: float
) -> pd.DataFrame:
    """Return one row per image, in the order of the images; nothing scores them yet, so score is NaN."""
    parts = []
    for gan in gans:
        first = curated(n[gan.label], curation=curation, fraction=fraction)
        parts.append(
            pd.DataFrame(
                {
                    "class": gan.label,
                    "z_seed": np.int64(gan.latent_seed(seed)),
                    "z_index": np.arange(first, first + n[gan.label], dtype=np.int64),
                    "checkpoint_sha256": gan.sha256,
                    "score": np.nan,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _export_png(synthetic: SyntheticSet) -> None:
    """Write png/<class>/<class>-<z_index>.png into the set; whole or absent."""
    target = synthetic.path / "png"
    if target.is_dir():
        return
    temporary = synthetic.path / ".png.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    for image, label, z in zip(
        synthetic.images, synthetic.index["class"], synthetic.index["z_index"], strict=True
    ):
        write_png(temporary / label / f"{label}-{z:07d}.png", np.asarray(image))
    temporary.replace(target)
