"""The Lightning data module: parts of one cache, plus synthetic images in the training part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import lightning
import numpy as np
import numpy.typing as npt

from cxr.data.augment import none
from cxr.data.dataset import Augment, EpochLoader, ImageDataset, Pixels
from cxr.data.sampler import EpochSampler
from cxr.data.warp import Draws, on_device
from cxr.errors import UserError

__all__ = ["CXRDataModule"]


class CXRDataModule(lightning.LightningDataModule):
    """Batches for training, validation, test and prediction (of the test part).

    images: (N, S, S) uint8, best the memory-map of a cache; labels: (N, L) float32.
    parts: rows by part. `train` may repeat rows and hold -1 - position for synthetic images
        (see `mix.training_rows`); the other parts may not. A part that is absent is empty.
    synthetic: stacks (n, S, S) uint8, counted one after the other; synthetic_labels: (sum n, L).
    batch_size, eval_batch_size: images of a batch over all processes; see `EpochSampler`.
    augment: applied to training images one by one, with an rng that (seed, epoch, position) fixes.
    augment_on: where that is done: in the loader (cpu), on the whole batch where the network is (device; recipes that are
        pure geometry and grey values only), or wherever it costs least (auto: on a GPU if there is one).

    A batch is {"image": uint8 (B, 1, S, S), "label": float32 (B, L), "row": int64 (B,)}.
    Use it with Trainer(use_distributed_sampler=False): the sampler shares images among ranks.
    """

    def __init__(
        self,
        *,
        images: Pixels,
        labels: npt.NDArray[np.float32],
        parts: Mapping[str, npt.NDArray[np.int64]],
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        drop_last: bool,
        seed: int,
        augment: Augment | None = None,
        synthetic: Sequence[Pixels] = (),
        synthetic_labels: npt.NDArray[np.float32] | None = None,
        augment_on: Literal["auto", "cpu", "device"] = "cpu",  # a run from before the key was there
    ) -> None:
        super().__init__()
        if num_workers < 0:
            raise UserError(
                f"loader.num_workers is {num_workers}; expected 0 or more: set loader.num_workers=0"
            )
        for part in ("val", "test"):
            if len(parts.get(part, ())) and parts[part].min() < 0:
                raise ValueError(f"synthetic images in part {part}")
        self.images, self.labels, self.parts = images, labels, dict(parts)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.drop_last, self.seed = num_workers, drop_last, seed
        self.augment_on = augment_on
        self.augment = None if getattr(augment, "func", augment) is none else augment
        if self.augment is not None and augment_on != "cpu":  # only then: a hook costs something in each step
            self.on_after_batch_transfer = self._changed  # type: ignore[method-assign]
        self.synthetic, self.synthetic_labels = list(synthetic), synthetic_labels
        self.instead: dict[
            str, Callable[[], Any]
        ] = {}  # loaders of what stands for a part's images: features

    def train_dataloader(self) -> EpochLoader:
        """Return the training batches, in an order that (seed, epoch) fixes."""
        if "train" in self.instead:
            return cast(EpochLoader, self.instead["train"]())
        rows = self._rows("train")
        if not len(rows):
            raise UserError("there are no training images; expected at least one: look at split and mix")
        dataset = ImageDataset(
            self.images, self.labels, rows, self.synthetic, self.synthetic_labels, self.augment, self.seed
        )
        if (draws := self._draws_for_device()) is not None:
            dataset.augment, dataset.draws = None, draws
        if (
            self.trainer is not None
            and self.trainer.is_global_zero
            and (about := getattr(self.augment, "about", ""))
        ):
            where = "on the whole batch, on the device" if draws is not None else "in the loader, by OpenCV"
            print(f"augment: {about}, {where}", flush=True)
        sampler = EpochSampler(len(rows), self.batch_size, self.seed, shuffle=True, drop_last=self.drop_last)
        return EpochLoader(dataset, sampler, self.num_workers)

    def val_dataloader(self) -> EpochLoader | list[EpochLoader]:
        """Return the validation batches, in the order of the rows; [] (none) where the part is empty."""
        if "val" in self.instead:
            return cast(EpochLoader, self.instead["val"]())
        return self._evaluation("val") if len(self._rows("val")) else []

    def test_dataloader(self) -> EpochLoader:
        """Return the test batches, in the order of the rows."""
        return self._evaluation("test")

    def predict_dataloader(self) -> EpochLoader:
        """Return the test batches, in the order of the rows."""
        return self._evaluation("test")

    def _changed(self, batch: Any, dataloader_idx: int) -> Any:
        """Change a batch's images as it says, where they now are; what says nothing stays."""
        del dataloader_idx
        if not isinstance(batch, dict) or "theta" not in batch:
            return batch
        batch = dict(batch)
        batch["image"] = on_device(batch["image"], batch.pop("theta"), batch.pop("table", None))
        return batch

    def _draws_for_device(self) -> Draws | None:
        """Return what draws the changes that the device carries out; None where the loader does."""
        draws: Draws | None = getattr(self.augment, "changes", None)
        if self.augment_on == "device" and self.augment is not None and draws is None:
            raise UserError("loader.augment_on=device: this augmentation is more than geometry and grey values; "
                            "set loader.augment_on=auto")  # fmt: skip
        away = self.trainer is not None and self.trainer.strategy.root_device.type != "cpu"
        return draws if self.augment_on == "device" or (self.augment_on == "auto" and away) else None

    def _evaluation(self, part: str) -> EpochLoader:
        rows = self._rows(part)
        sampler = EpochSampler(len(rows), self.eval_batch_size, self.seed, shuffle=False, drop_last=False)
        return EpochLoader(ImageDataset(self.images, self.labels, rows), sampler, self.num_workers)

    def _rows(self, part: str) -> npt.NDArray[np.int64]:
        return np.asarray(self.parts.get(part, ()), dtype=np.int64)
