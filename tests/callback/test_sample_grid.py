"""Grids of the same latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from cxr.callback.sample_grid import SampleGrid, tile


def test_tile_by_hand() -> None:
    images = np.stack([np.full((1, 2), v, np.uint8) for v in (1, 2, 3)])
    expected = [[1, 1, 0, 0, 2, 2], [0] * 6, [0] * 6, [3, 3, 0, 0, 0, 0]]
    np.testing.assert_array_equal(tile(images, 2), expected)


def test_every_k_epochs_and_the_last_with_the_same_latents(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    class FakeTask:
        def sample(self, n: int, *, seed: int) -> torch.Tensor:
            asked.append((n, seed))
            return torch.full((n, 1, 4, 4), 7, dtype=torch.uint8)

    task: Any = FakeTask()
    grid = SampleGrid(every_n_epochs=2, rows=2, columns=3, seed=9)
    for epoch in range(5):
        trainer: Any = type(
            "FakeTrainer",
            (),
            {
                "current_epoch": epoch,
                "max_epochs": 5,
                "is_global_zero": True,
                "default_root_dir": tmp_path,
                "loggers": [],
            },
        )
        grid.on_train_epoch_end(trainer, task)
    files = sorted((tmp_path / "figures").iterdir())
    assert [f.name for f in files] == [f"samples-epoch-{e:04d}.png" for e in (2, 4, 5)]
    assert set(asked) == {(6, 9)}
    image = cv2.imread(str(files[0]), cv2.IMREAD_UNCHANGED)
    assert image.shape == (10, 16)
    assert set(np.unique(image)) == {0, 7}
