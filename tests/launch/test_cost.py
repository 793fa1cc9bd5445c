"""The cost of a job by hand, from records written here; a probe of a real job is in test_plan.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cxr.launch.cost import Estimate, duration, estimate, finished_runs, makespan
from cxr.run import open_run
from cxr.run.progress import Progress, write_progress


def config(epochs: int = 10, **changed: Any) -> dict[str, Any]:
    return {
        "task": {"_target_": "cxr.task.classifier.ClassifierTask"},
        "classifier": {"_target_": "cxr.classifier.acrnet.ACRNet", "width_multiplier": 1.0, "dropout": 0.1},
        "cache": {"size_px": 64, "fit": "stretch", "dir": "here"},
        "data": {"_target_": "cxr.data.phantom.Phantom", "root": "here"},
        "split": {"val": 0.1, "seed": 0},
        "mix": None,
        "loader": {"batch_size": 8},
        "augment": None,
        "trainer": {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "precision": "32-true", "max_epochs": epochs},
        **changed,
    }  # fmt: skip


def finished(runs: Path, name: str, wall_s: float, images: int, of: dict[str, Any], **status: Any) -> Path:
    with open_run(runs, name, of, of) as run:
        run.start()
        run.finish({"val/accuracy": 0.5})
    path = runs / name
    told = json.loads((path / "status.json").read_text()) | {"wall_s": wall_s} | status
    (path / "status.json").write_text(json.dumps(told))
    (path / "manifest.json").write_text(json.dumps({"n_training_images": images}))
    return path


def test_seconds_per_image_and_epoch_times_both(tmp_path: Path) -> None:
    finished(tmp_path, "a", 100.0, 50, config(10))  # 0.2 s
    finished(tmp_path, "b", 60.0, 50, config(4, split={"val": 0.1, "seed": 7}))  # 0.3 s
    finished(tmp_path, "c", 400.0, 100, config(10, data={"_target_": "other"}))  # 0.4 s, of other images
    found = finished_runs(tmp_path)
    assert len(found) == 3
    cost = estimate(config(20), found)
    assert cost is not None
    assert (cost.low, cost.seconds, cost.high) == pytest.approx((0.2 * 1000, 0.3 * 1000, 0.4 * 1000))
    assert "3 finished runs of the same parameters" in cost.basis
    assert "images (50)" in cost.basis
    quarter = cost.times(0.25)
    assert (quarter.low, quarter.seconds, quarter.high) == pytest.approx((50, 75, 100))


def test_what_a_mix_adds_is_counted(tmp_path: Path) -> None:
    """A sweep over arms: the finished one without synthetic images tells what the one with them costs."""
    real_only = {"_target_": "cxr.data.mix.real_only", "limit": None, "seed": 0}
    path = finished(tmp_path, "a", 100.0, 50, config(10, mix=real_only))  # 0.2 s
    counts = {"train": {"a": {"real": 20, "synthetic": 0}, "b": {"real": 30, "synthetic": 0}}}
    (path / "manifest.json").write_text(json.dumps({"n_training_images": 50, "counts": counts}))
    runs = finished_runs(tmp_path)
    add = {"_target_": "cxr.data.mix.add", "counts": {"a": 10, "b": 40}, "limit": None, "seed": 0}
    cost = estimate(config(1, mix=add, synthetic=["set"]), runs)
    assert cost is not None and cost.seconds == pytest.approx(0.2 * (50 + 50))
    to = {"_target_": "cxr.data.mix.duplicate_real", "counts": None, "to": "max", "limit": None, "seed": 0}
    for unknown in (
        add | {"limit": {"a": 5}},
        add | {"counts": None},
        to,
        {"_target_": "cxr.data.mix.top_up", "to": 9},
    ):
        assert estimate(config(1, mix=unknown), runs) is None
    assert estimate(config(1, mix=add, split={"val": 0.5, "seed": 0}), runs) is None


def test_alike_runs_are_preferred_and_other_kinds_say_nothing(tmp_path: Path) -> None:
    finished(tmp_path, "a", 10.0, 50, config(1))
    finished(tmp_path, "b", 99.0, 50, config(1, loader={"batch_size": 1}))
    runs = finished_runs(tmp_path)
    cost = estimate(config(1), runs)
    assert cost is not None and (cost.low, cost.high) == pytest.approx((10, 10))
    cost = estimate(config(1, augment={"_target_": "more"}), runs)
    assert cost is not None and (cost.low, cost.high) == pytest.approx((10, 99))
    assert "other parameters" in cost.basis
    gpu = {**config()["trainer"], "accelerator": "gpu"}
    for other in (
        config(1, trainer=gpu),
        config(1, cache={"size_px": 128, "fit": "stretch", "dir": "here"}),
        config(1, classifier={"_target_": "cxr.classifier.covid_cnn.CovidCNN"}),
        config(1, data={"_target_": "never seen"}),  # how many images, nobody knows
    ):
        assert estimate(other, runs) is None


def test_what_tells_no_time_is_left_out(tmp_path: Path) -> None:
    finished(tmp_path, "resumed", 5.0, 50, config(), attempts=2)
    finished(tmp_path, "elsewhere", 5.0, 50, config(), host="another machine")
    finished(tmp_path, "failed", 5.0, 50, config(), state="failed")
    (finished(tmp_path, "old", 5.0, 50, config()) / "manifest.json").write_text("{}")
    (finished(tmp_path, "broken", 5.0, 50, config()) / "manifest.json").write_text("{")
    assert finished_runs(tmp_path) == []


def test_an_early_stop_counts_the_epochs_that_were(tmp_path: Path) -> None:
    path = finished(tmp_path, "a", 30.0, 10, config(100))
    write_progress(path, Progress("training", 3, 100, 0, 5, 30, {}, 0.0, 0.0, 30.0, 1))
    [run] = finished_runs(tmp_path)
    assert run.rate == pytest.approx(1.0)


def test_jobs_in_order_n_at_a_time() -> None:
    assert makespan([3, 1, 1, 4], 2) == 6  # 3 | 1 1 then 4 on the second: 2 + 4
    assert makespan([3, 1, 1, 4], 1) == 9
    assert makespan([], 2) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (6000, "1 h 40 min"), (7200, "2 h"), (180000, "2 d 2 h")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_an_estimate_shows_its_spread() -> None:
    assert str(Estimate(300, 240, 360, "")) == "5 min (4 min to 6 min)"
    assert str(Estimate(300, 300, 300, "")) == "5 min"
