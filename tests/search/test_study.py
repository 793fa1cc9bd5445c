"""The study of a search: draws that depend on seed and number alone, a file that survives being cut, pruning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from cxr.errors import UserError
from cxr.launch.outcome import Outcome
from cxr.launch.trials import Asked, Trials
from cxr.run.headline import by_headline, find_score, is_of_validation, known_direction
from cxr.search.space import parse_space
from cxr.search.study import Sampler, need_optuna
from cxr.search.trial import TRIAL, TrialOf, current_trial

SPACE = parse_space(
    OverridesParser.create().parse_overrides(["lr=tag(log, interval(1e-5,1e-1))", "n=range(1,9)", "x=a,b"])
)


@pytest.fixture(autouse=True)
def quiet() -> None:
    need_optuna("cmaes")


def asked(sampler: Sampler = "tpe", seed: int = 0, **changed: Any) -> Asked:
    values: dict[str, Any] = {"space": SPACE, "metric": None, "direction": "maximize", "pruner": "none"}
    return Asked(**{**values, "sampler": sampler, "seed": seed, "min_epochs": 1, **changed})


def value(overrides: list[str]) -> float:
    """Best at x=b, the highest n and lr 0.001."""
    point = dict(o.split("=") for o in overrides)
    return (point["x"] == "b") + int(point["n"]) / 8 - abs(float(point["lr"]) - 1e-3)


def finished(number: int, overrides: list[str]) -> Outcome:
    return Outcome(number, tuple(overrides), "finished", "val/accuracy", value(overrides), 60, "runs/a")


def search(journal: Path, how: Asked, total: int, size: int = 1) -> list[Outcome]:
    trials = Trials(journal, "one", how)
    while batch := trials.next_batch(size, total, set()):
        for number, overrides in batch.items():
            trials.tell(finished(number, overrides))
    return trials.outcomes()


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_a_search_that_was_stopped_draws_what_it_would_have_drawn(tmp_path: Path, sampler: Sampler) -> None:
    whole = [o.overrides for o in search(tmp_path / "whole", asked(sampler), 12)]
    for total in (4, 12):  # a new process each time, as far as the study knows
        again = [o.overrides for o in search(tmp_path / "parts", asked(sampler), total)]
    assert again == whole
    assert len(set(whole)) > 9
    assert [o.overrides for o in search(tmp_path / "other", asked(sampler, seed=1), 4)] != whole[:4]


def test_batches_are_drawn_before_any_of_their_results(tmp_path: Path) -> None:
    one = [o.overrides for o in search(tmp_path / "a", asked(), 13, size=4)]
    assert one == [o.overrides for o in search(tmp_path / "b", asked(), 13, size=4)]


def test_a_search_finds_better_points_than_chance(tmp_path: Path) -> None:
    """Mean of the last ten trials; by chance about 1.05 (0.5 + 4.5 / 8 less a little for lr)."""
    found = search(tmp_path / "tpe", asked("tpe"), 40)
    assert sum(o.value or 0.0 for o in found[-10:]) / 10 > 1.3


def test_a_grid_is_walked_once(tmp_path: Path) -> None:
    grid = parse_space(
        OverridesParser.create().parse_overrides(["n=range(1,4)", "x=a,b", "p=range(0,1,0.5)", "lr=1"])
    )
    found = search(tmp_path / "grid", asked("grid", space=grid), 100, size=5)
    assert len({o.overrides for o in found}) == len(found) == 12
    with pytest.raises(
        UserError, match=r"lr is an interval; use lr=range\(…\), or set hydra.sweeper.sampler=tpe"
    ):
        search(tmp_path / "none", asked("grid"), 3)


def test_a_point_that_was_tried_is_not_run_again(tmp_path: Path) -> None:
    """Four points for 12 trials."""
    small = parse_space(OverridesParser.create().parse_overrides(["n=range(1,3)", "x=a,b", "lr=1"]))
    ran: list[int] = []
    trials = Trials(tmp_path / "j", "one", asked(space=small))
    while batch := trials.next_batch(3, 12, set()):
        ran += batch
        for number, overrides in batch.items():
            trials.tell(finished(number, overrides))
    outcomes = trials.outcomes()
    assert [o.number for o in outcomes] == list(range(12))
    assert len(ran) == len({o.overrides for o in outcomes}) <= 4
    for o in outcomes:
        assert o.state == "finished"
        if o.repeat_of is not None:
            assert outcomes[o.repeat_of].overrides == o.overrides
            assert outcomes[o.repeat_of].value == o.value
    assert {o.number for o in outcomes if o.repeat_of is None} == set(ran)


def test_trials_that_were_cut_off_come_first_under_their_own_number(tmp_path: Path) -> None:
    before = Trials(tmp_path / "j", "one", asked()).next_batch(3, 10, set())
    trials = Trials(tmp_path / "j", "one", asked())  # whoever drew them was killed
    assert [o.state for o in trials.outcomes()] == ["cut off"] * 3
    trials.tell(finished(0, before[0]))
    trials.tell(Outcome(2, tuple(before[2]), "failed", error="ValueError: no"))
    after = trials.next_batch(2, 10, set())
    assert list(after) == [1, 3]
    assert after[1] == before[1]
    assert list(trials.next_batch(2, 4, {1})) == [3]


def test_half_a_line_at_the_end_is_cut_off(tmp_path: Path) -> None:
    """What kill -9, or a full disk, can leave; Optuna would append to it, and then read nothing any more."""
    search(tmp_path / "j", asked("random"), 3)
    whole = (tmp_path / "j").read_bytes()
    for cut in range(len(whole) - 1, len(whole) - 300, -60):
        (tmp_path / "j").write_bytes(whole[:cut])
        assert len(search(tmp_path / "j", asked("random"), 5)) == 5
        assert len(search(tmp_path / "j", asked("random"), 6)) == 6


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"direction": "minimize"}, "has direction maximize, expected minimize"),
        ({"metric": "val/auroc"}, "has metric the headline, expected val/auroc"),
        (
            {"space": parse_space(OverridesParser.create().parse_overrides(["x=a,b"]))},
            "has space other parameters",
        ),
    ],
)
def test_a_study_of_something_else_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    search(tmp_path / "j", asked("random"), 1)
    with pytest.raises(UserError) as caught:
        Trials(tmp_path / "j", "one", asked("random", **change))
    assert told in str(caught.value)


def test_median_pruning(tmp_path: Path) -> None:
    """Five finished trials whose first epochs scored 0.1 to 0.5: below their median, 0.3, a run is ended."""
    how = asked("random", pruner="median")
    trials = Trials(tmp_path / "j", "one", how)
    for number in range(5):
        trial = TrialOf(str(tmp_path / "j"), "one", number, None, "median", 1)
        (batch,) = trials.next_batch(1, 9, set()).items()
        assert trial.report(1, "val/accuracy", (number + 1) / 10) is None  # too few to compare with
        trials.tell(finished(*batch))
    trials.next_batch(2, 9, set())
    low, high = (TrialOf(str(tmp_path / "j"), "one", n, None, "median", 1) for n in (5, 6))
    assert low.report(1, "val/accuracy", 0.29) == (
        "after 1 epoch val/accuracy was 0.29, behind the other trials of its search (median)"
    )
    assert high.report(1, "val/accuracy", 0.31) is None
    patient = TrialOf(str(tmp_path / "j"), "one", 5, None, "median", 2)
    assert patient.report(1, "val/accuracy", 0.29) is None
    assert TrialOf(str(tmp_path / "j"), "one", 6, None, "none", 1).report(1, "val/accuracy", 0.0) is None


def test_a_job_knows_its_trial_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRIAL, raising=False)
    assert current_trial() is None
    trial = TrialOf("/a/study.journal", "one", 3, "val/auroc", "hyperband", 2)
    for key, text in trial.variables().items():
        monkeypatch.setenv(key, text)
        assert json.loads(text)["number"] == 3
    assert current_trial() == trial
    assert trial.score({"val/accuracy": 0.5}) is None
    assert trial.score({"val/accuracy": 0.5, "val/auroc": 0.6}) == ("val/auroc", 0.6)


def test_headline_and_direction() -> None:
    assert by_headline({"train/loss": 0, "val/loss": 0, "val/accuracy": 0}) == [
        "val/accuracy",
        "train/loss",
        "val/loss",
    ]
    assert find_score(["g_loss", "kid_pixel16/val"], None) == "kid_pixel16/val"
    assert find_score(["g_loss"], None) is None
    assert (
        find_score(["kid_torchscript[ab]/val", "val/loss"], "kid_torchscript[ab]/*")
        == "kid_torchscript[ab]/val"
    )
    ways = {
        n: known_direction(n)
        for n in ("val/accuracy", "val/auroc", "val/loss", "kid_a/val", "fid_n1to2_a/val")
    }
    assert list(ways.values()) == ["maximize", "maximize", "minimize", "minimize", "minimize"]
    assert known_direction("msssim_pairs100/val") is None
    assert (
        is_of_validation("val/loss")
        and is_of_validation("kid_a/val")
        and not is_of_validation("test/accuracy")
    )
