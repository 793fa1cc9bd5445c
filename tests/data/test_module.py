"""Batches: the order is a function of (seed, epoch), and a run that stopped goes on exactly."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import pickle
import threading
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cxr.data.dataset import EpochLoader, ImageDataset
from cxr.data.module import CXRDataModule
from cxr.data.sampler import EpochSampler
from cxr.errors import UserError

N = 23


@pytest.fixture
def images(tmp_path: Path) -> Any:
    """(23, 4, 4) on the disk; the first pixel of image i is i."""
    array = np.random.default_rng(0).integers(0, 256, (N, 4, 4), dtype=np.uint8)
    array[:, 0, 0] = np.arange(N)
    np.save(tmp_path / "images.npy", array)
    return np.load(tmp_path / "images.npy", mmap_mode="r")


LABELS = np.eye(2, dtype=np.float32)[np.arange(N) % 2]


def jitter(batch: Any, rng: np.random.Generator) -> Any:
    batch[:, 1] = rng.integers(0, 256, batch[:, 1].shape, dtype=np.uint8)
    return batch


def module(images: Any, num_workers: int = 0, **changes: Any) -> CXRDataModule:
    settings: dict[str, Any] = {
        "parts": {"train": np.arange(N), "val": np.arange(5), "test": np.arange(5, 12)},
        "batch_size": 4, "eval_batch_size": 3, "drop_last": False, "seed": 0, "augment": jitter,
    }  # fmt: skip
    return CXRDataModule(images=images, labels=LABELS, num_workers=num_workers, **(settings | changes))


def as_bytes(batches: Any) -> list[bytes]:
    return [b"".join(batch[key].numpy().tobytes() for key in ("image", "label", "row")) for batch in batches]


def test_a_batch_holds_the_pixels_labels_and_rows(images: Any) -> None:
    batches = list(module(images, augment=None).train_dataloader())
    assert [len(batch["row"]) for batch in batches] == [4, 4, 4, 4, 4, 3]
    for batch in batches:
        assert batch["image"].dtype == torch.uint8 and batch["image"].shape[1:] == (1, 4, 4)
        assert batch["label"].dtype == torch.float32 and batch["row"].dtype == torch.int64
        assert (batch["image"].numpy()[:, 0] == images[batch["row"].numpy()]).all()
        assert (batch["label"].numpy() == LABELS[batch["row"].numpy()]).all()
        batch["image"].zero_()  # the batch is ours to change
    assert sorted(torch.cat([b["row"] for b in batches]).tolist()) == list(range(N))
    assert (images[:, 0, 0] == np.arange(N)).all(), "the cache is not"


def test_validation_and_test_are_in_order_and_not_augmented(images: Any) -> None:
    data = module(images)
    for loader, rows in ((data.val_dataloader(), range(5)), (data.test_dataloader(), range(5, 12))):
        for _ in range(2):
            batches: list[Any] = list(loader)
            assert torch.cat([b["row"] for b in batches]).tolist() == list(rows)
            assert (torch.cat([b["image"] for b in batches])[:, 0].numpy() == images[list(rows)]).all()
    assert module(images, parts={"train": np.arange(3)}).val_dataloader() == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_order_and_bytes_depend_on_seed_and_epoch_alone(images: Any, num_workers: int) -> None:
    loader = module(images, num_workers).train_dataloader()
    reference = module(images).train_dataloader()
    epochs = []
    for epoch in (0, 1, 3):
        loader.sampler.set_epoch(epoch)
        reference.sampler.set_epoch(epoch)
        epochs.append(as_bytes(loader))
        assert epochs[-1] == as_bytes(reference)
    assert epochs[0] != epochs[1] != epochs[2]
    reference.sampler.set_epoch(1)
    assert as_bytes(reference) == epochs[1], "whatever came before"
    assert as_bytes(module(images, seed=1).train_dataloader()) != epochs[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_within_an_epoch_gives_the_bytes_that_were_left(images: Any, num_workers: int) -> None:
    whole = module(images, num_workers).train_dataloader()
    whole.sampler.set_epoch(2)
    expected = as_bytes(whole)
    for k in (0, 1, 3, 6):
        stopped = module(images, num_workers).train_dataloader()
        stopped.sampler.set_epoch(2)
        iterator = iter(stopped)
        assert as_bytes(itertools.islice(iterator, k)) == expected[:k]
        state = pickle.loads(pickle.dumps(stopped.state_dict()))
        assert (state["epoch"], state["batch"]) == (2, k), "taken, not prefetched"

        resumed = module(images, num_workers).train_dataloader()
        resumed.load_state_dict(state)
        iterator = iter(resumed)
        resumed.sampler.set_epoch(2)  # as Lightning does, after iter()
        assert len(resumed) == 6 and as_bytes(iterator) == expected[k:]
        resumed.sampler.set_epoch(3)
        assert len(as_bytes(resumed)) == 6, "the epoch after is whole"


def test_the_trap_a_plain_dataloader_repeats_its_first_batches() -> None:
    def plain() -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(0)
        return DataLoader(TensorDataset(torch.arange(N)), batch_size=4, shuffle=True, generator=generator)

    seen = [batch[0].tolist() for batch in itertools.islice(plain(), 3)]
    assert [batch[0].tolist() for batch in itertools.islice(plain(), 3)] == seen


def test_an_abandoned_pass_does_not_shorten_the_next(images: Any) -> None:
    loader = module(images).train_dataloader()
    next(iter(loader))
    assert len(list(loader)) == 6


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_the_reading_thread_ends_with_its_pass(images: Any) -> None:
    loader = module(images).train_dataloader()
    passing = iter(loader)
    assert not reading_threads(), "a pass touches nothing before its first batch"
    next(passing)
    assert len(reading_threads()) == 1
    del passing
    gc.collect()
    assert not reading_threads(), "abandoned"
    assert len(list(loader)) == 6 and not reading_threads()


def test_an_image_that_cannot_be_read_ends_the_pass_with_its_error(images: Any) -> None:
    def divide(batch: Any, rng: np.random.Generator) -> Any:
        raise ZeroDivisionError("a picture that cannot be changed")

    with pytest.raises(ZeroDivisionError, match="a picture that cannot be changed"):
        list(module(images, augment=divide).train_dataloader())
    assert not reading_threads()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_reading_draws_nothing_from_global_random_states(images: Any, num_workers: int) -> None:
    before = torch.get_rng_state()
    list(module(images, num_workers).train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_resume_under_another_batch_size_is_refused(images: Any) -> None:
    state = module(images).train_dataloader().state_dict()
    with pytest.raises(UserError, match="batch_size=4 and is continued with 8"):
        module(images, batch_size=8).train_dataloader().load_state_dict(state)


def test_workers_get_a_path_not_pixels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (500, 64, 64), dtype=np.uint8)  # 2 MB
    np.save(tmp_path / "big.npy", array)
    big = np.load(tmp_path / "big.npy", mmap_mode="r")
    data = ImageDataset(
        big, np.zeros((500, 2), np.float32), np.arange(10), [big], np.ones((500, 2), np.float32)
    )
    sent = pickle.dumps(data)
    assert len(sent) < 20_000
    received: ImageDataset = pickle.loads(sent)
    assert isinstance(received.images, np.memmap) and not received.images.flags.writeable
    assert (received.images == array).all() and (received.synthetic[0] == array).all()
    part: ImageDataset = pickle.loads(
        pickle.dumps(ImageDataset(big[5:9], np.zeros((4, 1), np.float32), np.arange(4)))
    )
    assert (part.images == array[5:9]).all(), "a slice of a file is not the file"


def test_synthetic_images_come_from_their_stacks(images: Any) -> None:
    stacks = [np.full((2, 4, 4), 201, np.uint8), np.full((3, 4, 4), 202, np.uint8)]
    labels = np.array([[1, 0]] * 2 + [[0, 1]] * 3, np.float32)
    rows = np.array([7, -1, -2, -3, -5, 7, 20])
    data = ImageDataset(images, LABELS, rows, stacks, labels)
    sampler = EpochSampler(7, 7, 0, shuffle=False, drop_last=False)
    (batch,) = EpochLoader(data, sampler, 0)
    assert batch["image"][:, 0, 0, 0].tolist() == [7, 201, 201, 202, 202, 7, 20]
    assert batch["label"][1:5].tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert batch["label"][0].tolist() == LABELS[7].tolist() and batch["row"].tolist() == rows.tolist()
    with pytest.raises(ValueError, match="rows"):
        ImageDataset(images, LABELS, np.array([-6]), stacks, labels)
    with pytest.raises(ValueError, match="synthetic images in part val"):
        module(images, parts={"train": rows, "val": np.array([-1])})
    with pytest.raises(UserError, match="no training images"):
        module(images, parts={}).train_dataloader()


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("n", [0, 1, 23, 24, 25])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_share_one_order_without_padding(
    n: int, world_size: int, shuffle: bool, drop_last: bool
) -> None:
    def rank(r: int, of: int) -> EpochSampler:
        return EpochSampler(n, 2 * world_size, 7, shuffle, drop_last and shuffle, r, of)

    try:
        ranks = [rank(r, world_size) for r in range(world_size)]
    except UserError:
        assert 0 < n < 2 * world_size if shuffle else n < world_size, "only where a rank would get nothing"
        return
    draws = [[d.positions.tolist() for d in sampler] for sampler in ranks]
    assert [len(d) for d in draws] == [len(sampler) for sampler in ranks]
    seen = [i for d in draws for batch in d for i in batch]
    assert len(set(seen)) == len(seen), "disjoint"
    if not shuffle:
        assert sorted(seen) == list(range(n)), "every image once"
    else:
        assert len({len(d) for d in draws}) == 1, "equally many steps"
        lost = 2 * world_size - 1 if drop_last else world_size - 1
        assert n - lost <= len(seen) <= n
        together = [[i for d in draws for i in d[b]] for b in range(len(draws[0]))]
        alone = EpochSampler(n, 2 * world_size, 7, shuffle, drop_last, 0, 1)
        for mine, all_ranks in zip(together, alone, strict=False):
            assert mine == all_ranks.positions.tolist()[: len(mine)], "the global batch of one device"


def test_rank_and_world_size_come_from_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    sampler = EpochSampler(9, 2, 0, shuffle=False, drop_last=False)
    assert sampler.batch_size == 3, "rounded up to one for each"
    with pytest.raises(
        UserError, match=r"loader\.batch_size is 4 images .* 3 processes.* set loader\.batch_size=6"
    ):
        EpochSampler(9, 4, 0, shuffle=True, drop_last=False)
    with pytest.raises(UserError, match="2 validation or test images for 3 processes"):
        EpochSampler(2, 3, 0, shuffle=False, drop_last=False)
    assert [draw.positions.tolist() for draw in sampler] == [[2], [5], [8]]


class Task(lightning.LightningModule):
    """Notes the rows it sees; stops hard at a step, as a kill would."""

    def __init__(self, manual: bool, stop_at: int | None = None) -> None:
        super().__init__()
        self.automatic_optimization = not manual
        self.net = nn.Linear(16, 2)
        self.seen: list[tuple[int, int, list[int], int]] = []
        self.stop_at = stop_at
        self.path: Path | None = None

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        image = batch["image"]
        self.seen.append((self.current_epoch, batch_idx, batch["row"].tolist(), int(image.sum())))
        loss = nn.functional.cross_entropy(self.net(image.flatten(1) / 255), batch["label"])
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        assert not self.training

    def on_train_batch_end(self, *_: Any) -> None:
        if self.stop_at == len(self.seen) and self.path is not None:
            self.trainer.save_checkpoint(self.path)
            raise InterruptedError

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def trainer(directory: Path, **limits: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        default_root_dir=directory, **limits,
    )  # fmt: skip


@pytest.mark.filterwarnings("error:.*dataloader is not resumable.*")
@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize(
    ("num_workers", "stop_at", "limits"),
    [
        (0, 2, {"max_epochs": 4}),
        (0, 9, {"max_epochs": 4}),  # within the second epoch
        (0, 12, {"max_epochs": 4}),  # after its last batch
        (0, 9, {"max_epochs": -1, "max_steps": 20}),
        (0, 12, {"max_epochs": -1, "max_steps": 20}),
        (2, 9, {"max_epochs": 4}),
        (2, 12, {"max_epochs": 4}),
    ],
)
def test_lightning_resumes_exactly(
    images: Any, tmp_path: Path, manual: bool, num_workers: int, stop_at: int, limits: dict[str, Any]
) -> None:
    def fit(task: Task, ckpt_path: Path | None = None) -> Task:
        torch.manual_seed(0)
        for parameter in task.parameters():
            nn.init.constant_(parameter, 0.01)
        data = module(images, num_workers)
        trainer(tmp_path, **limits).fit(task, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        return task

    whole = fit(Task(manual))
    assert len({tuple(rows) for _, _, rows, _ in whole.seen}) == len(whole.seen) in (20, 24)

    stopped = Task(manual, stop_at)
    stopped.path = tmp_path / "stop.ckpt"
    with pytest.raises(InterruptedError):
        fit(stopped)
    resumed = fit(Task(manual), stopped.path)
    assert not multiprocessing.active_children(), "workers left to the garbage collector hold up the exit"
    assert stopped.seen + resumed.seen == whole.seen
    for mine, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)
