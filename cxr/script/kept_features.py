"""Whether a run computes its frozen backbone's features once, and of what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning

from cxr.callback.frozen_features import FrozenFeatures
from cxr.data.module import CXRDataModule
from cxr.files import read_json
from cxr.script.prepare import Prepared
from cxr.task.classifier import ClassifierTask

__all__ = ["kept_features"]


def kept_features(
    config: Mapping[str, Any],
    prepared: Prepared,
    module: CXRDataModule,
    task: lightning.LightningModule,
    say: Callable[[str], object],
) -> FrozenFeatures | None:
    """Return what gives `module` features for images; None where every epoch has work of its own to do.

    That is: the network learns, images are augmented anew in each epoch (features=auto), a part of the batches is tried
    out, or features=off.
    """
    asked = config.get("features", "auto")  # a run from before the key was there has none
    if asked == "off" or not isinstance(task, ClassifierTask) or not task.network.frozen:
        return None
    if config["trainer"]["limit_train_batches"] is not None or config["trainer"]["precision"] == "64-true":
        return None
    augmented = module.augment is not None
    if augmented and asked == "auto":
        return None
    return FrozenFeatures(
        data=module,
        folder=prepared.cached.path.parent / "frozen",
        images_sha256=read_json(prepared.cached.path / "manifest.json")["images_sha256"],
        views=min(int(asked), int(config["trainer"]["max_epochs"])) if augmented else None,
        augment=config["augment"] if augmented else None,
        say=say,
    )
