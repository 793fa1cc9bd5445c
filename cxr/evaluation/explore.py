"""What a trained generator's latents hold, for people: ways between images, classes, nearest real images, projections.

Everything is a function of the set (its seed, its GAN, its truncation) and of the run's real images. Few images of each
kind: they are there to be looked at, and each number stands with its n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from cxr.data.synthetic import SyntheticSet
from cxr.errors import UserError
from cxr.evaluation.collection import Collection, first_of_each, yardstick
from cxr.evaluation.exploration import Part, Sizes
from cxr.evaluation.explore_latent import interpolation, morph
from cxr.evaluation.explore_real import nearest, projection
from cxr.evaluation.synthesize import TrainedGenerator

__all__ = ["explore"]


def explore(
    made: SyntheticSet,
    gans: Sequence[TrainedGenerator],
    training: Collection,
    held_out: Collection,
    held_out_classes: Sequence[str],
    *,
    device: torch.device,
    sizes: Sizes,
    advance: Callable[[], object] = lambda: None,
) -> list[Part]:
    """Look into the GANs of a set that they made.

    Args:
        training: the real images that trained them, at the set's size; one that is there twice counts once.
        held_out: real validation images; those that trained the GANs, or whose patient did, are left out.
        held_out_classes: of each of them, "" where it is of none that the GANs make.
        advance: called `sizes.projection_steps` times for each GAN.
    """
    size_px = int(made.images.shape[1])
    for name, one in (("training", training), ("validation", held_out)):
        if len(one.ids) and one.images.shape[1] != size_px:
            raise UserError(
                f"explore: {name} images have {one.images.shape[1]} px and the set {size_px}; set explore=false"
            )
    for gan in gans:
        gan.generator.to(device).eval()
    training = training.take(first_of_each(training.hashes))
    seed = int(made.manifest["seed"])
    rows, left_out = yardstick(held_out, training, seed)
    classes = [held_out_classes[i] for i in rows.tolist()]
    held_out = held_out.take(rows)
    return [
        interpolation(made, gans, device, sizes),
        morph(made, gans, device, sizes),
        nearest(made, training, held_out, seed, sizes),
        projection(made, gans, held_out, classes, left_out, device, sizes, advance),
    ]
