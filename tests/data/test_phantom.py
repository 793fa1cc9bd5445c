"""The phantom: pure in (seed, n), truthful about its findings, neither trivial nor hopeless."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from cxr.data.index import labels
from cxr.data.phantom import CLASSES, Phantom
from cxr.errors import UserError


def phantom(**changes: Any) -> Phantom:
    values: dict[str, Any] = {
        "n_patients": 12,
        "images_per_patient": 2,
        "classes": list(CLASSES),
        "difficulty": 0.2,
        "size_px": 64,
        "seed": 0,
        "multi_label": False,
    }
    return Phantom(**{**values, **changes})


def test_index_is_balanced_and_grouped() -> None:
    index = phantom().index()
    assert len(index) == 24
    np.testing.assert_array_equal(labels(index).sum(axis=0), [4] * 6)
    assert index["patient_id"].nunique() == 12
    assert index["content_hash"].nunique() == 24
    assert list(index["path"][:2]) == ["phantom/000000", "phantom/000001"]


def test_official_split_has_every_class_in_every_part() -> None:
    index = phantom(n_patients=18).index()
    assert index.groupby("patient_id")["official_split"].nunique().max() == 1
    for part in ("train", "val", "test"):
        assert (labels(index[index["official_split"] == part]).sum(axis=0) > 0).all()


def test_more_patients_change_nothing() -> None:
    few, many = phantom(), phantom(n_patients=40)
    wanted = few.index()
    assert many.index().iloc[:24].equals(wanted)
    for path in wanted["path"][::5]:
        np.testing.assert_array_equal(few.read(path), many.read(path))


def test_reading_order_does_not_matter_and_seeds_do() -> None:
    source = phantom()
    first = source.read("phantom/000003")
    source.read("phantom/000001")
    np.testing.assert_array_equal(source.read("phantom/000003"), first)
    assert (phantom(seed=1).read("phantom/000003") != first).mean() > 0.5
    assert (source.read("phantom/000002") != first).mean() > 0.5  # same patient, another exposure
    assert not set(phantom(seed=1).index()["content_hash"]) & set(source.index()["content_hash"])


@pytest.mark.parametrize("change", [{"difficulty": 0.3}, {"size_px": 32}, {"classes": ["opacity", "normal"]}])
def test_hash_follows_what_the_picture_depends_on(change: dict[str, Any]) -> None:
    assert not set(phantom(**change).index()["content_hash"][:2]) & set(phantom().index()["content_hash"][:2])


@pytest.mark.parametrize("size_px", [16, 64, 200])
def test_looks_like_a_chest(size_px: int) -> None:
    source = phantom(size_px=size_px, classes=["normal"], difficulty=0.0)
    mean = np.mean([source.read(f"phantom/{n:06d}") for n in range(24)], axis=0)

    def level(x: float, y: float) -> float:
        return float(mean[int(y * size_px), int(x * size_px)])

    lungs = (level(0.27, 0.5) + level(0.75, 0.4)) / 2
    assert mean.shape == (size_px, size_px)
    assert level(0.5, 0.5) > lungs + 50  # spine and heart
    assert level(0.3, 0.95) > lungs + 40  # below the diaphragm
    assert level(0.66, 0.65) > level(0.34, 0.65) + 20  # the heart lies on the patient's left
    assert level(0.02, 0.02) < 40  # air beside the neck


def test_pictures_are_uint8_and_use_the_range() -> None:
    image = phantom().read("phantom/000000")
    assert image.dtype == np.uint8
    assert image.min() < 50
    assert image.max() > 150


@pytest.mark.parametrize("finding", CLASSES[1:])
def test_mask_and_box_hold_the_change(finding: str) -> None:
    """Against the same patient without it (same streams), a finding changes pixels where it says."""
    sick = phantom(classes=[finding], difficulty=0.0)
    well = phantom(classes=["normal"], difficulty=0.0)
    index = sick.index()
    for n in range(0, 24, 3):
        entry = index.iloc[n]
        mask = sick.mask(entry["path"])
        change = np.abs(sick.read(entry["path"]).astype(int) - well.read(entry["path"]).astype(int))
        if finding == "cardiomegaly":  # only the rim of the heart is new
            assert change[mask].mean() > 3 * change[~mask].mean()
        else:
            assert change[mask].mean() > 8 * change[~mask].mean()
        ys, xs = np.nonzero(mask)
        got = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 64
        x, y, w, h = (float(entry[c]) for c in ("box_x", "box_y", "box_w", "box_h"))
        np.testing.assert_allclose(got, [x, y, x + w, y + h], atol=2 / 64)


@pytest.mark.parametrize("finding", CLASSES[1:])
@pytest.mark.parametrize("size_px", [16, 96])
def test_the_hardest_findings_are_still_somewhere(finding: str, size_px: int) -> None:
    source = phantom(classes=[finding], difficulty=1.0, size_px=size_px)
    index = source.index()
    assert all(source.mask(path).any() for path in index["path"])
    assert (index[["box_w", "box_h"]] > 0.02).all(axis=None)
    assert (index[["box_x", "box_y"]] >= 0).all(axis=None)


def test_normal_has_neither_box_nor_mask() -> None:
    source = phantom()
    entry = source.index().iloc[0]
    assert entry["label:normal"] == 1
    assert np.isnan(entry["box_x"])
    assert not source.mask(entry["path"]).any()


def test_multi_label() -> None:
    source = phantom(n_patients=60, images_per_patient=1, multi_label=True)
    index = source.index()
    found = labels(index)
    np.testing.assert_array_equal(found[:, 0], (found[:, 1:].sum(axis=1) == 0).astype(np.float32))
    assert found[:, 1:].sum(axis=1).max() >= 2
    row = int(np.flatnonzero((found[:, 2] == 1) & (found[:, 5] == 1))[0])
    path = index["path"][row]
    whole, fluid, nodule = source.mask(path), source.mask(path, "effusion"), source.mask(path, "nodule")
    assert fluid.any()
    assert nodule.any()
    assert (whole | fluid | nodule).sum() == whole.sum()
    # another set of classes leaves the findings that both know where they were
    fewer = phantom(n_patients=60, images_per_patient=1, multi_label=True, classes=["effusion"])
    np.testing.assert_array_equal(labels(fewer.index())[:, 0], found[:, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["normal", "opacty"]}, "did you mean 'opacity'"),
        ({"classes": []}, "at least one of"),
        ({"classes": ["normal", "normal"]}, "each once"),
        ({"difficulty": 1.5}, r"data\.difficulty=1.5"),
        ({"n_patients": 0}, r"data\.n_patients=0"),
        ({"size_px": 8}, r"data\.size_px=8: expected at least 16"),
        ({"seed": -1}, r"data\.seed=-1"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        phantom(**change)


@pytest.mark.parametrize("path", ["phantom/000024", "phantom/x", "chest/000000", "phantom"])
def test_unknown_paths(path: str) -> None:
    with pytest.raises(UserError, match="expected phantom/000000 … phantom/000023"):
        phantom().read(path)


@pytest.mark.slow
def test_a_small_cnn_lands_between_trivial_and_hopeless() -> None:
    """At the default difficulty, three layers and 600 images: measured 0.89 to 0.95."""
    source = phantom(n_patients=450, classes=["normal", "opacity"], difficulty=0.6)
    index = source.index()
    images = torch.from_numpy(np.stack([source.read(p) for p in index["path"]])[:, None]) / 127.5 - 1
    target = torch.from_numpy(index["label:opacity"].to_numpy(np.float32))
    torch.manual_seed(0)
    blocks = [
        module
        for channels_in, channels in ((1, 16), (16, 32), (32, 64))
        for module in (
            nn.Conv2d(channels_in, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
    ]
    network = nn.Sequential(*blocks, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(256, 1))
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(7):
        for batch in torch.randperm(600).split(32):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(network(images[batch])[:, 0], target[batch])
            loss.backward()
            optimizer.step()
    network.eval()
    with torch.no_grad():
        logits = network(images[600:])[:, 0].numpy()
    assert 0.80 <= roc_auc_score(target[600:].numpy(), logits) <= 0.98
