"""What may be averaged and what is refused, with the runs named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxr.errors import UserError
from cxr.report.difference import compare_arms, summary, verdict
from cxr.report.runs import group_runs, load_run
from cxr.report.spec import ReportSpec, TableSpec, generic_spec
from cxr.report.table import build_table


def test_seeds_are_averaged_and_joined_with_the_published_value(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    from cxr.report.published import load_published

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
    from cxr.report.published import load_published

    paper = load_published("talukdar")
    paths = [make_run(tmp_path, f"r{s}", seed=s, wrong=24) for s in range(2)]
    paths += [make_run(tmp_path, f"g{s}", arm="synthetic", seed=s, wrong=6 + 6 * s) for s in range(2)]
    spec = generic_spec("talukdar")
    arms = group_runs([load_run(p) for p in paths])
    (found,) = compare_arms(arms, spec.comparisons, "accuracy", paper)
    assert found.ours.value == pytest.approx(0.125)
    assert found.ours.per_seed == pytest.approx((0.15, 0.10))
    assert found.published == pytest.approx(0.0206)
    assert verdict(found) == "excludes zero"
    (sentence,) = summary(spec, [found], 2)
    assert "+12.50 points" in sentence and "120 test images of 40 patients" in sentence
    assert "excludes zero" in sentence and "+2.06 points" in sentence


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
