"""What tasks share whose generator is told a class: whose class an image has, and samples class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr.errors import UserError
from cxr.gan.latent import mix_seed
from cxr.task.sampling import sample_images

__all__ = ["check_classes", "check_one_class_each", "class_counts", "class_seed", "sample_by_class", "shares"]


def check_classes(
    network: nn.Module, classes: Sequence[str], where: str, *, tasks: str, instead: str
) -> None:
    """Refuse a network that is told no class, or another number of them than there are.

    where: its key in the configuration; tasks: who needs it, with the verb; instead: what to set where it is told none.
    """
    found = getattr(network, "n_classes", None)
    if found is None:
        raise UserError(
            f"{where}: {tasks} networks with classes, got {type(network).__name__} without; set {instead}"
        )
    if found != len(classes):
        raise UserError(
            f"{where}.n_classes: got {found}, expected {len(classes)} ({', '.join(classes)}); "
            f"set {where}.n_classes={len(classes)}"
        )


def check_one_class_each(data: Any, columns: Sequence[int], classes: Sequence[str], what: str) -> None:
    """Refuse training images of a data module that have none of the classes (`columns` of the labels), or several."""
    chosen: npt.NDArray[np.float32] = data.labels[data.parts["train"]][:, columns]
    if bad := int(((chosen == 1).sum(axis=1) != 1).sum()):
        raise UserError(
            f"task: {what} needs exactly one of {', '.join(classes)} per image, and {bad} of "
            f"{len(chosen)} training images have none or several; choose classes that exclude each other: "
            "set train_classes=[…], or train a GAN per class with task=gan"
        )


def sample_by_class(
    generator: nn.Module,
    counts: Sequence[tuple[str, int]],
    *,
    seed: int,
    start: int,
    part: tuple[int, int] | None,
    device: torch.device,
) -> Tensor:
    """Return uint8 images (n, 1, H, H), one class after the other, from latent `start` of each class's seed.

    counts: of images for each class, in the generator's order. part: (first, last): only images first … last - 1 of all,
    of the same bytes as among all.
    """
    first, last = part or (0, sum(count for _, count in counts))
    pieces, before = [], 0
    for label, (name, count) in enumerate(counts):
        begin, end = (min(max(edge - before, 0), count) for edge in (first, last))
        before += count
        pieces.append(
            sample_images(
                generator, end - begin, seed=class_seed(seed, name), start=start + begin,
                block=min(max(count, 1), 64), device=device, label=label,
            )
        )  # fmt: skip
    return torch.cat(pieces)


def class_counts(n: int, columns: Sequence[int], label_counts: Sequence[int] | None) -> list[int]:
    """Divide n images among classes as often as their columns occur in the labels; without counts, equally."""
    weights = [1] * len(columns)
    if label_counts is not None and any(label_counts[column] for column in columns):
        weights = [label_counts[column] for column in columns]
    return shares(n, weights)


def class_seed(seed: int, name: str) -> int:
    """Return the seed of a class's latents: with one for all, image i of each class would be made from the same."""
    return mix_seed(seed, "class", name)


def shares(n: int, weights: Sequence[int]) -> list[int]:
    """Divide n in proportion to non-negative weights, not all zero; what is left over goes by largest remainder."""
    total = sum(weights)
    counts = [n * weight // total for weight in weights]
    order = sorted(range(len(weights)), key=lambda k: (-(n * weights[k] % total), k))
    for k in order[: n - sum(counts)]:
        counts[k] += 1
    return counts
