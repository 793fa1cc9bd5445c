"""The generator's score: validation images only, the named protocol, too few refused, a collapse said once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
import numpy as np
import numpy.typing as npt
import pytest
import torch

from cxr.callback import generative_score
from cxr.callback.gather import share
from cxr.callback.generative_score import GenerativeScore
from cxr.errors import UserError
from cxr.extractor import extract
from cxr.extractor.pixel import PixelExtractor
from cxr.metric.frechet import frechet_distance
from cxr.metric.kid import kid

PIXEL = PixelExtractor(size_px=4)
Pixels = npt.NDArray[np.uint8]


class Watched:
    """Images that remember which rows were read."""

    def __init__(self, images: Pixels) -> None:
        self.images, self.read = images, set[int]()

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> Pixels:
        self.read |= set(np.ravel(rows).tolist())
        return np.asarray(self.images[rows])


def data_of(n_val: int, size_px: int = 16) -> Any:
    """40 images that differ; the validation part is the last of them, the test part the first."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (40, 4, 4)).astype(np.uint8)
    images = Watched(np.kron(coarse, np.ones((size_px // 4, size_px // 4), np.uint8)))
    labels = np.tile(np.array([[1.0, 0.0]], np.float32), (40, 1))
    parts = {"val": np.arange(40 - n_val, 40)[::-1], "test": np.arange(0, 20)}
    return SimpleNamespace(images=images, labels=labels, parts=parts)


class FakeTask:
    """Makes the images it was given."""

    def __init__(self, images: Pixels) -> None:
        self.images, self.images_seen, self.g_steps, self.in_accumulation = images, 0, 0, False
        self.asked: list[list[int]] = []
        self.printed: list[str] = []

    def sample(self, n: int, *, seed: int, label_counts: list[int], part: tuple[int, int]) -> torch.Tensor:
        self.asked.append(label_counts)
        return torch.from_numpy(self.images[part[0] : part[1], None])

    conditional = False

    def sample_counts(self, n: int, label_counts: list[int]) -> list[int]:
        return [n]

    def share_buffers(self) -> None:
        pass

    def print(self, text: str) -> None:
        self.printed.append(text)


def trainer_of(data: Any) -> Any:
    logged: list[tuple[int, dict[str, float]]] = []
    logger = SimpleNamespace(log_metrics=lambda values, step: logged.append((step, values)))
    loop = SimpleNamespace(_batches_that_stepped=0, batch_progress=SimpleNamespace(is_last_batch=True))
    return SimpleNamespace(
        datamodule=data, global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=torch.device("cpu")),
        loggers=[logger], logged=logged, callback_metrics={}, progress_bar_metrics={}, current_epoch=0, max_epochs=1,
        is_last_batch=False, fit_loop=SimpleNamespace(epoch_loop=loop), checkpoint_callback=None,
    )  # fmt: skip


def score_of(**changes: Any) -> GenerativeScore:
    values: dict[str, Any] = {
        "every_n_images": 100, "n_images": 20, "extractor": PIXEL, "scores": ["kid", "fid"], "n_subsets": 3,
        "n_pairs": 10, "seed": 7,
    }  # fmt: skip
    return GenerativeScore(**(values | changes))


def run(score: GenerativeScore, trainer: Any, task: FakeTask, seen: int, step: int) -> None:
    task.images_seen, trainer.fit_loop.epoch_loop._batches_that_stepped = seen, step
    score.on_train_batch_end(trainer, task, None, None, step)  # type: ignore[arg-type]


def test_scores_by_images_seen_on_validation_images_only() -> None:
    data = data_of(20)
    trainer, made = trainer_of(data), data.images.images[:20][::-1].copy()
    task, score = FakeTask(made), score_of()
    score.on_fit_start(trainer, task)  # type: ignore[arg-type]
    for step, seen in enumerate((60, 99, 130, 190, 320, 390)):  # 100 is crossed, then 200 and 300 at once
        run(score, trainer, task, seen, step)
    assert [step for step, _ in trainer.logged] == [2, 4]
    assert data.images.read == set(range(20, 40))  # never a test image
    real = extract(PIXEL, data.images.images[20:], batch=64, device="cpu").features
    fake = extract(PIXEL, made, batch=64, device="cpu").features
    values = trainer.logged[0][1]
    assert values["kid_pixel4/val"] == kid(real, fake, n_subsets=3, seed=7).value
    assert values["fid_n20to20_pixel4/val"] == frechet_distance(real, fake)
    assert values["collapsed"] == 0.0 and not task.printed
    assert {"msssim_pairs10_scales1_window11/val", "msssim_pairs10_scales1_window11/synthetic"} < set(values)
    assert task.asked == [[20, 0]] * 2  # classes as often as in the validation part
    assert float(trainer.callback_metrics["kid_pixel4/val"]) == values["kid_pixel4/val"]


def test_after_the_last_batch_of_training_whatever_is_due_and_not_twice() -> None:
    data = data_of(20)
    trainer, task, score = trainer_of(data), FakeTask(data.images.images[:20]), score_of()
    score.on_fit_start(trainer, task)  # type: ignore[arg-type]
    trainer.is_last_batch = True
    run(score, trainer, task, 130, 0)
    assert not trainer.logged  # the epoch's end follows
    trainer.fit_loop.epoch_loop._batches_that_stepped = 1
    score.on_train_epoch_end(trainer, task)  # type: ignore[arg-type]
    score.on_train_epoch_end(trainer, task)  # type: ignore[arg-type]
    assert [step for step, _ in trainer.logged] == [0]
    task.images_seen = 150
    score.on_train_epoch_end(trainer, task)  # type: ignore[arg-type]  # not due, but it is the end
    assert len(trainer.logged) == 2
    task.images_seen, trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = 260, False
    score.on_train_epoch_end(trainer, task)  # type: ignore[arg-type]  # stopped by max_time: it goes on from there
    assert len(trainer.logged) == 2


def test_pending_gradients_are_waited_for_and_a_resumed_run_repeats_nothing() -> None:
    data = data_of(20)
    trainer, task, score = trainer_of(data), FakeTask(data.images.images[:20]), score_of(n_pairs=None)
    score.on_fit_start(trainer, task)  # type: ignore[arg-type]
    task.in_accumulation = True
    run(score, trainer, task, 101, 0)
    task.in_accumulation = False
    run(score, trainer, task, 105, 1)
    again = score_of(n_pairs=None)
    again.load_state_dict(score.state_dict())
    again.on_fit_start(trainer, task)  # type: ignore[arg-type]
    run(again, trainer, task, 199, 2)
    run(again, trainer, task, 200, 3)
    assert [step for step, _ in trainer.logged] == [1, 3]
    assert set(trainer.logged[0][1]) == {"kid_pixel4/val", "fid_n20to20_pixel4/val", "epoch"}


@pytest.mark.parametrize("k", [1, 2])
def test_a_collapsed_generator_is_logged_always_and_said_when_it_begins(k: int) -> None:
    data = data_of(20)
    noise = np.random.default_rng(1).integers(0, 4, (20, 16, 16))
    made = (data.images.images[np.arange(20) % k] // 2 + noise).astype(np.uint8)
    trainer, task, score = trainer_of(data), FakeTask(made), score_of()
    score.on_fit_start(trainer, task)  # type: ignore[arg-type]
    for step, seen in enumerate((100, 200)):
        task.g_steps = step
        run(score, trainer, task, seen, step)
    assert [values["collapsed"] for _, values in trainer.logged] == [1.0, 1.0]
    assert len(task.printed) == 1
    assert task.printed[0].startswith("warning: step 0, 100 images seen: the GAN makes copies (early")
    again = score_of()
    again.load_state_dict(score.state_dict())
    again.on_fit_start(trainer, task)  # type: ignore[arg-type]
    run(again, trainer, task, 300, 2)  # a resumed run does not say it again
    task.images = data.images.images[:20]
    run(again, trainer, task, 400, 3)
    assert trainer.logged[-1][1]["collapsed"] == 0.0 and len(task.printed) == 1
    task.images = made
    run(again, trainer, task, 500, 4)  # but does where it had recovered
    assert len(task.printed) == 2
    task.images_seen, again.every_n_images = 510, 1000
    again.on_train_epoch_end(trainer, task)  # type: ignore[arg-type]
    assert task.printed[2].startswith("warning: step 1, 510 images seen: the GAN has collapsed: ")


@pytest.mark.parametrize("data", [data_of(3), data_of(0), None])
def test_too_few_validation_images_are_refused_before_training(data: Any) -> None:
    with pytest.raises(UserError, match=r"split\.val"):
        score_of().on_fit_start(trainer_of(data), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "told"),
    [({"every_n_images": 0}, "every_n_images: got 0"), ({"n_pairs": 0}, "n_pairs: got 0"), ({"scores": []}, r"scores=\[kid\]")],
)  # fmt: skip
def test_what_means_nothing_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        score_of(**change)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_that_share_score_as_one_does(world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads for processes; with real ones, tests/task/test_gan_scores.py. 13 and 20 images, 6 pairs: no even shares."""
    data = data_of(13)
    alone, task = trainer_of(data), FakeTask(data.images.images[10:30])
    score = score_of(n_pairs=6)
    score.on_fit_start(alone, task)  # type: ignore[arg-type]
    run(score, alone, task, 100, 0)

    barrier, given = threading.Barrier(world_size, timeout=20), [np.empty(0)] * world_size

    def gathered(rows: npt.NDArray[Any], trainer: Any) -> npt.NDArray[Any]:
        given[trainer.global_rank] = rows
        barrier.wait()
        found = np.concatenate([part for part in given if len(part)])
        barrier.wait()
        return found

    monkeypatch.setattr(generative_score, "gathered", gathered)
    trainers = [trainer_of(data) for _ in range(world_size)]

    def process(rank: int) -> None:
        trainers[rank].global_rank, trainers[rank].world_size = rank, world_size
        mine, own = score_of(n_pairs=6), FakeTask(task.images)
        mine.on_fit_start(trainers[rank], own)  # type: ignore[arg-type]
        run(mine, trainers[rank], own, 100, 0)

    with ThreadPoolExecutor(world_size) as pool:
        list(pool.map(process, range(world_size)))
    assert len(alone.logged[0][1]) == 7
    for trainer in trainers:
        assert trainer.logged[0][1] == pytest.approx(alone.logged[0][1], rel=1e-5, abs=1e-5)


def test_shares_of_processes_are_everything_once() -> None:
    for n, world_size in ((9, 2), (1, 3), (7, 7), (10, 4)):
        edges = [share(n, rank, world_size) for rank in range(world_size)]
        assert [i for first, last in edges for i in range(first, last)] == list(range(n))
