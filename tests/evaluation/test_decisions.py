"""A review's CSV against the set it is applied to: what it means, and each way in which it may not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr.data.synthetic import SyntheticSet, load_synthetic, write_synthetic
from cxr.errors import UserError
from cxr.evaluation.decisions import COLUMNS, curate_by_review, read_decisions, settled
from cxr.evaluation.filter import Review


def write_set(path: Path, start: int = 0) -> SyntheticSet:
    images = np.repeat(np.arange(6, dtype=np.uint8) + start, 64).reshape(6, 8, 8)
    index = pd.DataFrame(
        {"class": list("aaabbb"), "z_seed": 2**62 + 1, "z_index": range(10, 16), "checkpoint_sha256": "c", "score": np.nan}
    )  # fmt: skip
    manifest: dict[str, Any] = {
        "classes": ["a", "b"], "seed": 0, "checkpoints": [], "trained_on": ["x"], "split_fingerprint": "f",
        "recipe": {"seed": 0},
    }  # fmt: skip
    return write_synthetic(path, images, index, manifest, None)


@pytest.fixture
def gan(tmp_path: Path) -> SyntheticSet:
    return write_set(tmp_path / "gan")


def rows(one: SyntheticSet, words: str, who: str = "Jo") -> pd.DataFrame:
    """A page's rows: k(eep), r(eject), - (undecided) for each image."""
    decisions = [{"k": "keep", "r": "reject", "-": "undecided"}[w] for w in words]
    frame = one.index[["class", "z_seed", "z_index"]].astype(str)
    frame = frame.assign(
        images_sha256=one.manifest["images_sha256"], position=[str(k) for k in range(6)], time=""
    )
    return frame.assign(decision=decisions, reviewer=[who if w != "-" else "" for w in words])[list(COLUMNS)]


def save(frame: pd.DataFrame, path: Path, **options: Any) -> Path:
    frame.to_csv(path, index=False, **options)
    return path


def test_decisions_of_parts_and_of_spreadsheets(gan: SyntheticSet, tmp_path: Path) -> None:
    frame = rows(gan, "krk-rk")
    frame["decision"] = frame["decision"].str.capitalize().replace("Undecided", "")
    first = save(frame[:4], tmp_path / "1.csv")
    second = save(frame[4:], tmp_path / "2.csv", sep=";", encoding="utf-8-sig")
    found = read_decisions([second, first], gan)
    assert found.keeps.tolist() == [1, 0, 1, 0, 0, 1]
    assert found.rejects.tolist() == [0, 1, 0, 0, 1, 0]
    assert found.reviewers == ["Jo"]
    assert settled(found, undecided="keep", conflict="refuse").tolist() == [
        True,
        False,
        True,
        True,
        False,
        True,
    ]
    assert settled(found, undecided="drop", conflict="refuse").tolist() == [
        True,
        False,
        True,
        False,
        False,
        True,
    ]
    with pytest.raises(
        UserError, match=r"1 of 6 images are undecided, the first is 3; .*filter\.undecided=drop"
    ):
        settled(found, undecided="refuse", conflict="refuse")


def test_two_reviewers(gan: SyntheticSet, tmp_path: Path) -> None:
    files = [
        save(rows(gan, "kkrr--", "Jo"), tmp_path / "1.csv"),
        save(rows(gan, "krkr-k", "Al"), tmp_path / "2.csv"),
    ]
    found = read_decisions(files, gan)
    assert found.reviewers == ["Al", "Jo"]
    assert found.disputed.tolist() == [False, True, True, False, False, False]
    assert found.undecided.tolist() == [False] * 4 + [True, False]  # one who did not look does not count
    assert settled(found, undecided="drop", conflict="drop").tolist() == [
        True,
        False,
        False,
        False,
        False,
        True,
    ]
    assert settled(found, undecided="drop", conflict="keep").tolist() == [
        True,
        True,
        True,
        False,
        False,
        True,
    ]
    with pytest.raises(UserError, match=r"2 of 6 images were kept by one reviewer.*filter\.conflict=drop"):
        settled(found, undecided="drop", conflict="refuse")


def changed(column: str, value: str) -> Any:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[2, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (changed("decision", "rejct"), r"row 4: decision 'rejct', expected .*did you mean 'reject'"),
        (changed("images_sha256", "0" * 64), "row 4 is of another set .*set synthetic=…"),
        (changed("z_seed", "4.61169E+18"), "row 4: a 4.61169E.18 12 is not image 2 of gan .*spreadsheet"),
        (changed("class", "b"), "row 4: b .* is not image 2"),
        (changed("position", "6"), "row 4: position '6', expected 0 to 5"),
        (changed("position", "-1"), "row 4: position '-1'"),
        (lambda frame: frame.drop(columns="decision"), "no column 'decision'"),
        (lambda frame: frame[:4], r"no row for 2 of the 6 images of gan, the first is 4.*\[A\.csv,B\.csv\]"),
        (lambda frame: pd.concat([frame, frame[3:4]]), "image 3 has more than one row"),
    ],
    ids=["word", "set", "seed", "class", "beyond", "negative", "column", "missing", "twice"],
)  # fmt: skip
def test_a_csv_that_does_not_fit_is_refused(
    change: Any, told: str, gan: SyntheticSet, tmp_path: Path
) -> None:
    file = save(change(rows(gan, "krkrkr")), tmp_path / "x.csv")
    with pytest.raises(UserError, match=told):
        read_decisions([file], gan)


def test_a_file_that_is_not_there(gan: SyntheticSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; expected what .*review\.html exported"):
        read_decisions([tmp_path / "x.csv"], gan)
    with pytest.raises(UserError, match="names no file"):
        read_decisions([], gan)


def review(csv: Path, undecided: Any = "drop") -> Review:
    return Review(csv=[str(csv)], undecided=undecided, conflict="refuse")


def test_the_new_set_says_what_became_of_the_old_one(gan: SyntheticSet, tmp_path: Path) -> None:
    file = save(rows(gan, "krk-kk"), tmp_path / "x.csv")
    made = curate_by_review(gan, tmp_path / "new", review(file))
    assert made.images[:, 0, 0].tolist() == [0, 2, 4, 5]
    kept = gan.index.iloc[[0, 2, 4, 5]].reset_index(drop=True).assign(source_row=[0, 2, 4, 5])
    pd.testing.assert_frame_equal(made.index, kept)  # latents and generators are still there
    (step,) = made.manifest["curated"]
    assert step["method"] == "review" and step["parameters"] == {"undecided": "drop", "conflict": "refuse"}
    assert step["counts"] == {"a": {"kept": 2, "rejected": 1}, "b": {"kept": 2, "rejected": 1}}
    assert step["source"]["images_sha256"] == gan.manifest["images_sha256"]
    assert (step["undecided"], step["disputed"], step["reviewers"]) == (1, 0, ["Jo"])
    assert step["csv"] == [{"file": "x.csv", "sha256": step["inputs"]["csv 1"]}]
    assert str(tmp_path) not in (made.path / "manifest.json").read_text()
    assert made.manifest["trained_on"] == ["x"] and made.manifest["chosen_on"] == []
    # generate.py must not take it for what it would make
    assert "recipe" not in made.manifest and made.manifest["generated"]["recipe"] == {"seed": 0}
    assert (tmp_path / "new" / "review-1.csv").read_bytes() == file.read_bytes()

    before = (made.path / "manifest.json").stat().st_mtime_ns
    again = curate_by_review(gan, tmp_path / "new", review(file))
    assert again.manifest == made.manifest and (made.path / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"another synthetic set is there; set name="):
        curate_by_review(gan, tmp_path / "new", review(file, "keep"))


def test_a_curated_set_is_curated_again(gan: SyntheticSet, tmp_path: Path) -> None:
    first = curate_by_review(gan, tmp_path / "one", review(save(rows(gan, "krkkkk"), tmp_path / "1.csv")))
    frame = rows(gan, "kkkkkk")[:5]
    frame[["class", "z_seed", "z_index"]] = first.index[["class", "z_seed", "z_index"]].astype(str)
    frame["images_sha256"], frame["decision"] = first.manifest["images_sha256"], ["reject", *["keep"] * 4]
    made = curate_by_review(first, tmp_path / "two", review(save(frame, tmp_path / "2.csv")))
    assert made.index["source_row"].tolist() == [2, 3, 4, 5]  # rows of what the GAN made
    assert [step["source"]["name"] for step in made.manifest["curated"]] == ["gan", "one"]
    assert made.manifest["generated"]["images_sha256"] == gan.manifest["images_sha256"]


@pytest.mark.parametrize(
    ("words", "told"), [("rrrrrr", "nothing is left of gan"), ("kkkrrr", "no image of b is left")]
)
def test_a_class_may_not_vanish(words: str, told: str, gan: SyntheticSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        curate_by_review(gan, tmp_path / "new", review(save(rows(gan, words), tmp_path / "x.csv")))
    assert not (tmp_path / "new").exists()
    assert load_synthetic(gan.path).manifest == gan.manifest
