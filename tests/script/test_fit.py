"""How a run ends: early, by max_time, or killed after its last checkpoint; what its loss is told of the labels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from cxr.config import check_config, conf_dir, plain
from cxr.errors import UserError
from cxr.run import identity, open_run
from cxr.script.fit import fit
from cxr.script.prepare import prepare

EARLY = [
    "data.n_patients=40", "cache.size_px=32", "trainer.progress=none", "callback=early_stopping",
    "trainer.precision=32-true", "trainer.max_epochs=60", "loss=weighted_bce", "scheduler=sigmoid_decay",
    "optimizer=adadelta", "callback.early_stopping.patience=2", "callback.early_stopping.min_delta=100",
]  # fmt: skip


def configured(*overrides: str) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", list(overrides))
    check_config(config)
    return plain(config)


def train(*overrides: str) -> None:
    """What train.py does, in this process."""
    values = configured(*overrides)
    with open_run(Path("runs"), "r", values, identity(values)) as run:
        fit(run)


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def status() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("runs/r/status.json").read_text())
    return found


def test_an_early_stop_is_finished_also_when_killed_before_it_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """min_delta=100: the first validation is the best, two more follow."""
    line = "stopped early after 3 of 60 epochs: val/loss has not improved for 2 validations"
    train(*EARLY, "trainer.max_time=00:01:00:00")
    assert line in capsys.readouterr().out
    first, log = status(), Path("runs/r/metrics.csv").read_bytes()
    assert first["state"] == "finished" and first["headline"] == "val/accuracy"
    assert first["stopped"] == "val/loss has not improved for 2 validations"
    killed = {**first, "state": "running", "metric": None, "headline": None}
    Path("runs/r/status.json").write_text(json.dumps(killed))
    train(*EARLY)
    assert line in capsys.readouterr().out
    again = status()
    assert again["state"] == "finished"
    assert (again["metric"], again["headline"]) == (first["metric"], first["headline"])
    assert Path("runs/r/metrics.csv").read_bytes() == log


def test_max_time_is_no_early_stop_and_the_same_command_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    long = [*EARLY, "trainer.max_epochs=100000", "callback.early_stopping.patience=100000"]
    done = []
    for _ in range(2):
        with pytest.raises(SystemExit) as left:
            train(*long, "trainer.max_time=00:00:00:02")
        assert left.value.code == 0
        printed = capsys.readouterr().out
        assert "stopped early" not in printed
        assert status()["state"] == "interrupted"
        [epochs] = re.findall(r"max_time is over after (\d+) of 100000 epochs", printed)
        done.append(int(epochs))
    assert 0 < done[0] < done[1]


def test_early_stopping_needs_validation_images() -> None:
    with pytest.raises(UserError, match=r"no validation images to watch; set split\.val="):
        train(*EARLY, "split.val=0")


def test_training_labels_are_those_of_the_mix() -> None:
    """Eleven more positives, real ones repeated: they count for the loss's weights as for the composition."""
    config = configured(
        "data.n_patients=40", "cache.size_px=32", "mix=duplicate_real", "mix.counts={opacity: 11}"
    )
    mixed = prepare(config)
    real = prepare({**config, "mix": None})
    assert np.array_equal(real.training_labels(), real.labels[real.rows["train"]])
    gain = mixed.training_labels().sum(axis=0) - real.training_labels().sum(axis=0)
    assert gain.tolist() == [0.0, 11.0]
    made = mixed.counts()["train"]
    assert [n["real"] + n["duplicated"] for n in made.values()] == mixed.training_labels().sum(
        axis=0
    ).tolist()
