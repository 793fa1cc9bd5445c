"""What a frozen backbone makes of the images is computed once, kept beside the cache, and trained on in their place.

Without augmentation its features are a function of an image and of weights that do not move: computing them in each
epoch is the same work again. The key of a store (cxr.data.feature_store) is everything that decides them: weights and
batch statistics, layers, normalisation, pixels, precision, device, layout, versions. Head, loss, learning rate, seed and
split are not in it: jobs of a sweep share one copy, and a split that asks for other images adds them.

Nothing else changes. Batches come in the same order with the same labels, dropout draws the same masks, the loader's
position is the same, and a checkpoint holds the whole network: a run may be begun with features and continued without.
Evaluation and heat maps always take images. Features are computed in batches of the training's size and in its
precision, so that they round as they would there.

With augmentation an image is never the same twice. `features=K` keeps K augmented views of each, those of the first K
epochs, and goes round them: another training than one that draws anew, so it is asked for, and part of a run's identity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from cxr.data.feature_set import FeatureLoader, FeatureSet, Form, as_bytes
from cxr.data.feature_store import FeatureStore
from cxr.data.module import CXRDataModule
from cxr.data.sampler import Draw, EpochSampler
from cxr.files import digest
from cxr.task.classifier import ClassifierTask

__all__ = ["FrozenFeatures", "fingerprint"]

FORMAT = 1  # raise it when the same key would mean other features
BLOCK = 1024  # images hashed at once

Rows = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]


class FrozenFeatures(Callback):
    """Gives a data module the features of its training and validation images before the first step.

    Args:
        data: whose images are replaced; its test and prediction parts stay.
        folder: stores are made below it.
        images_sha256: what names the pixels of `data.images`.
        views: of each training image, where it is augmented; None: it is not.
        augment: what the augmentation is, as plain containers; with `views` only.
        say: prints a line, once for all processes.
    """

    def __init__(
        self,
        *,
        data: CXRDataModule,
        folder: Path,
        images_sha256: str,
        views: int | None,
        augment: Mapping[str, Any] | None,
        say: Callable[[str], object],
    ) -> None:
        self.data, self.folder, self.images_sha256 = data, folder, images_sha256
        self.views, self.augment, self.say = views, augment, say
        self.record: dict[str, Any] | None = None  # for the run's manifest

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compute what is missing: weights are the checkpoint's by now, and on their device. Each process looks for
        itself; one computes while the others wait for its lock, which no time limit of a collective ends."""
        assert isinstance(pl_module, ClassifierTask)
        encode = _encoder(trainer, pl_module)
        size = max(1, self.data.batch_size // trainer.world_size)
        form = self._form(encode)
        about = {**_about(trainer, pl_module), "shape": list(form.shape), "dtype": str(form.dtype)}
        plan = self._plan(about, form, pl_module.network, trainer.strategy)
        wanted = sum(len(rows) for _, rows, _ in plan)
        try:
            missing = [store.missing(rows) for store, rows, _ in plan]
            self._announce(trainer, form, wanted, sum(map(len, missing)))
            for (store, _, pixels), rows in zip(plan, missing, strict=True):
                store.fill(
                    rows,
                    lambda some, pixels=pixels: as_bytes(encode(pixels(some))),  # type: ignore[misc]  # mypy infers no default
                    size,
                    lambda: self.say("features: another process computes them; waits for it"),
                )
            self._replace([store for store, _, _ in plan], form)
        except OSError as error:
            self.say(
                f"features: {self.folder} cannot keep them ({error}); the frozen part sees every image in every epoch"
            )
            return
        self.record = {
            "stores": [store.folder.name for store, _, _ in plan],
            "images": wanted,
            "views": self.views or 1,
        }

    def _form(self, encode: Callable[[Tensor], Tensor]) -> Form:
        """Return what one image becomes."""
        side = self.data.images.shape[1]
        features = encode(torch.zeros(1, 1, side, side, dtype=torch.uint8))
        return Form(tuple(features.shape[1:]), features.dtype)

    def _plan(
        self, about: Mapping[str, Any], form: Form, network: nn.Module, strategy: Any
    ) -> list[tuple[FeatureStore, Rows, Callable[[Rows], Tensor]]]:
        """Return the stores, what each must hold, and the images of that: real ones, then synthetic ones or views."""
        name = str(getattr(network, "name", type(network).__name__)).replace("/", "-")

        def store(n: int, what: Mapping[str, Any]) -> FeatureStore:
            return FeatureStore(self.folder, name, {**about, **what}, n, form.row_bytes)

        def of(stack: Pixels) -> Callable[[Rows], Tensor]:
            return lambda rows: torch.from_numpy(np.array(stack[rows])).unsqueeze(1)

        train = np.asarray(self.data.parts["train"], np.int64)
        val = np.asarray(self.data.parts.get("val", ()), np.int64)
        real = {"images": self.images_sha256}
        if self.views is None:
            wanted = np.union1d(train[train >= 0], val)
            plan = [(store(len(self.data.images), real), wanted, of(self.data.images))]
            position = -1 - train[train < 0]
            for stack in self.data.synthetic:
                here = np.unique(position[(position >= 0) & (position < len(stack))])
                plan.append((store(len(stack), {"images": _pixels_sha256(stack)}), here, of(stack)))
                position = position - len(stack)
            return plan
        # a view is an epoch: position, seed and epoch decide how an image is changed, by the loader or on the device
        dataset: Any = self.data.train_dataloader().dataset

        def augmented(view: int) -> Callable[[Rows], Tensor]:
            def images(positions: Rows) -> Tensor:
                batch = strategy.batch_to_device(dataset.__getitems__(Draw(view, 0, positions)))
                return cast(Tensor, self.data.on_after_batch_transfer(batch, 0)["image"])

            return images

        order = {
            **real,
            "synthetic": [_pixels_sha256(stack) for stack in self.data.synthetic],
            "rows": digest(train.tolist()),
            "augment": [self.augment, self.data.augment_on, self.data.seed],
        }
        plan = [(store(len(self.data.images), real), np.unique(val), of(self.data.images))]
        for view in range(self.views):
            held = store(len(train), {**order, "view": view})
            plan.append((held, np.arange(len(train)), augmented(view)))
        return plan

    def _replace(self, stores: list[FeatureStore], form: Form) -> None:
        """Let the data module read features."""
        data, n_real = self.data, len(self.data.images)
        train = np.asarray(data.parts["train"], np.int64)
        if self.views is None:
            where = np.where(train >= 0, train, n_real - 1 - train)[None]
        else:
            where = n_real + np.arange(self.views * len(train)).reshape(self.views, -1)
        labels = np.empty((len(train), data.labels.shape[1]), np.float32)
        labels[train >= 0] = data.labels[train[train >= 0]]
        if data.synthetic_labels is not None:
            labels[train < 0] = data.synthetic_labels[-1 - train[train < 0]]
        trained = FeatureSet(stores, form, where, labels, train)
        data.instead["train"] = lambda: FeatureLoader(
            trained,
            EpochSampler(len(train), data.batch_size, data.seed, shuffle=True, drop_last=data.drop_last),
        )
        val = np.asarray(data.parts.get("val", ()), np.int64)
        if len(val):
            judged = FeatureSet(stores[:1], form, val[None], np.asarray(data.labels[val], np.float32), val)
            data.instead["val"] = lambda: FeatureLoader(
                judged,
                EpochSampler(len(val), data.eval_batch_size, data.seed, shuffle=False, drop_last=False),
            )

    def _announce(self, trainer: lightning.Trainer, form: Form, wanted: int, missing: int) -> None:
        what = (
            f"{wanted:,} images"
            if self.views is None
            else f"{wanted:,} images and {self.views} views of them"
        )
        kept = f"{wanted * form.row_bytes / 1e6:,.1f} MB in {self.folder}"
        if missing:
            self.say(f"features: the frozen part sees {missing:,} of {what} now, and none in {trainer.max_epochs} epochs; "
                     f"{kept} (features=off: every image in every epoch)")  # fmt: skip
        else:
            self.say(f"features: of {what} are there, {kept} (features=off: computed in every epoch)")


def fingerprint(network: nn.Module) -> str:
    """Return the SHA-256 of all of a network that does not learn: weights, batch statistics, constants, layers."""
    sha = hashlib.sha256()
    learns = {name for name, p in network.named_parameters() if p.requires_grad}
    for name, module in network.named_modules():
        own = {f"{name}.{k}".lstrip(".") for k, _ in module.named_parameters(recurse=False)}
        if not (own & learns) and not list(module.children()):
            sha.update(f"{name} {type(module).__name__} {module.extra_repr()}\n".encode())
    tensors = {k: p for k, p in network.named_parameters() if k not in learns} | dict(network.named_buffers())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(as_bytes(tensor.reshape(1, -1)).data)
    return sha.hexdigest()


def _about(trainer: lightning.Trainer, task: ClassifierTask) -> dict[str, Any]:
    """Return what decides features beside the images."""
    return {
        "format": FORMAT,
        "network": fingerprint(task.network),
        "precision": str(trainer.precision),
        "device": trainer.strategy.root_device.type,
        "layout": str(task.memory_format),
        "versions": {name: version(name) for name in ("torch", "timm")},
    }


def _encoder(trainer: lightning.Trainer, task: ClassifierTask) -> Callable[[Tensor], Tensor]:
    """Return images uint8 (B, 1, S, S) → features (B, …), as a training step of the trainer would have them."""
    plugin = cast(Any, trainer.precision_plugin)

    def encode(images: Tensor) -> Tensor:
        with torch.no_grad(), plugin.forward_context():
            return task.encode(images.to(trainer.strategy.root_device))

    return encode


def _pixels_sha256(stack: Pixels) -> str:
    """Return the hash of images (n, S, S)."""
    sha = hashlib.sha256(str(stack.shape).encode())
    for start in range(0, len(stack), BLOCK):
        sha.update(np.ascontiguousarray(stack[start : start + BLOCK]).data)
    return sha.hexdigest()
