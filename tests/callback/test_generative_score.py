"""The generator's score: validation images only, the named protocol, too few refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cxr.callback.generative_score import GenerativeScore
from cxr.errors import UserError
from cxr.metric.generative import kid, pixel_features


class FakeData:
    """Hands out validation batches and nothing else."""

    def __init__(self, n: int) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (n, 8, 8)).astype(np.uint8)

    def val_dataloader(self) -> list[dict[str, torch.Tensor]]:
        parts = [x for x in np.array_split(self.images, 3) if len(x)]
        label = torch.tensor([[1.0, 0.0]])
        return [{"image": torch.from_numpy(x).unsqueeze(1), "label": label.expand(len(x), 2)} for x in parts]


class FakeTask:
    def __init__(self) -> None:
        self.logged: list[tuple[str, float]] = []
        self.asked: list[list[int]] = []

    def sample(self, n: int, *, seed: int, label_counts: list[int]) -> torch.Tensor:
        self.asked.append(label_counts)
        return torch.full((n, 1, 8, 8), seed, dtype=torch.uint8)

    def log(self, name: str, value: torch.Tensor, prog_bar: bool) -> None:
        self.logged.append((name, value.item()))


def trainer_at(epoch: int, data: FakeData | None) -> Any:
    return type("FakeTrainer", (), {"current_epoch": epoch, "max_epochs": 5, "datamodule": data})


def test_scores_every_k_epochs_and_the_last() -> None:
    data, task = FakeData(20), FakeTask()
    score = GenerativeScore(every_n_epochs=2, n_images=12, feature_px=4, n_subsets=3, seed=7)
    score.on_fit_start(trainer_at(0, data), task)  # type: ignore[arg-type]
    for epoch in range(5):
        score.on_train_epoch_end(trainer_at(epoch, data), task)  # type: ignore[arg-type]
    real, fake = pixel_features(data.images, 4), pixel_features(np.full((12, 8, 8), 7, np.uint8), 4)
    assert task.logged == [("kid_pixel4/val", kid(real, fake, n_subsets=3, seed=7).value)] * 3
    assert task.asked == [[20, 0]] * 3  # classes as often as in the validation part


@pytest.mark.parametrize("data", [FakeData(3), FakeData(0), None])
def test_too_few_validation_images_are_refused_before_training(data: FakeData | None) -> None:
    score = GenerativeScore(every_n_epochs=1, n_images=12, feature_px=4, n_subsets=3, seed=7)
    with pytest.raises(UserError, match=r"split\.val"):
        score.on_fit_start(trainer_at(0, data), None)  # type: ignore[arg-type]
