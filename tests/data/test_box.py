"""A box goes where its pixels go: through the real cache, whatever the image's shape and the fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr.data.box import box_mask, find_regions, fit_box
from cxr.data.cache import ImageCache
from cxr.data.chestxray14 import ChestXray14
from cxr.data.decode import Fit
from cxr.data.folder import Folder
from cxr.data.index import labels
from cxr.data.phantom import Phantom

POLICIES: list[Fit] = ["stretch", "pad", "crop"]


class Drawn(Folder):
    """A folder whose boxes are known."""

    table: pd.DataFrame

    def boxes(self) -> pd.DataFrame:
        """Return what the test drew."""
        return self.table


def cache(tmp_path: Path, size_px: int, policy: Any) -> ImageCache:
    return ImageCache(tmp_path / "cache", size_px, policy, None, "stop", 1)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("shape", [(300, 300), (300, 211), (187, 300), (37, 91)])
def test_a_drawn_box_through_the_cache(tmp_path: Path, shape: tuple[int, int], policy: Any) -> None:
    """White where the box is: after the cache, the white pixels are the region's, to within the soft border."""
    tall, wide = shape
    left, top, right, bottom = round(0.3 * wide), round(0.35 * tall), round(0.6 * wide), round(0.8 * tall)
    for label in ("a", "b"):
        (tmp_path / "set" / label).mkdir(parents=True)
        picture = np.zeros(shape, np.uint8)
        if label == "a":
            picture[top:bottom, left:right] = 255
        assert cv2.imwrite(str(tmp_path / "set" / label / "1.png"), picture)
    source = Drawn(**folder(tmp_path / "set"))
    box = (left / wide, top / tall, (right - left) / wide, (bottom - top) / tall)
    columns = ["image_id", "label", "box_x", "box_y", "box_w", "box_h"]
    source.table = pd.DataFrame(
        [("a/1.png", "a", *box), ("a/1.png", "z", *box), (None, "a", *box)], columns=columns
    )
    cached = cache(tmp_path, 64, policy).build(source, source.index())
    regions = find_regions(source, cached.index, np.arange(2), ["a", "b"], 64, policy)
    assert regions is not None
    assert (regions.rows.tolist(), regions.labels.tolist(), regions.kind) == ([0], [0], "boxes")
    # with a soft border, half of its value is where the edge runs: off by at most a pixel's rounding
    white, mask = cached.images[0] >= 128, regions.masks[0]
    assert white.any()
    assert (white & mask).sum() / (white | mask).sum() > 0.9
    border = np.argwhere(white ^ mask)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3)), borderValue=1).astype(bool)
    outer = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))).astype(bool)
    assert all(outer[r, c] and not inner[r, c] for r, c in border)
    far = find_regions(source, cached.index, np.array([1]), ["a", "b"], 64, policy)
    assert far is not None
    assert far.masks.shape == (0, 64, 64)


def folder(root: Path) -> dict[str, Any]:
    return {"root": root, "classes": ["a", "b"], "patient_pattern": None}


def test_by_hand() -> None:
    """An image of 100 x 200 at 50 px: padded it is 25 px tall from 12 down; cropped, columns 50 to 150 stay."""
    box = (0.25, 0.0, 0.5, 0.5)
    assert fit_box(box, (100, 200), 50, "stretch") == (12.5, 0, 37.5, 25)
    assert fit_box(box, (100, 200), 50, "pad") == (12.5, 12, 37.5, 24.5)
    assert fit_box(box, (100, 200), 50, "crop") == (0, 0, 50, 25)
    assert fit_box((0.0, 0.0, 0.2, 1.0), (100, 200), 50, "crop")[2] == 0  # cut off whole


def test_pixels_of_a_box() -> None:
    mask = box_mask((1.0, 2.0, 3.0, 3.0), 5)
    assert np.argwhere(mask).tolist() == [[2, 1], [2, 2]]
    assert np.argwhere(box_mask((1.6, 2.6, 1.7, 2.7), 5)).tolist() == [[2, 1]]  # a speck keeps its pixel
    assert np.argwhere(box_mask((4.9, 4.9, 5.0, 5.0), 5)).tolist() == [[4, 4]]
    assert not box_mask((2.0, 2.0, 2.0, 4.0), 5).any()
    assert box_mask((0.0, 0.0, 5.0, 5.0), 5).all()


def test_what_a_crop_cuts_off_is_counted(tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "b").mkdir()
    for label in "ab":
        cv2.imwrite(str(tmp_path / "set" / label / "1.png"), np.zeros((50, 100), np.uint8))
    source = Drawn(**folder(tmp_path / "set"))
    source.table = pd.DataFrame(
        [
            ("a/1.png", "a", 0.0, 0.0, 0.2, 1.0),
            ("b/1.png", "b", 0.1, 0.0, 0.1, 1.0),
            ("b/1.png", "b", 0.4, 0.1, 0.1, 0.1),
        ],
        columns=["image_id", "label", "box_x", "box_y", "box_w", "box_h"],
    )
    cached = cache(tmp_path, 20, "crop").build(source, source.index())
    regions = find_regions(source, cached.index, np.arange(2), ["a", "b"], 20, "crop")
    assert regions is not None
    assert (regions.rows.tolist(), regions.n_outside) == ([1], 1)
    plain = Folder(**folder(tmp_path / "set"))
    assert find_regions(plain, cached.index, np.arange(2), ["a", "b"], 20, "crop") is None


@pytest.mark.parametrize("policy", POLICIES)
def test_masks_of_the_phantom(tmp_path: Path, policy: Any) -> None:
    """The same finding rendered at the cache's size and brought there from a larger one is in the same place."""
    values: dict[str, Any] = {
        "n_patients": 6, "images_per_patient": 1, "classes": ["normal", "opacity", "nodule"], "difficulty": 0.2,
        "seed": 0, "multi_label": True,
    }  # fmt: skip
    large, small = Phantom(size_px=128, **values), Phantom(size_px=32, **values)
    cached = cache(tmp_path, 32, policy).build(large, large.index())
    regions = find_regions(large, cached.index, np.arange(6), large.classes, 32, policy)
    assert regions is not None
    assert regions.kind == "masks"
    present = [(row, at) for row in range(6) for at in (1, 2) if labels(cached.index)[row, at] == 1]
    assert [*zip(regions.rows.tolist(), regions.labels.tolist(), strict=True)] == present
    assert len(present) > 2
    for mask, (row, at) in zip(regions.masks, present, strict=True):
        other = small.mask(
            f"phantom/{row:06d}", large.classes[at]
        )  # drawn with a border, which counts at 32 px
        away = np.argwhere(mask).mean(axis=0) - np.argwhere(other).mean(axis=0)
        assert np.abs(away).max() < 1
        assert (mask & other).sum() / mask.sum() > 0.95
        assert 0.3 < mask.sum() / other.sum() <= 1
    boxes = large.boxes()
    assert len(boxes) == len(present)
    for one in boxes.itertuples():
        ys, xs = np.nonzero(large.mask(one.image_id, one.label))
        assert abs(xs.min() - one.box_x * 128) < 3
        assert abs(xs.max() - (one.box_x + one.box_w) * 128) < 3
        assert abs(ys.min() - one.box_y * 128) < 3
        assert abs(ys.max() - (one.box_y + one.box_h) * 128) < 3


def test_the_real_boxes(pack: Callable[[str], Path], tmp_path: Path) -> None:
    """44 images of the slice have boxes, all of official test patients; Pneumonia is boxed inside the thorax."""
    images, boxes = pack("nih-chestxray14-256"), pack("nih-chestxray14-metadata") / "BBox_List_2017.csv.gz"
    for file in (*images.iterdir(), boxes):
        (tmp_path / file.name).symlink_to(file, target_is_directory=file.is_dir())
    source = ChestXray14(
        tmp_path,
        csv=None,
        classes=["Pneumonia", "Mass"],
        multi_label=True,
        max_images=None,
        missing="stop",
        seed=0,
    )
    index = source.index()
    rows = np.flatnonzero(index["official_split"] == "test")
    for policy in POLICIES:
        regions = find_regions(
            source, index, rows, source.classes, 64, policy
        )  # square files: policies agree
        assert regions is not None
        assert len(regions.rows) == 44
        assert len(set(regions.rows.tolist())) == 43
        assert regions.labels.sum() == 1
        assert not regions.masks[:, 0].any()
        share = regions.masks.mean(axis=(1, 2))
        assert 0.005 < share.min() < share.max() < 0.5
