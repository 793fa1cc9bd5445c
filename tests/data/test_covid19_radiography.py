"""The COVID-19 Radiography Database: its releases, sources, warnings, and the real pack where it is."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr.data.covid19_radiography import CLASSES, Covid19Radiography, read_sheet, source_of
from cxr.data.index import DatasetNotFound, labels
from cxr.errors import UserError

THREE = ["COVID", "Normal", "Viral Pneumonia"]
TOP = "COVID-19_Radiography_Dataset"
NEW = [
    "COVID/images/COVID-1.png",
    "COVID/images/COVID-2.png",
    "Normal/images/Normal-62.png",
    "Normal/images/Normal-63.png",
    "Normal/images/Normal-99999.png",
    "Viral Pneumonia/images/Viral Pneumonia-1.png",
    "Lung_Opacity/images/Lung_Opacity-1.png",
]
OLD = [
    "COVID-19/COVID-19 (1).png",
    "COVID-19/COVID-19(147).png",
    "NORMAL/NORMAL (1).png",
    "Viral Pneumonia/Viral Pneumonia (1).png",
]
SHEET = '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>'
STRINGS = '<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">{}</sst>'


def write(root: Path, names: list[str]) -> Path:
    for level, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / name), np.full((9, 9), 10 * level, np.uint8))
    return root


def write_book(file: Path, rows: list[list[str]]) -> None:
    """A workbook as Excel writes it: texts in a table of their own, blank cells left out."""
    texts = sorted({cell for row in rows for cell in row})
    lines = "".join(
        f'<row r="{r}">'
        + "".join(
            f'<c r="{"ABCD"[c]}{r}" t="s"><v>{texts.index(cell)}</v></c>'
            for c, cell in enumerate(row)
            if cell
        )
        + "</row>"
        for r, row in enumerate(rows, start=1)
    )
    with zipfile.ZipFile(file, "w") as book:
        book.writestr("xl/sharedStrings.xml", STRINGS.format("".join(f"<si><t>{t}</t></si>" for t in texts)))
        book.writestr("xl/worksheets/sheet1.xml", SHEET.format(lines))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    root = write(tmp_path / TOP, NEW)
    write(root, [name.replace("/images/", "/masks/") for name in NEW])
    write(root / "__MACOSX" / "COVID" / "images", ["COVID-9.png"])
    (root / "COVID" / "images" / "._COVID-1.png").write_bytes(b"x")
    write_book(
        root / "COVID.metadata.xlsx",
        [
            ["FILE NAME", "FORMAT", "SIZE", "URL"],
            ["COVID-1", "", "256*256", "https://bimcv.cipf.es/bimcv-projects/bimcv-covid19/"],
            ["COVID-2", "PNG", "256*256", "https://sirm.org/category/senza-categoria/covid-19/"],
        ],
    )
    return tmp_path


@pytest.mark.parametrize("below", ["", TOP])
def test_masks_and_lung_opacity_are_left_out(archive: Path, below: str) -> None:
    data = Covid19Radiography(archive / below, THREE)
    index = data.index()
    assert index["image_id"].tolist() == sorted(NEW[:-1])
    assert labels(index).sum(axis=0).tolist() == [2, 3, 1]
    assert index["patient_id"].isna().all()
    assert index["official_split"].isna().all()
    assert data.read("COVID/images/COVID-2.png").shape == (9, 9)
    assert len(Covid19Radiography(archive / below, list(CLASSES)).index()) == len(NEW)


def test_sources(archive: Path) -> None:
    index = Covid19Radiography(archive, list(CLASSES)).index().set_index("image_id")
    found = {Path(name).stem: source for name, source in index["source"].items()}
    assert found == {
        "COVID-1": "PadChest (BIMCV)",
        "COVID-2": "sirm.org",
        "Normal-62": "RSNA",
        "Normal-63": "Kaggle chest-xray-pneumonia",
        "Normal-99999": None,  # not a number of the published set
        "Viral Pneumonia-1": "Kaggle chest-xray-pneumonia",
        "Lung_Opacity-1": "RSNA",
    }


def test_the_children_among_the_published_normals() -> None:
    sources = [source_of("Normal", f"Normal-{number}", None) for number in range(1, 10193)]
    assert sources.count("Kaggle chest-xray-pneumonia") == 1341
    assert sources.count("RSNA") == 8851


def test_an_earlier_release(tmp_path: Path) -> None:
    root = write(tmp_path / "COVID-19 Radiography Database", OLD)
    index = Covid19Radiography(tmp_path, THREE).index()
    assert index["image_id"].tolist() == sorted(OLD)
    assert labels(index).sum(axis=0).tolist() == [2, 1, 1]
    assert set(index["source"]) == {None, "Kaggle chest-xray-pneumonia"}
    with pytest.raises(UserError, match="expected images of 'Lung_Opacity', found none"):
        Covid19Radiography(root, list(CLASSES)).index()


def test_it_warns_once_and_keeps_the_warnings(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = Covid19Radiography(archive, THREE)
    assert data.warnings == ()
    with caplog.at_level(logging.WARNING):
        data.index()
        data.index()
    assert len(caplog.records) == len(data.warnings) == 2
    assert data.warnings[0].startswith("shortcut learning")
    assert data.warnings[1].startswith("no patient ids")


def test_a_broken_table_costs_only_the_sources(archive: Path) -> None:
    (archive / TOP / "COVID.metadata.xlsx").write_bytes(b"not a workbook")
    data = Covid19Radiography(archive, ["COVID"])
    assert data.index()["source"].isna().all()
    assert "COVID.metadata.xlsx cannot be read" in data.warnings[0]
    write_book(archive / TOP / "COVID.metadata.xlsx", [["A", "B"]])
    assert Covid19Radiography(archive, ["COVID"]).index()["source"].isna().all()


def test_blank_cells_keep_their_place(tmp_path: Path) -> None:
    rows = [["FILE NAME", "FORMAT", "SIZE", "URL"], ["a", "", "", "u"], ["", "PNG"]]
    write_book(tmp_path / "book.xlsx", rows)
    assert read_sheet(tmp_path / "book.xlsx") == rows


def test_wrong_root_and_classes(tmp_path: Path) -> None:
    for root in (None, tmp_path / "nowhere"):
        with pytest.raises(DatasetNotFound, match=r"set data\.root=.*tawsifurrahman"):
            Covid19Radiography(root, THREE).index()
    write(tmp_path, ["sick/a.png"])
    with pytest.raises(UserError, match="found sick"):
        Covid19Radiography(tmp_path, THREE).index()
    with pytest.raises(UserError, match="did you mean 'COVID'"):
        Covid19Radiography(None, ["COVID-19"])
    with pytest.raises(UserError, match="each once"):
        Covid19Radiography(None, ["COVID", "COVID"])


def test_the_real_pack(pack: Callable[[str], Path]) -> None:
    folder = pack("covid19-radiography-like")
    index = Covid19Radiography(folder, THREE).index()
    assert labels(index).sum(axis=0).tolist() == [243, 256, 120]
    everything = Covid19Radiography(folder, list(CLASSES))
    index = everything.index()
    assert labels(index).sum(axis=0).tolist() == [243, 256, 120, 120]
    assert everything.read(index["path"][0]).shape == (299, 299)
    assert index["source"].value_counts().to_dict() == {
        "Hannover Medical School": 243,
        "NIH ChestX-ray14": 156 + 120,
        "Kaggle chest-xray-pneumonia": 100 + 120,
    }
    assert index["patient_id"].isna().all()
