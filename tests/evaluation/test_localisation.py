"""Scored heat maps: exact for a planted network, better than chance for a trained one, not for random weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxr.classifier.base import Classifier
from cxr.classifier.talukdar_cnn import TalukdarCNN
from cxr.data.box import Regions, find_regions
from cxr.data.cache import CachedImages, ImageCache
from cxr.data.phantom import Phantom
from cxr.evaluation.localisation import OTHERS, localise
from cxr.loss.classification import BCE
from cxr.metric.localisation import SCORES
from cxr.task.classifier import ClassifierTask

SIDE = 32
CLASSES = ["normal", "opacity"]


class Bright(Classifier):
    """Its map is the image's brightness (`sign` 1) or darkness (-1): what it looks at is known."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.image_size_px, self.channels, self.n_outputs, self.last_conv = SIDE, 1, 1, "conv"
        self.conv = nn.Conv2d(1, 1, 1)
        nn.init.constant_(self.conv.weight, sign)
        assert self.conv.bias is not None
        nn.init.constant_(self.conv.bias, 1.0)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.conv(images).mean(dim=(2, 3))
        return found


def task(network: Classifier) -> ClassifierTask:
    return ClassifierTask(
        network=network, loss=BCE(pos_weight=None, label_smoothing=0.0), optimizer=partial(torch.optim.Adam, lr=1e-3),
        scheduler=None, classes=CLASSES, multi_label=False, channels_last=False,
    )  # fmt: skip


def squares(n: int) -> tuple[np.ndarray[Any, Any], Regions]:
    """Return black images with one white square of 8 x 8 each, at one of 16 places, and where it is."""
    images = np.zeros((n, SIDE, SIDE), np.uint8)
    for k in range(n):
        row, column = 8 * (k % 4), 8 * (k // 4 % 4)
        images[k, row : row + 8, column : column + 8] = 255
    rows = np.arange(n)
    return images, Regions(rows, np.ones(n, np.int64), images > 0, "boxes", 0)


def run(one: ClassifierTask, images: Any, regions: Regions, patients: list[str | None]) -> dict[str, Any]:
    ids = [f"i{k}" for k in range(len(images))]
    return localise(one, images, regions, patients, ids, layer=None, n_resamples=300, seed=0)


def test_a_planted_network() -> None:
    images, regions = squares(16)
    patients: list[str | None] = [f"p{k // 2}" for k in range(16)]
    found = run(task(Bright(1.0)), images, regions, patients)
    whole = found["all"]
    assert (whole["n_maps"], whole["n_images"], whole["n_patients"], whole["n_empty"]) == (16, 16, 8, 0)
    assert list(found["labels"]) == ["opacity"]
    assert found["map_positions"] == [SIDE, SIDE]
    assert found["labels"]["opacity"] == whole
    for score in SCORES:
        told = whole["scores"][score]
        assert told["value"] == pytest.approx(1.0)
        assert told["other_image"] == 0.0  # squares of other patients lie elsewhere
        assert told["above_uniform"]["low"] > 0
    assert whole["scores"]["energy_inside"]["uniform"] == 64 / SIDE**2
    assert found["cases"][5]["image_id"] == "i5"
    assert found["cases"][5]["region_share"] == 64 / SIDE**2
    assert images[5][found["cases"][5]["peak"]] == 255
    wrong = run(task(Bright(-1.0)), images, regions, patients)["all"]["scores"]
    assert wrong["pointing_tol3"]["value"] == 0.0
    assert wrong["energy_inside"]["value"] == 0.0
    assert wrong["pointing_tol3"]["above_uniform"]["value"] < 0


def test_maps_that_do_not_depend_on_the_image() -> None:
    """All squares at one place: the map hits always, and another patient's map as well: nothing is shown by it."""
    images, _ = squares(1)
    images = np.repeat(images, 12, axis=0)
    regions = Regions(np.arange(12), np.ones(12, np.int64), images > 0, "boxes", 0)
    told = run(task(Bright(1.0)), images, regions, [f"p{k}" for k in range(12)])["all"]["scores"]
    for score in SCORES:
        assert told[score]["value"] == told[score]["other_image"] == pytest.approx(1.0)
        assert told[score]["above_other_image"]["value"] == 0.0
    alone = run(task(Bright(1.0)), images, regions, ["p"] * 12)["all"]["scores"]["pointing_tol3"]
    assert alone["other_image"] is None  # no other patient
    assert alone["low"] is None
    unknown = run(task(Bright(1.0)), images, regions, [None] * 12)["all"]
    assert unknown["n_patients"] == 12
    assert OTHERS < 11


def test_an_empty_map_is_a_miss_and_counted() -> None:
    images, regions = squares(4)
    images[0] = 0
    whole = run(task(Bright(1.0)), images, regions, list("abcd"))["all"]
    assert whole["n_empty"] == 1
    assert whole["scores"]["pointing_tol3"]["value"] == 3 / 4


@pytest.fixture(scope="module")
def chests(tmp_path_factory: pytest.TempPathFactory) -> tuple[CachedImages, np.ndarray[Any, Any], Regions]:
    """300 easy phantoms through the cache; of the first 100, for testing, where the opacities are."""
    source = Phantom(
        n_patients=300,
        images_per_patient=1,
        classes=CLASSES,
        difficulty=0.0,
        size_px=SIDE,
        seed=0,
        multi_label=False,
    )
    cache = ImageCache(tmp_path_factory.mktemp("cache"), SIDE, "stretch", None, "stop", 1)
    cached = cache.build(source, source.index())
    regions = find_regions(source, cached.index, np.arange(100), CLASSES, SIDE, "stretch")
    assert regions is not None
    assert len(regions.rows) == 50
    return cached, cached.index["label:opacity"].to_numpy(), regions


def scored(one: ClassifierTask, cached: CachedImages, regions: Regions) -> dict[str, Any]:
    patients = list(cached.index["patient_id"][regions.rows])
    found: dict[str, Any] = run(one, np.asarray(cached.images[regions.rows]), regions, patients)["all"][
        "scores"
    ]
    return found


def cnn(seed: int) -> ClassifierTask:
    torch.manual_seed(seed)
    return task(TalukdarCNN(image_size_px=SIDE, channels=1, n_outputs=1, dropout=0.2, init="keras"))


def test_a_trained_network_points_at_opacities(chests: tuple[CachedImages, Any, Regions]) -> None:
    cached, labels, regions = chests
    one = cnn(0).train()
    optimizer = torch.optim.Adam(one.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        order = 100 + torch.randperm(200, generator=generator).numpy()
        for rows in np.split(order, range(32, 200, 32)):
            batch = torch.from_numpy(np.asarray(cached.images[rows]))[:, None]
            loss = one.loss(one(batch), torch.from_numpy(labels[rows])[:, None])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    told = scored(one, cached, regions)
    for score in SCORES:
        assert told[score]["above_uniform"]["low"] > 0, score
    for score in ("iou_at50", "energy_inside"):  # it follows the finding, not a favourite place
        assert told[score]["above_other_image"]["low"] > 0, score


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_weights_point_nowhere(chests: tuple[CachedImages, Any, Regions], seed: int) -> None:
    cached, _, regions = chests
    told = scored(cnn(seed), cached, regions)
    for score in ("pointing_tol3", "iou_at50"):
        assert told[score]["above_uniform"]["low"] <= 0, score
        assert told[score]["above_other_image"]["low"] <= 0, score
