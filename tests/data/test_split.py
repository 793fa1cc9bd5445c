"""Splits: groups stay whole, classes keep their share, the fingerprint names the split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr.data.grouping import groups_of, strata
from cxr.data.index import LABEL, label_names, make_index
from cxr.data.split import Split, check_disjoint, holdout, kfold, official, overlaps, patient, stratified
from cxr.errors import UserError


def make(patients: list[str | None], classes: list[int], hashes: list[str] | None = None) -> pd.DataFrame:
    n = len(patients)
    return pd.DataFrame(
        {
            "image_id": [f"i{k:05d}" for k in range(n)],
            "path": [f"i{k:05d}" for k in range(n)],
            "label:N": [float(c == 0) for c in classes],
            "label:P": [float(c == 1) for c in classes],
            "patient_id": pd.Series(patients, dtype=object),
            "official_split": pd.Series([None] * n, dtype=object),
            "content_hash": hashes or [f"{k:064x}" for k in range(n)],
        }
    ).astype({"label:N": np.float32, "label:P": np.float32})


@pytest.fixture
def index() -> pd.DataFrame:
    """600 images, 1 to 12 per patient, a quarter N, a few files under two patients."""
    rng = np.random.default_rng(0)
    patients: list[str | None] = []
    classes: list[int] = []
    while len(patients) < 600:
        size = min(int(rng.geometric(0.45)), 12, 600 - len(patients))
        classes += [int(rng.random() > 0.25)] * size
        patients += [f"p{len(patients)}"] * size
    hashes = [f"{k:064x}" for k in range(600)]
    for a, b in [(3, 400), (400, 599), (7, 8)]:
        hashes[b] = hashes[a]
    return make(patients, classes, hashes)


MAKERS: dict[str, Callable[[pd.DataFrame, int], Split]] = {
    "patient": lambda index, seed: patient(index, val=0.1, test=0.2, seed=seed),
    "stratified": lambda index, seed: stratified(index, val=0.1, test=0.2, group="patient", seed=seed),
    "kfold": lambda index, seed: kfold(index, folds=5, fold=2, val=0.125, max_test=None, seed=seed),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_groups_stay_whole_and_classes_keep_their_share(index: pd.DataFrame, maker: str, seed: int) -> None:
    split = MAKERS[maker](index, seed)
    assert list(split.parts) == ["train", "val", "test"] and not split.warnings
    rows = np.concatenate(list(split.parts.values()))
    assert sorted(rows) == list(range(600))
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in split.parts.values())
    for column in ("patient_id", "content_hash"):
        assert overlaps(index, split.parts, column=column) == []
    overall = index["label:N"].mean()
    # ours keep within the largest group; scikit-learn's folds are its own, and differ among its versions
    images, proportion = (24, 0.08) if maker == "kfold" else (12, 0.05)
    for part, share in {"train": 0.7, "val": 0.1, "test": 0.2}.items():
        assert abs(len(split.parts[part]) - 600 * share) <= images
        assert abs(index["label:N"].iloc[split.parts[part]].mean() - overall) < proportion


def test_same_seed_same_split_other_seed_another(index: pd.DataFrame) -> None:
    for maker in MAKERS.values():
        assert maker(index, 0).fingerprint == maker(index, 0).fingerprint != maker(index, 1).fingerprint


def test_the_fingerprint_follows_content_and_membership_not_the_way_there(index: pd.DataFrame) -> None:
    split = patient(index, val=0.1, test=0.2, seed=0)
    ids = list(index["image_id"].iloc[split.parts["test"]])
    frozen = holdout(index, test_ids=ids, csv=None, val=0, on_overlap="refuse", seed=0)
    assert (frozen.parts["test"] == split.parts["test"]).all() and frozen.fingerprint != split.fingerprint
    changed = index.copy()
    changed.loc[5, "content_hash"] = "f" * 64
    assert official_copy(changed, split).fingerprint != official_copy(index, split).fingerprint
    assert official_copy(index, split).fingerprint == split.fingerprint


def official_copy(index: pd.DataFrame, split: Split) -> Split:
    index = index.copy()
    for part, rows in split.parts.items():
        index.loc[rows, "official_split"] = part
    return official(index, val=None, on_overlap="report", seed=0)


def test_counts_are_met_exactly_where_single_images_allow_it(index: pd.DataFrame) -> None:
    split = patient(index, val=37, test=101, seed=0)
    assert [len(split.parts[p]) for p in ("train", "val", "test")] == [462, 37, 101]
    alone = make([None] * 50, [k % 2 for k in range(50)])
    split = stratified(alone, val=10, test=20, group="patient", seed=3)
    for part, n in {"train": 20, "val": 10, "test": 20}.items():
        assert len(split.parts[part]) == n and alone["label:N"].iloc[split.parts[part]].sum() == n / 2
    assert len(stratified(alone, val=0, test=10, group="patient", seed=3).parts["val"]) == 0


def test_large_groups_do_not_always_train() -> None:
    index = make(["big"] * 20 + [f"p{k}" for k in range(80)], [1] * 100)
    where = {
        part
        for seed in range(12)
        for part, rows in patient(index, val=0.25, test=0.35, seed=seed).parts.items()
        if 0 in rows
    }
    assert where > {"train"}


def test_groups_are_connected_through_patients_and_files() -> None:
    index = make(["a", "a", "b", None, None, "c"], [0] * 6, [h * 64 for h in "012134"])
    # 1 and 3 are the same file, 0 and 1 the same patient; an unknown patient links nothing.
    assert groups_of(index).tolist() == [0, 0, 1, 0, 2, 3]
    assert groups_of(index, patients=False).tolist() == [0, 1, 2, 1, 3, 4]


def test_an_overlap_is_refused_with_the_list_or_reported() -> None:
    index = make([f"p{k // 2}" for k in range(60)], [k % 2 for k in range(60)])
    index["official_split"] = ["train" if k % 2 else "test" for k in range(60)]
    with pytest.raises(UserError) as caught:
        official(index, val=None, on_overlap="refuse", seed=0)
    message = str(caught.value)
    assert "30 patients are in more than one part: p0, p1" in message and "(30 in all)" in message
    assert message.count("p1") == 9 and "\n" not in message  # p0 p1 p10 … p17: ten names
    assert "on_overlap=report" in message
    split = official(index, val=None, on_overlap="report", seed=0)
    assert len(split.warnings) == 1 and "30 patients" in split.warnings[0]
    assert [len(split.parts[p]) for p in ("train", "val", "test")] == [30, 0, 30]


def test_check_disjoint_sees_files_under_two_patients_and_doubled_rows() -> None:
    index = make(["a", "b", "c"], [0, 1, 0], ["1" * 64, "1" * 64, "2" * 64])
    parts = {"train": np.array([0]), "val": np.array([2]), "test": np.array([1])}
    with pytest.raises(UserError, match=r"1 files \(by content\).*1111111111111111"):
        check_disjoint(index, Split(parts, "", "mine"))
    parts = {"train": np.array([0, 2]), "val": np.array([2]), "test": np.array([], np.int64)}
    with pytest.raises(UserError, match="an image is in two parts"):
        check_disjoint(index, Split(parts, "", "mine"), patients=False)


def test_official_val_is_drawn_from_train_and_val_and_test_stays(index: pd.DataFrame) -> None:
    shipped = official_copy(index, patient(index, val=16, test=0.2, seed=5))
    index = index.assign(official_split=None)
    for part, rows in shipped.parts.items():
        index.loc[rows, "official_split"] = part
    split = official(index, val=0.25, on_overlap="refuse", seed=0)
    assert (split.parts["test"] == shipped.parts["test"]).all()
    assert abs(len(split.parts["val"]) - 120) <= 12
    index.loc[shipped.parts["train"][:3], "official_split"] = None
    assert "3 images are in no part" in official(index, val=None, on_overlap="refuse", seed=0).warnings[0]


def test_folds_test_every_image_once(index: pd.DataFrame) -> None:
    tests = [
        kfold(index, folds=5, fold=fold, val=0.1, max_test=None, seed=1).parts["test"] for fold in range(5)
    ]
    assert sorted(np.concatenate(tests)) == list(range(600))


def test_all_folds_name_one_cross_validation(index: pd.DataFrame) -> None:
    def whole(fold: int, val: float = 0.1, seed: int = 1, max_test: dict[str, int] | None = None) -> Any:
        return kfold(index, folds=5, fold=fold, val=val, max_test=max_test, seed=seed).kfold

    one = whole(0)
    assert one == whole(4) and (one["folds"], one["name"]) == (5, "kfold(5,val=0.1,seed=1)")
    limited = {label_names(index)[0]: 3}
    others = [whole(0, val=0.2), whole(0, seed=2), whole(0, max_test=limited)]
    assert len({o["fingerprint"] for o in [one, *others]}) == 4
    assert patient(index, val=0.1, test=0.2, seed=0).kfold is None


@pytest.mark.parametrize("seed", range(5))
def test_at_most_so_many_test_images_by_moving_whole_patients(index: pd.DataFrame, seed: int) -> None:
    # a third of the patients have images of both classes, and twenty images no class at all
    rng = np.random.default_rng(seed)
    flip = rng.random(600) < 0.1
    index.loc[flip, ["label:N", "label:P"]] = index.loc[flip, ["label:P", "label:N"]].to_numpy()
    index.loc[rng.permutation(600)[:20], ["label:N", "label:P"]] = 0.0
    groups = groups_of(index)
    full = kfold(index, folds=5, fold=1, val=0, max_test=None, seed=seed).parts
    for limits in ({"N": 10}, {"N": 10, "P": 40}, {"P": 0}, {"N": 900}):
        split = kfold(index, folds=5, fold=1, val=0, max_test=limits, seed=seed)
        test = split.parts["test"]
        assert set(test) <= set(full["test"])
        assert sorted([*test, *split.parts["train"]]) == list(range(600))
        assert not set(groups[test]) & set(groups[split.parts["train"]])
        moved = index.iloc[np.setdiff1d(full["test"], test)]
        for name in ("N", "P"):
            if name not in limits:  # a patient with an image that may stay, stays
                assert not moved[f"label:{name}"].any()
            n, before = (int(index[f"label:{name}"].iloc[rows].sum()) for rows in (test, full["test"]))
            if n > limits.get(name, 600):
                assert any(f"{n} test images of {name}" in warning for warning in split.warnings)
                assert n < before
        assert (moved[["label:N", "label:P"]].sum(axis=1) == 1).all()
    assert np.array_equal(test, full["test"]), "a limit that does not bind changes nothing"


def test_max_test_is_met_exactly_and_drawn_by_the_seed() -> None:
    index = make([f"p{i}" for i in range(500)], [int(i >= 100) for i in range(500)])
    tests = [
        kfold(index, folds=5, fold=0, val=0.1, max_test={"P": 20}, seed=s).parts["test"] for s in (0, 0, 1)
    ]
    assert [int(index["label:P"].iloc[rows].sum()) for rows in tests] == [20, 20, 20]
    assert [len(rows) for rows in tests] == [40, 40, 40]
    assert np.array_equal(tests[0], tests[1]) and not np.array_equal(tests[0], tests[2])


def test_by_image_lets_patients_cross_and_says_so(index: pd.DataFrame) -> None:
    split = stratified(index, val=0.1, test=0.2, group="image", seed=0)
    assert overlaps(index, split.parts, column="patient_id")
    assert overlaps(index, split.parts, column="content_hash") == []
    assert "patients are in more than one part" in split.warnings[0]


def test_holdout_reads_a_csv_and_refuses_strangers_and_relatives(index: pd.DataFrame, tmp_path: Path) -> None:
    groups = groups_of(index)
    whole = index["image_id"][groups < 30]
    whole.to_frame().to_csv(tmp_path / "test.csv", index=False)
    split = holdout(index, test_ids=None, csv=tmp_path / "test.csv", val=0.1, on_overlap="refuse", seed=0)
    assert list(index["image_id"].iloc[split.parts["test"]]) == list(whole)
    with pytest.raises(UserError, match="did you mean 'i00125'"):
        holdout(index, test_ids=["j00125"], csv=None, val=0.1, on_overlap="refuse", seed=0)
    several = index.groupby("patient_id")["image_id"].first()[index["patient_id"].value_counts() > 1]
    with pytest.raises(UserError, match="patients are in more than one part"):
        holdout(index, test_ids=list(several), csv=None, val=0.1, on_overlap="refuse", seed=0)
    with pytest.raises(UserError, match=r"split\.csv=FILE or split\.test_ids"):
        holdout(index, test_ids=None, csv=None, val=0.1, on_overlap="refuse", seed=0)


@pytest.mark.parametrize(
    ("make_split", "message"),
    [
        (lambda i: patient(i, val=1.5, test=0.2, seed=0), r"split\.val is 1\.5"),
        (lambda i: patient(i, val=0.5, test=-3, seed=0), r"split\.test is -3"),
        (lambda i: patient(i, val=0.6, test=0.4, seed=0), "leaves none to train on"),
        (lambda i: patient(i.assign(patient_id=None), val=0.1, test=0.2, seed=0), "split=stratified"),
        (lambda i: official(i, val=None, on_overlap="refuse", seed=0), "ships no split"),
        (lambda i: kfold(i, folds=5, fold=5, val=0.1, max_test=None, seed=0), r"split\.fold is 5"),
        (lambda i: kfold(i, folds=1, fold=0, val=0.1, max_test=None, seed=0), r"split\.folds is 1"),
        (
            lambda i: kfold(i, folds=5, fold=0, val=0.1, max_test={"Q": 1}, seed=0),
            r"max_test names the class 'Q'",
        ),
        (lambda i: kfold(i, folds=5, fold=0, val=0.1, max_test={"P": -1}, seed=0), r"max_test\.P is -1"),
        (
            lambda i: kfold(i, folds=599, fold=0, val=0.1, max_test=None, seed=0),
            "groups of images cannot make 599 folds",
        ),
    ],
)
def test_mistakes_name_the_override(index: pd.DataFrame, make_split: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_split(index)


def test_multi_label_strata_take_the_rarest_label() -> None:
    labels = np.array([[1, 1], [1, 0], [0, 0], [1, np.nan]], np.float32)
    assert strata(labels).tolist() == [1, 0, 2, 0]


def test_the_real_set_by_number_and_by_subtype(pack: Any) -> None:
    from cxr.data.pneumonia import Pneumonia

    root = pack("chest-xray-pneumonia-224")
    index = Pneumonia(root=root, classes=["NORMAL", "PNEUMONIA"], patient_key="number").index()
    split = official(index, val=None, on_overlap="report", seed=0)
    assert [len(split.parts[p]) for p in ("train", "val", "test")] == [5216, 16, 624]
    assert len(overlaps(index, {p: split.parts[p] for p in ("train", "test")}, column="patient_id")) == 170
    assert "patients are in more than one part" in split.warnings[0]
    with pytest.raises(UserError, match="patients are in more than one part"):
        official(index, val=None, on_overlap="refuse", seed=0)
    ours = patient(index, val=0.1, test=0.2, seed=0)
    assert abs(len(ours.parts["test"]) - 1171) <= 2
    share = index["label:PNEUMONIA"]
    assert abs(share.iloc[ours.parts["test"]].mean() - share.mean()) < 0.005


def test_a_class_with_fewer_images_than_folds_is_named(recwarn: pytest.WarningsRecorder) -> None:
    rows = [{"image_id": f"{i}.png", "path": f"{i}.png", "patient_id": f"p{i}", "content_hash": f"{i:064d}"}
            | {LABEL + "A": float(i > 1), LABEL + "B": float(i < 2)} for i in range(20)]  # fmt: skip
    found = kfold(make_index(rows, ["A", "B"]), folds=5, fold=0, val=0, max_test=None, seed=0)
    assert found.warnings == ("2 images of B for 5 folds: some test none",)
    assert not recwarn.list
