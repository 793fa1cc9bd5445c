"""ChestX-ray14: both editions of the table, the lists, the boxes, and the real files where they are."""

from __future__ import annotations

import gzip
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxr.data.chestxray14 import FINDINGS, NO_FINDING, ChestXray14
from cxr.data.index import DatasetNotFound, label_names, labels
from cxr.data.listing import draw, parse_age
from cxr.errors import UserError

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
QUOTED = HEADER.replace("OriginalImage[Width,Height]", '"OriginalImage[Width,Height]"').replace(
    "OriginalImagePixelSpacing[x,y]", '"OriginalImagePixelSpacing[x,y]"'
)
ENTRIES = [
    ("00000001_000.png", "Cardiomegaly", 0, 1, "058Y", "M", "PA"),
    ("00000001_001.png", "Cardiomegaly|Emphysema", 1, 1, "058Y", "M", "PA"),
    ("00000002_000.png", "No Finding", 0, 2, "013M", "F", "AP"),
    ("00000003_000.png", "Pleural_Thickening", 0, 3, "001D", "F", "AP"),
    ("00000004_000.png", "Emphysema", 0, 4, "411Y", "M", "PA"),
    ("00000005_000.png", "No Finding", 0, 5, "060Y", "M", "PA"),
]
BOXES = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
SINGLE = ["Cardiomegaly", "Emphysema", NO_FINDING]


def table(header: str, end: str = "") -> str:
    rows = [",".join(map(str, (*row, 2682, 2749, 0.143, 0.143))) + end for row in ENTRIES]
    return "\n".join([header + end, *rows, ""])


def source(root: Path | None, **changed: Any) -> ChestXray14:
    given: dict[str, Any] = {"csv": None, "classes": list(FINDINGS), "multi_label": True, "max_images": None}
    return ChestXray14(root, **{**given, "missing": "stop", "seed": 0, **changed})


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two of the twelve folders, one RGBA file, the lists and the boxes."""
    root = tmp_path / "nih"
    for number, (name, *_) in enumerate(ENTRIES):
        shape = (8, 8, 4) if number == 2 else (8, 8)
        pixels = np.full(shape, 10 * number + 10, np.uint8)
        if number == 2:
            pixels[..., 3] = 255
        file = root / f"images_{1 + number // 4:03d}" / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(file), pixels)
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "00000001_000.png").write_bytes(b"x")
    (root / "Data_Entry_2017.csv").write_text(table(HEADER, ","))
    names = [row[0] for row in ENTRIES]
    (root / "train_val_list.txt").write_text("\n".join(names[:3]) + "\n")
    (root / "test_list.txt").write_text("\n".join(names[3:]))  # the published lists end without a newline
    (root / "BBox_List_2017.csv").write_text(
        BOXES + "00000004_000.png,Infiltrate,512,256.0,128,64,,,\n00000009_000.png,Mass,1000,0,100,1024,,,\n"
    )
    return root


@pytest.mark.parametrize(
    "text",
    [
        table(HEADER),
        table(HEADER, ","),  # as published: header and rows end with a comma
        table(QUOTED),
        table(HEADER.replace("Gender", "Sex")),
        "\ufeff" + table(HEADER).replace("\n", "\r\n"),
        table(
            HEADER.replace("Image[Width,Height]", "ImageWidth,OriginalImageHeight").replace("[x,y]", "_x,_y")
        ),
    ],
    ids=["plain", "trailing comma", "quoted", "sex", "bom and crlf", "kaggle sample"],
)
@pytest.mark.parametrize("packed", [False, True], ids=["csv", "gz"])
def test_every_edition_gives_the_same_columns(tmp_path: Path, text: str, packed: bool) -> None:
    file = tmp_path / ("Data_Entry_2017_v2020.csv" + ".gz" * packed)
    file.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    entries = source(tmp_path).entries()
    assert entries["image"].tolist() == [row[0] for row in ENTRIES]
    assert entries["patient_id"].tolist() == ["1", "1", "2", "3", "4", "5"]
    assert entries["view"].tolist() == ["PA", "PA", "AP", "AP", "PA", "PA"]
    assert entries["sex"].tolist() == list("MMFFMM")
    assert entries["follow_up"].tolist() == [0, 1, 0, 0, 0, 0]
    assert entries["age"].tolist() == pytest.approx(
        [58, 58, 13 / 12, 1 / 365.25, np.nan, 60], abs=1e-9, nan_ok=True
    )
    assert entries["label:Cardiomegaly"].tolist() == [1, 1, 0, 0, 0, 0]
    assert entries["label:No Finding"].tolist() == [0, 0, 1, 0, 0, 1]
    assert entries["official_split"].isna().all()  # no lists here


@pytest.mark.parametrize(
    ("cell", "years"),
    [("58", 58.0), ("058Y", 58.0), ("006m", 0.5), ("0", 0.0), ("", np.nan), ("x", np.nan), ("414", np.nan)],
)
def test_ages(cell: str, years: float) -> None:
    assert parse_age(cell) == pytest.approx(years, nan_ok=True)


def test_multi_label_keeps_every_image(archive: Path) -> None:
    data = source(archive)
    index = data.index()
    assert index["image_id"].tolist()[0] == "images_001/images/00000001_000.png"
    assert index["image_id"].tolist()[-1] == "images_002/images/00000005_000.png"
    assert label_names(index) == list(FINDINGS)
    assert labels(index).sum(axis=1).tolist() == [1, 2, 0, 1, 1, 0]
    assert index["official_split"].tolist() == ["train"] * 3 + ["test"] * 3
    assert {"age", "sex", "follow_up"} <= set(index.columns)
    rgba = data.read("images_001/images/00000002_000.png")
    assert rgba.shape == (8, 8)
    assert rgba.dtype == np.uint8
    assert (rgba == 30).all()
    assert data.warnings == ()


def test_single_label_keeps_images_with_one_label_only(archive: Path) -> None:
    index = source(archive, classes=SINGLE, multi_label=False).index()
    assert [Path(path).name[:12] for path in index["path"]] == [
        "00000001_000",
        "00000002_000",
        "00000004_000",
        "00000005_000",
    ]
    assert labels(index).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]]
    with pytest.raises(UserError, match="no image has 'Hernia' as its only label"):
        source(archive, classes=["Cardiomegaly", "Hernia"], multi_label=False).index()


def test_at_most_so_many_images(archive: Path) -> None:
    def names(**changed: Any) -> set[str]:
        return set(source(archive, **changed).index()["image_id"])

    few = {"classes": SINGLE, "multi_label": False, "max_images": {NO_FINDING: 1}}
    assert len(names(**few)) == 3
    assert names(**few) == names(**few)
    assert len({frozenset(names(**few, seed=seed)) for seed in range(8)}) == 2
    nested = [names(max_images=n) for n in (1, 3, 6, 99)]
    assert [len(found) for found in nested] == [1, 3, 6, 6]
    assert nested[0] < nested[1] < nested[2]


def test_the_draw_is_by_name_not_by_position() -> None:
    names = [f"{number}.png" for number in range(50)]
    drawn = {names[row] for row in draw(names, {"a": range(50)}, {"a": 10}, 3)}
    back = names[::-1]
    assert {back[row] for row in draw(back, {"a": range(50)}, {"a": 10}, 3)} == drawn
    assert draw(names, {"a": range(40), "b": range(40, 50)}, {"a": 0}, 3) == list(range(40, 50))


def test_images_in_one_folder_or_spread_by_links(archive: Path, tmp_path: Path) -> None:
    flat, linked = tmp_path / "flat", tmp_path / "linked"
    for root in (flat, linked):
        root.mkdir()
        (root / "Data_Entry_2017.csv").write_text(table(HEADER))
    (flat / "images").mkdir()
    for file in archive.glob("images_*/images/*.png"):
        (flat / "images" / file.name).write_bytes(file.read_bytes())
    (linked / "images_001").symlink_to(archive / "images_001", target_is_directory=True)
    (linked / "images_002").symlink_to(archive / "images_002", target_is_directory=True)
    assert source(flat).index()["path"][0] == "images/00000001_000.png"
    assert source(flat / "images", csv=flat / "Data_Entry_2017.csv").index()["path"][0] == "00000001_000.png"
    hashes = source(archive).index()["content_hash"].tolist()
    assert source(flat).index()["content_hash"].tolist() == hashes
    assert source(linked).index()["content_hash"].tolist() == hashes

    (linked / "all").mkdir()
    (linked / "all" / "00000001_000.png").symlink_to(archive / "images_001" / "images" / "00000001_000.png")
    assert len(source(linked).index()) == len(ENTRIES)  # the same file by another way
    (linked / "all" / "00000001_001.png").write_bytes(b"another")
    with pytest.raises(UserError, match=r"00000001_001\.png is there twice"):
        source(linked).index()


def test_missing_images(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    (archive / "images_001" / "images" / "00000001_001.png").unlink()
    with pytest.raises(UserError, match=r"1 of 6 listed .*00000001_001\.png.*data\.missing=skip"):
        source(archive).index()
    data = source(archive, missing="skip")
    with caplog.at_level(logging.WARNING):
        assert len(data.index()) == len(data.index()) == 5
    assert len(caplog.records) == len(data.warnings) == 1
    assert "1 of 6 listed images" in data.warnings[0]
    # An image that no class takes is not missed.
    assert len(source(archive, classes=SINGLE, multi_label=False).index()) == 4
    for file in archive.glob("images_*/images/*.png"):
        file.unlink()
    with pytest.raises(UserError, match="6 of 6"):
        source(archive, missing="skip").index()


def test_boxes_are_fractions_of_the_image(archive: Path) -> None:
    boxes = source(archive).boxes()
    assert boxes["label"].tolist() == ["Infiltration", "Mass"]
    assert boxes["image_id"].tolist() == ["images_002/images/00000004_000.png", None]
    assert boxes.loc[0, ["box_x", "box_y", "box_w", "box_h"]].tolist() == [0.5, 0.25, 0.125, 0.0625]
    assert boxes.loc[1, "box_x"] + boxes.loc[1, "box_w"] == 1.0  # cut at the edge
    (archive / "BBox_List_2017.csv").unlink()
    with pytest.raises(UserError, match=r"expected BBox_List_2017\.csv"):
        source(archive).boxes()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"classes": ["Infiltrate"]}, "did you mean 'Infiltration'"),
        ({"classes": []}, "at least one"),
        ({"max_images": {"Mass": 3}}, r"data\.multi_label=false"),
        ({"max_images": {"Mas": 3}, "multi_label": False}, "did you mean 'Mass'"),
        ({"max_images": 0}, "at least 1"),
        ({"missing": "ignore"}, "stop or skip"),
    ],
)
def test_wrong_parameters(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        source(None, **changed)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (table(HEADER).replace("Emphysema", "Emphysem"), "did you mean 'Emphysema'"),
        (table(HEADER).replace("No Finding", "No Finding|Mass"), "alone or findings"),
        (table(HEADER).replace(",2682,2749", ",2682", 1), "row 2 has 10 cells; expected 11"),
        (table(HEADER).replace("00000001_001", "00000001_000"), "has two rows"),
        (table(HEADER.replace("Patient ID", "Patient")), "no column 'Patient ID'"),
        (HEADER, "no rows"),
        ("", "empty"),
    ],
)
def test_broken_tables(archive: Path, broken: str, message: str) -> None:
    (archive / "Data_Entry_2017.csv").write_text(broken)
    with pytest.raises(UserError, match=message):
        source(archive).index()


def test_lists_that_contradict(archive: Path) -> None:
    with (archive / "test_list.txt").open("a") as file:
        file.write("\n00000001_000.png\n")
    with pytest.raises(UserError, match="in both official lists"):
        source(archive).index()
    (archive / "test_list.txt").unlink()
    with pytest.raises(UserError, match=r"expected test_list\.txt beside it"):
        source(archive).index()


def test_nothing_there(tmp_path: Path) -> None:
    for root in (None, tmp_path / "nowhere"):
        with pytest.raises(DatasetNotFound, match=r"set data\.root=.*nihcc\.app\.box\.com"):
            source(root).index()
    with pytest.raises(UserError, match=r"expected Data_Entry_2017_v2020\.csv .*set data\.csv="):
        source(tmp_path).index()


# --- real tables and images

PUBLISHED = dict(
    zip(
        (*FINDINGS, NO_FINDING),
        (11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227, 60361),
        strict=True,
    )
)


def test_the_whole_table(pack: Callable[[str], Path]) -> None:
    folder = pack("nih-chestxray14-metadata")
    data = source(None, csv=folder / "Data_Entry_2017_v2020.csv.gz")
    start = time.process_time()
    entries = data.entries()
    assert time.process_time() - start < 10  # 2.4 s on a slow core
    assert len(entries) == 112_120
    assert entries["patient_id"].nunique() == 30_805
    assert {name: int(entries[f"label:{name}"].sum()) for name in PUBLISHED} == PUBLISHED
    assert entries["official_split"].value_counts().to_dict() == {"train": 86_524, "test": 25_596}
    patients = {part: set(rows) for part, rows in entries.groupby("official_split")["patient_id"]}
    assert {part: len(found) for part, found in patients.items()} == {"train": 28_008, "test": 2_797}
    assert not patients["train"] & patients["test"]
    assert entries["view"].value_counts().to_dict() == {"PA": 67_310, "AP": 44_810}
    assert entries["sex"].notna().all()
    assert entries["age"].between(0, 95).all()
    only = entries[entries[[f"label:{name}" for name in PUBLISHED]].sum(axis=1) == 1]
    assert int(only["label:Cardiomegaly"].sum()) == 1093
    assert int(only["label:Emphysema"].sum()) == 892

    boxes = data.boxes()
    assert (len(boxes), boxes["image"].nunique(), boxes["label"].nunique()) == (984, 880, 8)
    assert set(boxes["image"]) <= set(entries["image"][entries["official_split"] == "test"])
    assert int((boxes["label"] == "Infiltration").sum()) == 123
    assert ((boxes[["box_x", "box_y"]] >= 0) & (boxes[["box_w", "box_h"]].to_numpy() > 0)).all(axis=None)


def test_the_kaggle_sample_table(pack: Callable[[str], Path]) -> None:
    entries = source(None, csv=pack("nih-chestxray14-metadata") / "sample_labels.csv").entries()
    assert len(entries) > 5000
    assert int(entries["age"].isna().sum()) == 1  # 411Y
    assert entries["age"].between(0, 1.2).sum() >= 2  # 013M and 001D


@pytest.mark.parametrize(
    ("name", "n_train", "n_patients", "rgba"),
    [("nih-chestxray14-256", 847, 682, "00000773_001.png"), ("nih-chestxray14-64", 690, 264, None)],
)
def test_the_real_slices(
    pack: Callable[[str], Path], name: str, n_train: int, n_patients: int, rgba: str | None
) -> None:
    data = source(pack(name))
    index = data.index()
    assert len(index) == 1000
    assert index["patient_id"].nunique() == n_patients
    assert index["official_split"].value_counts().to_dict() == {"train": n_train, "test": 1000 - n_train}
    assert (labels(index).sum(axis=0) > 0).all()
    pixels = data.read(index["path"][0] if rgba is None else f"images_001/images/{rgba}")
    side = int(name.rpartition("-")[2])
    assert pixels.shape == (side, side)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 10
    single = source(pack(name), classes=["Pneumonia", NO_FINDING], multi_label=False).index()
    assert labels(single).sum(axis=1).max() == 1
    assert len(single) < 1000
