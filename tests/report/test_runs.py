"""What may be averaged and what is refused, with the runs named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxr.errors import UserError
from cxr.metric.bootstrap import Estimate
from cxr.report.difference import compare_arms, unpaired, verdict
from cxr.report.export import to_csv, to_grid
from cxr.report.html_result import result_table
from cxr.report.mark import Mark, cautions
from cxr.report.provenance import protocol_lines
from cxr.report.published import load_published
from cxr.report.runs import ReportRun, group_runs, load_run, measure
from cxr.report.spec import ReportSpec, TableSpec, generic_spec
from cxr.report.summary import summary
from cxr.report.table import ExtraCell, build_table


def test_seeds_are_averaged_and_joined_with_the_published_value(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    runs = [load_run(make_run(tmp_path, f"s{s}", seed=s, wrong=w)) for s, w in ((1, 6), (0, 12))]
    table = build_table(TableSpec("t", "T", ["real_only"], ["talukdar_cnn", "vgg16"], ["accuracy", "wall_s"]),
                        group_runs(runs), load_published("talukdar"), "accuracy")  # fmt: skip
    assert table is not None
    ours, absent = table.rows
    cell = ours.cells[0]
    assert cell.ours is not None and cell.published is not None
    assert cell.ours.per_seed == pytest.approx((108 / 120, 114 / 120))  # sorted by seed
    assert cell.ours.value == pytest.approx(111 / 120)
    assert (cell.ours.n, cell.ours.n_patients, cell.ours.n_seeds) == (120, 40, 2)
    assert cell.difference == pytest.approx(111 / 120 - 0.9403)
    assert ours.cells[1].ours is not None and ours.cells[1].ours.value == pytest.approx(100.5)
    assert absent.arm_runs is None and absent.cells[0].published is not None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 1, "fingerprint": "e" * 16}, "split fingerprint differ"),
        ({"seed": 1, "n_resamples": 60}, "protocol differ"),
        ({"seed": 1, "fold": 2}, "fold differ"),
        ({"seed": 1, "counts": {"train": {}}}, "training counts differ"),
        ({"seed": 0}, "one run per seed"),
        ({"seed": 1, "n": 90}, "test images"),
        ({"arm": "synthetic", "fingerprint": "e" * 16}, "cannot be compared"),
    ],
)
def test_unlike_runs_are_refused_by_name(
    change: dict[str, Any], told: str, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    runs = [load_run(make_run(tmp_path, "one")), load_run(make_run(tmp_path, "two", **change))]
    with pytest.raises(UserError, match=told) as error:
        group_runs(runs)
    assert "one" in str(error.value) and "two" in str(error.value) and "\n" not in str(error.value)


def test_paired_difference_and_its_sentence(make_run: Callable[..., Path], tmp_path: Path) -> None:
    paper = load_published("talukdar")
    paths = [make_run(tmp_path, f"r{s}", seed=s, wrong=24) for s in range(2)]
    paths += [make_run(tmp_path, f"g{s}", arm="synthetic", seed=s, wrong=6 + 3 * s) for s in range(2)]
    spec = generic_spec("talukdar")
    arms = group_runs([load_run(p) for p in paths])
    (found,) = compare_arms(arms, spec.comparisons, "accuracy", paper)
    assert found.ours.value == pytest.approx(0.1375)
    assert found.ours.per_seed == pytest.approx((0.15, 0.125))
    assert found.published == pytest.approx(0.0206)
    assert verdict(found) == "excludes zero"
    effect, basis = summary(spec, [found], 2)
    assert effect.startswith("Synthetic images changed test accuracy by +13.75 points (95 % interval +")
    assert "excludes zero" in effect and "+2.06 points" in effect
    assert "120 test images of 40 patients" in basis and "patients and seeds" in basis


KFOLD = {"folds": 5, "name": "kfold(5,val=0.1,seed=0)", "fingerprint": "ab" * 8}


@pytest.fixture
def make_fold(make_run: Callable[..., Path], tmp_path: Path) -> Callable[..., ReportRun]:
    def make(name: str, fold: int, **options: Any) -> ReportRun:
        given = {"fingerprint": f"{fold}" * 16, "kfold": KFOLD, "first": 999 * fold, **options}
        return load_run(make_run(tmp_path, name, fold=fold, **given))

    return make


def test_folds_are_averaged_within_a_seed(make_fold: Callable[..., ReportRun]) -> None:
    sizes = {"counts": {"train": {"NORMAL": {"real": 10}}, "test": {}}}
    runs = [
        make_fold(f"a{s}{f}", f, seed=s, wrong=6 * (f + 1), n=60 * (f + 1)) for s in (1, 0) for f in (2, 0)
    ]
    runs += [
        make_fold(f"g{f}", f, arm="synthetic", wrong=6, n=60 * (f + 1), **(sizes if f else {}))
        for f in (0, 2)
    ]
    real, gan = group_runs(runs)
    assert (real.n_seeds, real.folds, real.n_images, real.n_patients) == (2, (0, 2), 240, 80)
    assert real.split == (KFOLD["name"], KFOLD["fingerprint"])
    assert Mark("2 of 5 folds", "of the cross-validation, fold 0, 2") in real.marks
    score = measure(real, ["accuracy"])["accuracy"]
    assert score.per_seed == pytest.approx((0.9, 0.9)) and score.n == 240
    gain = measure(gan, ["accuracy"])["accuracy"]
    assert gain.value == pytest.approx((54 / 60 + 174 / 180) / 2)  # mean over folds, not 228 of 240
    (found,) = compare_arms([real, gan], [["synthetic", "real_only"]], "accuracy", None)
    assert found.ours.value == pytest.approx(gain.value - 0.9) and found.n_seeds == (1, 2)
    (fewer,) = group_runs([run for run in runs if run.fold == 0 and run.name == "g0"])
    assert compare_arms([real, fewer], [["synthetic", "real_only"]], "accuracy", None) == []
    assert "unlike folds and are not compared" in unpaired([real, fewer], [["synthetic", "real_only"]])[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"fold": 0, "name": "two"}, "seed 0, fold 0; expected one run per seed and fold"),
        ({"fold": 1, "seed": 1}, "the same folds of every seed"),
        ({"fold": 1, "first": 1}, "both folds test "),
        ({"fold": 1, "kfold": {**KFOLD, "fingerprint": "cd" * 8}}, "kfold differ"),
        ({"fold": 1, "kfold": None}, "split fingerprint differ"),
        ({"fold": 0, "seed": 1, "fingerprint": "e" * 16}, "split fingerprint differ"),
        ({"fold": 0, "seed": 1, "counts": {"train": {}}}, "training counts differ"),
    ],
)
def test_unlike_folds_are_refused_by_name(
    change: dict[str, Any], told: str, make_fold: Callable[..., ReportRun]
) -> None:
    with pytest.raises(UserError, match=told) as error:
        group_runs([make_fold("one", 0), make_fold(**{"name": "two", **change})])
    assert "one" in str(error.value) and "two" in str(error.value) and "\n" not in str(error.value)


def test_training_scores_departures_and_protocol(make_run: Callable[..., Path], tmp_path: Path) -> None:
    learned = {"epochs": 2, "max_epochs": 20, "images": 840, "limit_train_batches": 3, "accuracy": 0.75}
    options = {
        "training": learned,
        "departures": ("trainer.max_epochs: 20 → 2",),
        "protocol": {"size_px": 64},
    }
    (arm,) = group_runs([load_run(make_run(tmp_path, "one", **options))])
    table = build_table(
        TableSpec("t", "T", None, None, ["train_accuracy", "train_loss"]), [arm], None, "accuracy"
    )
    assert table is not None
    cell = table.rows[0].cells[0].ours
    assert cell is not None and (cell.value, cell.low, cell.n, cell.n_patients) == (0.75, None, 840, 0)
    assert table.rows[0].cells[1].ours is None  # no loss was logged
    assert any("not the experiment's own size" in mark.told for mark in table.rows[0].marks)
    head, body = to_grid(table)
    assert body[0][head.index("Images (patients)")] == "840 training images"
    (line,) = protocol_lines([(arm, "CNN"), (arm, "CNN 2")])
    assert line.startswith("Ours, CNN (real images only); CNN 2 (real images only): ")
    for told in ("64 px", "2 of 20 epochs", "840 training images", "at most 3 batches an epoch",
                 "120 test images of 40 patients", "trainer.max_epochs: 20 → 2"):  # fmt: skip
        assert told in line


def test_cells_that_come_from_no_classifier(make_run: Callable[..., Path], tmp_path: Path) -> None:
    arms = group_runs([load_run(make_run(tmp_path, "one", paper="acrnet"))])
    ours = ExtraCell(
        Estimate(70.1, None, None, None, None, (70.1,), 2000, 0, 1, 0), (Mark("tiny", "few images"),)
    )
    table = build_table(
        TableSpec("table4", "T", ["synthetic"], ["dcgan"], ["fid"]), arms, load_published("acrnet"), "accuracy",
        {("dcgan", "synthetic", "fid"): ours},
    )  # fmt: skip
    assert table is not None
    (line,) = to_grid(table)[1]
    assert "77.6" in line and "70.100 no interval" in line and line[-3:] == ["2,000 images", "1", "tiny"]
    assert "70.1" in to_csv(table) and "not run" not in result_table(table)


def test_a_caution_is_said_once_with_those_it_holds_for() -> None:
    a, b, c = Mark("a", "all"), Mark("b", "some"), Mark("c", "a class")
    rows = [
        ("M", "real", "x", [a, b]),
        ("M", "real", "y", [a, b]),
        ("M", "gan", "x", [a]),
        ("M", "gan", "y", [a, c]),
    ]
    assert cautions(rows) == [
        "a: all — all models and arms.", "b: some — M (real).", "c: a class — M (gan: y).",
    ]  # fmt: skip
    assert cautions([("M", "real", None, [a])]) == ["a: all — M (real)."]


def test_arms_stand_in_a_fixed_order(make_run: Callable[..., Path], tmp_path: Path) -> None:
    names = ["other", "duplicate_real", "synthetic", "augmented", "undersample", "real_only"]
    arms = group_runs([load_run(make_run(tmp_path, arm, arm=arm)) for arm in names])
    expected = ["real_only", "undersample", "augmented", "synthetic", "duplicate_real", "other"]
    assert [one.arm for one in arms] == expected
    table = build_table(TableSpec("t", "T", None, None, ["accuracy"]), arms[::-1], None, "accuracy")
    assert table is not None and [row.arm for row in table.rows] == expected


def test_specs_refuse_nonsense() -> None:
    with pytest.raises(UserError, match="pairs"):
        ReportSpec("p", "t", "accuracy", None, [["a", "a"]], [])
    one = TableSpec("x", "t", None, None, ["accuracy"])
    with pytest.raises(UserError, match="different name"):
        ReportSpec("p", "t", "accuracy", None, [], [one, one])


def test_an_unknown_score_is_refused(make_run: Callable[..., Path], tmp_path: Path) -> None:
    arms = group_runs([load_run(make_run(tmp_path, "one"))])
    with pytest.raises(UserError, match="did you mean 'accuracy'"):
        build_table(TableSpec("x", "t", None, None, ["acuracy"]), arms, None, "accuracy")
