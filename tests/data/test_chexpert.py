"""CheXpert: its tables, uncertain labels, views, and the patient in the path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxr.data.chexpert import LABELS, Chexpert
from cxr.data.index import DatasetNotFound, label_names, labels
from cxr.errors import UserError

TOP = "CheXpert-v1.0-small"
HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS]
TWO = ["Cardiomegaly", "Edema"]
# path, sex, age, side, AP/PA, then the labels that are not blank
TRAIN: list[tuple[str, str, str, str, str, dict[str, str]]] = [
    ("train/patient00001/study1/view1_frontal.jpg", "Female", "68", "Frontal", "AP", {"Cardiomegaly": "1.0"}),
    ("train/patient00002/study2/view1_frontal.jpg", "Male", "87", "Frontal", "PA",
     {"Cardiomegaly": "-1.0", "Edema": "1.0"}),
    ("train/patient00002/study2/view2_lateral.jpg", "Male", "87", "Lateral", "", {"Edema": "1.0"}),
    ("train/patient00003/study1/view1_frontal.jpg", "Unknown", "0", "Frontal", "AP",
     {"Cardiomegaly": "1.0", "Edema": "0.0"}),
    ("train/patient00004/study1/view1_frontal.jpg", "Male", "20", "Frontal", "AP", {"No Finding": "1.0"}),
]  # fmt: skip
VALID: list[tuple[str, str, str, str, str, dict[str, str]]] = [
    (
        "valid/patient64541/study1/view1_frontal.jpg",
        "Male",
        "73",
        "Frontal",
        "AP",
        dict.fromkeys(LABELS, "0.0"),
    ),
]


def source(root: Path | None, **changed: Any) -> Chexpert:
    given: dict[str, Any] = {"classes": TWO, "multi_label": True, "uncertain": "ones", "views": "frontal"}
    return Chexpert(root, **{**given, "valid_as": "test", "missing": "stop", **changed})


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for name, rows in (("train.csv", TRAIN), ("valid.csv", VALID)):
        lines = [",".join(HEADER)]
        for path, *facts, given in rows:
            lines.append(",".join([f"{TOP}/{path}", *facts, *(given.get(label, "") for label in LABELS)]))
            file = tmp_path / TOP / path
            file.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(file), np.full((8, 9), 10 * len(lines), np.uint8))
        (tmp_path / TOP / name).write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("below", ["", TOP])
def test_rows(archive: Path, below: str) -> None:
    data = source(archive / below, classes=list(LABELS), views="all")
    index = data.index()
    assert label_names(index) == list(LABELS)
    assert index["image_id"].tolist() == sorted(row[0] for row in [*TRAIN, *VALID])
    assert index["patient_id"].tolist() == [
        *("patient00001", "patient00002", "patient00002", "patient00003", "patient00004", "patient64541")
    ]
    assert index["view"].tolist() == ["AP", "PA", "LATERAL", "AP", "AP", "AP"]
    assert index["official_split"].tolist() == ["train"] * 5 + ["test"]
    assert index["sex"].tolist() == ["F", "M", "M", None, "M", "M"]
    assert index["age"].tolist() == [68, 87, 87, 0, 20, 73]
    assert data.read(index["path"][0]).shape == (8, 9)


@pytest.mark.parametrize(("policy", "value"), [("zeros", 0.0), ("ones", 1.0), ("ignore", np.nan)])
def test_uncertain_labels(archive: Path, policy: str, value: float) -> None:
    found = labels(source(archive, uncertain=policy).index())
    expected = [[1, 0], [value, 1], [1, 0], [0, 0], [0, 0]]  # blank is absent
    assert np.array_equal(found, np.array(expected, dtype=np.float32), equal_nan=True)


def test_views_and_the_part_of_valid(archive: Path) -> None:
    assert len(source(archive).index()) == 5
    lateral = source(archive, views="lateral").index()
    assert lateral["image_id"].tolist() == ["train/patient00002/study2/view2_lateral.jpg"]
    assert set(source(archive, valid_as="val").index()["official_split"]) == {"train", "val"}


@pytest.mark.parametrize(("policy", "kept"), [("zeros", [1, 2, 3]), ("ones", [1, 3]), ("ignore", [1, 3])])
def test_single_label(archive: Path, policy: str, kept: list[int]) -> None:
    index = source(archive, multi_label=False, uncertain=policy).index()
    assert [int(patient[-5:]) for patient in index["patient_id"]] == kept
    assert (labels(index).sum(axis=1) == 1).all()


def test_missing_images(archive: Path) -> None:
    (archive / TOP / TRAIN[0][0]).unlink()
    with pytest.raises(UserError, match=r"1 of 5 listed .*patient00001.*data\.missing=skip"):
        source(archive).index()
    data = source(archive, missing="skip")
    assert len(data.index()) == 4
    assert "1 of 5 listed images" in data.warnings[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",1.0", ",0.7", "row 2, Cardiomegaly is '0.7'; expected 1, 0, -1 or blank"),
        ("Edema,", "Oedema,", "no column 'Edema'"),
        ("/patient00001/study1", "/p1", "row 2, Path is"),
        ("68,Frontal", "68,,Frontal", "row 2 has 20 cells; expected 19"),
    ],
)
def test_broken_tables(archive: Path, old: str, new: str, message: str) -> None:
    file = archive / TOP / "train.csv"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        source(archive).index()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"classes": ["Oedema"]}, "did you mean 'Edema'"),
        ({"uncertain": "mean"}, "zeros, ones or ignore"),
        ({"views": "AP"}, "frontal, lateral or all"),
        ({"valid_as": "train"}, "val or test"),
        ({"missing": "no"}, "stop or skip"),
    ],
)
def test_wrong_parameters(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        source(None, **changed)


def test_nothing_there(archive: Path, tmp_path: Path) -> None:
    for root in (None, tmp_path / "nowhere"):
        with pytest.raises(DatasetNotFound, match=r"set data\.root=.*stanfordmlgroup"):
            source(root).index()
    with pytest.raises(UserError, match=r"expected train\.csv .* found none"):
        source(archive / TOP / "train").index()
    (archive / "CheXpert-v1.0").mkdir()
    (archive / "CheXpert-v1.0" / "train.csv").write_text("x")
    with pytest.raises(UserError, match=r"found CheXpert-v1\.0 and CheXpert-v1\.0-small"):
        source(archive).index()
