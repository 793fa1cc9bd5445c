"""The Kaggle pneumonia set: its layout, its odd names, and the real files where they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

from cxr.data.index import DatasetNotFound, labels
from cxr.data.pneumonia import Pneumonia, parse_name
from cxr.errors import UserError

CLASSES = ["NORMAL", "PNEUMONIA"]
FILES = {
    "train/NORMAL/IM-0115-0001.jpeg": 10,
    "train/NORMAL/NORMAL2-IM-0666-0001.jpeg": 20,
    "train/NORMAL/IM-0437-0001-0002.jpeg": 30,
    "train/PNEUMONIA/person1_bacteria_1.jpeg": 40,
    "train/PNEUMONIA/person1_virus_6.jpeg": 50,
    "val/PNEUMONIA/person7_virus_6_2.jpeg": 60,
    "test/PNEUMONIA/person1_bacteria_4.jpeg": 40,  # the bytes of another file
}


def write(root: Path, files: dict[str, int]) -> Path:
    for name, level in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / name), np.full((9, 12), level, np.uint8))
    return root


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """What the published zip unpacks to: the set, a nested copy, Mac shadows."""
    write(tmp_path / "chest_xray", FILES)
    write(tmp_path / "chest_xray" / "chest_xray", FILES)
    for name in FILES:
        shadow = tmp_path / "chest_xray" / "__MACOSX" / "chest_xray" / name
        shadow.parent.mkdir(parents=True, exist_ok=True)
        shadow.with_name(f"._{shadow.name}").write_bytes(b"Mac OS X")
    (tmp_path / "chest_xray" / "train" / "NORMAL" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "chest_xray" / "train" / "NORMAL" / "._IM-0115-0001.jpeg").write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "number", "subtype_key", "subtype"),
    [
        ("person123_bacteria_4.jpeg", "person123", "person123_bacteria", "bacteria"),
        ("person1_virus_6.jpeg", "person1", "person1_virus", "virus"),
        ("person7_virus_6_2.jpeg", "person7", "person7_virus", "virus"),
        ("IM-0115-0001.jpeg", "IM-0115", "IM-0115", None),
        ("IM-0437-0001-0002.jpeg", "IM-0437", "IM-0437", None),
        ("NORMAL2-IM-0666-0001.jpeg", "NORMAL2-IM-0666", "NORMAL2-IM-0666", None),
        ("NORMAL2-IM-0246-0001-0002.jpeg", "NORMAL2-IM-0246", "NORMAL2-IM-0246", None),
        ("scan.jpeg", None, None, None),
    ],
)
def test_names(name: str, number: str | None, subtype_key: str | None, subtype: str | None) -> None:
    assert parse_name(name, "number") == (number, subtype)
    assert parse_name(name, "subtype") == (subtype_key, subtype)


@pytest.mark.parametrize("below", ["", "chest_xray", "chest_xray/chest_xray"])
def test_nothing_is_counted_twice_from_any_level(archive: Path, below: str) -> None:
    index = Pneumonia(archive / below, CLASSES, "number").index()
    assert list(index["image_id"]) == sorted(FILES)
    assert index["content_hash"].nunique() == len(FILES) - 1
    assert set(index["patient_id"]) == {"IM-0115", "IM-0437", "NORMAL2-IM-0666", "person1", "person7"}


def test_labels_splits_and_pixels(archive: Path) -> None:
    source = Pneumonia(archive, CLASSES, "subtype")
    index = source.index().set_index("image_id")
    assert labels(index).sum(axis=0).tolist() == [3, 4]
    assert index.loc["val/PNEUMONIA/person7_virus_6_2.jpeg", "official_split"] == "val"
    assert index.loc["train/PNEUMONIA/person1_virus_6.jpeg", "patient_id"] == "person1_virus"
    image = source.read("train/NORMAL/IM-0115-0001.jpeg")
    assert image.shape == (9, 12)
    assert image.dtype == np.uint8
    assert abs(int(image.mean()) - 10) <= 1


def test_a_nested_copy_alone_is_found(tmp_path: Path) -> None:
    write(tmp_path / "chest_xray" / "chest_xray", FILES)
    assert len(Pneumonia(tmp_path, CLASSES, "number").index()) == len(FILES)


def test_subtypes_as_classes(archive: Path) -> None:
    index = Pneumonia(archive, ["VIRUS", "NORMAL", "BACTERIA"], "number").index()
    assert labels(index).sum(axis=0).tolist() == [2, 3, 2]
    assert len(Pneumonia(archive, ["PNEUMONIA"], "number").index()) == 4


def test_no_location_says_what_to_set_and_where_to_get_it(tmp_path: Path) -> None:
    for root in (None, tmp_path / "nowhere"):
        source = Pneumonia(root, CLASSES, "number")  # building needs no data
        with pytest.raises(
            DatasetNotFound, match=r"set data\.root=.*Kaggle.*doi\.org/10\.17632/rscbjbr9sj\.2"
        ):
            source.index()


def test_another_layout_says_what_was_expected_and_found(tmp_path: Path) -> None:
    write(tmp_path, {"normal/a.png": 1, "sick/b.png": 2})
    expected = r"expected \{train,val,test\}/\{NORMAL,PNEUMONIA\}/ .* found normal, sick"
    with pytest.raises(UserError, match=expected) as caught:
        Pneumonia(tmp_path, CLASSES, "number").index()
    assert not isinstance(caught.value, DatasetNotFound)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["NORMAL", "PNEUMONA"], "did you mean 'PNEUMONIA'"),
        (["PNEUMONIA", "VIRUS"], "not both"),
        (["NORMAL", "NORMAL"], "each once"),
        ([], "at least one"),
    ],
)
def test_wrong_classes(classes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Pneumonia(None, classes, "number")


@pytest.mark.parametrize(("key", "crossing"), [("number", 170), ("subtype", 0)])
def test_the_real_set(pack: Callable[[str], Path], key: Literal["number", "subtype"], crossing: int) -> None:
    index = Pneumonia(pack("chest-xray-pneumonia-224"), CLASSES, key).index()
    counts = index.groupby(["official_split", "label:PNEUMONIA"]).size().to_dict()
    assert counts == {
        ("train", 0): 1341,
        ("train", 1): 3875,
        ("val", 0): 8,
        ("val", 1): 8,
        ("test", 0): 234,
        ("test", 1): 390,
    }
    assert len(index) == 5856
    assert index["subtype"].value_counts().to_dict() == {"bacteria": 2780, "virus": 1493}
    assert index["patient_id"].notna().all()
    copies = index["content_hash"].value_counts()
    assert int((copies > 1).sum()) == 30
    assert int((copies - 1).sum()) == 32
    parts = {part: set(rows) for part, rows in index.groupby("official_split")["patient_id"]}
    assert len(parts["train"] & parts["test"]) == crossing


def test_the_real_aspect_pack(pack: Callable[[str], Path]) -> None:
    source = Pneumonia(pack("chest-xray-pneumonia-aspect"), CLASSES, "number")
    index = source.index()
    assert labels(index).sum(axis=0).tolist() == [60, 68]
    assert set(index["official_split"]) == {"train"}
    assert index["content_hash"].nunique() == 127
    shapes = {source.read(path).shape for path in index["path"][:6]}
    assert len(shapes) > 1  # real aspect ratios
