"""Grad-CAM: equal to a map made by hand, for frozen networks too; chosen and written as it says."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from cxr.classifier.base import Classifier
from cxr.errors import UserError
from cxr.evaluation.heatmap import choose, gradcam, most_probable
from cxr.evaluation.overlay import Explained, write_heatmaps
from cxr.loss.classification import BCE
from cxr.metric.result import HEATMAPS
from cxr.task.classifier import ClassifierTask


class Two(Classifier):
    """Two maps, x and -x of the image in [-1, 1], each averaged; logits = W · means."""

    def __init__(self, weight: list[list[float]], *, frozen: bool = False) -> None:
        super().__init__()
        self.image_size_px, self.channels, self.n_outputs, self.last_conv = 4, 1, len(weight), "conv"
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.out = nn.Linear(2, len(weight), bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
            self.out.weight.copy_(torch.tensor(weight))
        self.requires_grad_(not frozen)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.out(self.conv(images).mean(dim=(2, 3)))
        return found


def task(network: Classifier, n_classes: int, *, multi_label: bool = True) -> ClassifierTask:
    return ClassifierTask(
        network=network, loss=BCE(pos_weight=None, label_smoothing=0.0), optimizer=partial(torch.optim.SGD, lr=0.1),
        scheduler=None, classes=[f"c{i}" for i in range(n_classes)], multi_label=multi_label, channels_last=False,
    )  # fmt: skip


IMAGE = np.zeros((1, 4, 4), np.uint8)  # all -1 but its upper half, which is +1
IMAGE[:, :2] = 255


@pytest.mark.parametrize("frozen", [False, True])
def test_map_equals_one_by_hand(frozen: bool) -> None:
    """Gradient of the mean of 16 positions: w / 16 for each map. Map = ReLU(w0 x / 16 - w1 x / 16)."""
    network = Two([[2.0, 1.0], [-3.0, 1.0], [0.0, 0.0]], frozen=frozen)
    maps = gradcam(task(network, 3), IMAGE, np.array([[0, 1, 2]]))
    upper = np.r_[np.ones((2, 4)), np.zeros((2, 4))]
    np.testing.assert_allclose(maps[0, 0], upper * (2 - 1) / 16, atol=1e-7)
    np.testing.assert_allclose(maps[0, 1], (1 - upper) * (3 + 1) / 16, atol=1e-7)
    np.testing.assert_array_equal(maps[0, 2], 0)


def test_one_output_speaks_for_both_classes() -> None:
    maps = gradcam(task(Two([[2.0, 0.0]]), 2, multi_label=False), IMAGE, np.array([[1, 0]]))
    np.testing.assert_allclose(maps[0, 0][:2], 2 / 16, atol=1e-7)
    np.testing.assert_allclose(maps[0, 1][2:], 2 / 16, atol=1e-7)
    assert maps[0, 0][2:].max() == maps[0, 1][:2].max() == 0


def test_a_network_without_a_map_is_refused() -> None:
    network = Two([[1.0, 0.0], [0.0, 1.0]])
    network.last_conv = "out"
    with pytest.raises(UserError, match=r"no feature map .*; set heatmap_layer=.*heatmaps=0"):
        gradcam(task(network, 2), IMAGE, np.array([[0]]))
    del network.last_conv
    with pytest.raises(UserError, match=r"no last_conv.*heatmaps=0"):
        gradcam(task(network, 2), IMAGE, np.array([[0]]))


def predictions(n: int = 20) -> pd.DataFrame:
    frame = pd.DataFrame({"image_id": [f"i{i:02d}" for i in range(n)]})
    for c, name in enumerate("abcde"):
        frame[f"target:{name}"] = [float(i in (3, 7, 11) and c == i % 5) for i in range(n)]
        frame[f"prob:{name}"] = (c * 7 % 5) / 5.0
    return frame


def test_choice_depends_on_the_seed_alone_and_takes_positives_first() -> None:
    frame = predictions()
    chosen = choose(frame, list("abcde"), 5, multi_label=True, seed=0)
    assert {3, 7, 11} < set(chosen.tolist())
    assert sorted(chosen.tolist()) == chosen.tolist()
    turned = frame.iloc[::-1].reset_index(drop=True)
    again = choose(turned, list("abcde"), 5, multi_label=True, seed=0)
    assert set(turned["image_id"][again]) == set(frame["image_id"][chosen])
    single = [tuple(choose(frame, list("abcde"), 5, multi_label=False, seed=s)) for s in range(4)]
    assert len(set(single)) == 4
    assert len(choose(frame, list("abcde"), 50, multi_label=True, seed=0)) == 20
    assert most_probable(frame, list("abcde"))[0].tolist() == [2, 4, 1, 3]  # prob 4, 3, 2, 1 fifths


def test_pictures_and_listing(tmp_path: Path) -> None:
    maps = np.zeros((2, 8, 8), np.float32)
    maps[0, 2:4, 2:4] = 3.0
    one = Explained("i1", np.full((8, 8), 100, np.uint8), ("a$b",), ("a$b", "c"), (0.9, 0.1), maps)
    write_heatmaps(tmp_path, [one, one], {"layer": "x"})
    path = write_heatmaps(tmp_path, [one], {"layer": "x"})
    assert path == tmp_path / HEATMAPS
    assert sorted(p.name for p in (path.parent).iterdir()) == ["01.png", "gradcam.json"]
    listing = json.loads(path.read_text())
    assert listing["layer"] == "x"
    assert listing["images"] == [
        {
            "file": "01.png", "image_id": "i1", "labels": ["a$b", "c"], "localisation": {}, "peaks": [3.0, 0.0],
            "probabilities": [0.9, 0.1], "true": ["a$b"],
        }
    ]  # fmt: skip
    picture = cv2.imread(str(path.parent / "01.png"))
    assert picture is not None
    assert (picture.max(axis=2).astype(int) - picture.min(axis=2)).max() > 50  # colour where the map is
