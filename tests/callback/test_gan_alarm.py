"""What makes an alarm, when it warns and when it stops; a stopped run is whole, says why, and stays stopped."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from cxr.callback.gan_alarm import GANAlarm, overfit_share
from cxr.callback.generative_score import GenerativeScore
from cxr.config import check_config, conf_dir, plain
from cxr.errors import UserError
from cxr.extractor.pixel import PixelExtractor
from cxr.run import identity, open_run
from cxr.run.finished import finished_run
from cxr.script.fit import fit
from cxr.task.checkpoint import load_checkpoint


class FakeTask:
    """D says of an image what its first pixel says, less 100; generated images say `made`."""

    def __init__(self, made: int) -> None:
        self.made, self.g_steps = made, 0
        self.judged: list[tuple[list[int], list[list[float]]]] = []
        self.printed: list[str] = []
        self.label_columns = [1]

    def judge_images(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8 and images.shape[1:] == (1, 4, 4) and len(labels) == len(images)
        self.judged.append((images[:, 0, 0, 0].tolist(), labels.tolist()))
        return images[:, 0, 0, 0].float() - 100

    def sample(self, n: int, *, seed: int, label_counts: list[int], part: tuple[int, int]) -> torch.Tensor:
        return torch.full((part[1] - part[0], 1, 4, 4), self.made, dtype=torch.uint8)

    def sample_counts(self, n: int, label_counts: list[int]) -> list[int]:
        return [n]

    def print(self, text: str) -> None:
        self.printed.append(text)


class Watched:
    """An alarm between a fake GAN and the scores it is told."""

    def __init__(self, *, train: int = 110, val: int = 110, made: int = 90, **changes: Any) -> None:
        pixels = np.repeat(np.array([train] * 6 + [val] * 4 + [1] * 5, np.uint8), 16).reshape(15, 4, 4)
        data = SimpleNamespace(
            images=pixels,
            labels=np.tile(np.array([[0.0, 1.0]], np.float32), (15, 1)),
            parts={"train": np.arange(6), "val": np.arange(6, 10), "test": np.arange(10, 15)},
        )
        self.score = GenerativeScore(
            every_n_images=10, n_images=8, extractor=PixelExtractor(size_px=4), scores=["kid"], n_subsets=2,
            n_pairs=2, seed=0,
        )  # fmt: skip
        self.alarm, self.task = GANAlarm(**{**OFF, **changes}), FakeTask(made)
        self.logged: list[dict[str, float]] = []
        logger = SimpleNamespace(log_metrics=lambda values, step: self.logged.append(values))
        self.trainer: Any = SimpleNamespace(
            callbacks=[self.score, self.alarm], datamodule=data, should_stop=False, is_last_batch=False,
            callback_metrics={}, progress_bar_metrics={}, loggers=[logger], current_epoch=0, max_epochs=9,
            global_rank=0, world_size=1, fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=5)),
        )  # fmt: skip
        self.alarm.on_fit_start(self.trainer, self.task)  # type: ignore[arg-type]

    def scored(self, kid: float, *, collapsed: bool = False) -> bool:
        """Tell a further score; return whether the run stops."""
        self.score.scored_at += 10
        self.score.collapsed = collapsed
        self.trainer.callback_metrics["kid_pixel4/val"] = torch.tensor(kid, dtype=torch.float64)
        for _ in range(2):  # the next step has no new score
            self.alarm.on_train_batch_end(self.trainer, self.task, None, None, 0)  # type: ignore[arg-type]
        return bool(self.trainer.should_stop)


OFF: dict[str, Any] = {
    "collapse": "off", "collapse_scores": 2, "overfit": "off", "max_overfit": 0.8, "overfit_scores": 2, "n_images": 5,
    "no_gain": "off", "monitor": "kid_*/val", "mode": "min", "min_delta": 0.0, "no_gain_scores": 3, "seed": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("train", "val", "made", "expected"),
    [
        ([3.0, 1.0], [2.0], [-2.0], 0.0),  # judged alike
        ([3.0, 1.0], [1.0], [-2.0], 0.25),
        ([2.0], [-2.0, -2.0], [-2.0], 1.0),
        ([2.0], [-9.0], [-2.0], 1.0),  # more than complete
        ([2.0], [4.0], [-2.0], 0.0),  # validation images look more real
        ([-2.0], [-3.0], [2.0], 0.0),  # D has learnt nothing
    ],
)
def test_the_share_of_overfitting_by_hand(
    train: list[float], val: list[float], made: list[float], expected: float
) -> None:
    arrays = [np.array(values, np.float32) for values in (train, val, made)]
    assert overfit_share(*arrays) == pytest.approx(expected)
    assert np.isnan(overfit_share(np.array([np.nan], np.float32), *arrays[1:]))


def test_overfitting_is_told_from_training_and_validation_images_only() -> None:
    """Logits 10, -6 and -10: (10 + 6) / 20 of the way."""
    watched = Watched(train=110, val=94, made=90, overfit="stop", max_overfit=0.75)
    assert not watched.scored(0.1)
    assert watched.logged == [{"d_overfit/val": 0.8, "d_sign/train": 1.0, "epoch": 0}]
    assert sorted((sorted(set(pixels)), len(pixels)) for pixels, _ in watched.task.judged) == [
        ([90], 5),
        ([94], 4),
        ([110], 5),
    ]
    assert all(label == [0.0, 1.0] for _, labels in watched.task.judged for label in labels)
    assert watched.scored(0.1) and watched.alarm.stopped
    assert watched.alarm.reason == (
        "D overfits (d_overfit/val 0.80, above 0.75), 2 scores in a row, at 20 images seen"
    )
    assert not Watched(val=94, overfit="stop", max_overfit=0.8).scored(0.1)


def test_no_gain_counts_scores_since_the_best() -> None:
    watched = Watched(no_gain="stop", min_delta=0.01)
    assert not any(watched.scored(kid) for kid in (0.5, 0.495, 0.7, 0.4, 0.41, float("nan")))
    assert watched.scored(0.395)
    assert watched.alarm.reason == (
        "kid_pixel4/val has not improved (best 0.4 at 40 images seen), 3 scores in a row, at 70 images seen"
    )
    upwards = Watched(no_gain="stop", mode="max", no_gain_scores=1)
    assert [upwards.scored(value) for value in (0.1, 0.2, 0.2)] == [False, False, True]


def test_a_collapse_has_to_last() -> None:
    watched = Watched(collapse="stop")
    assert not any(watched.scored(0.1, collapsed=now) for now in (True, False, True))
    assert watched.scored(0.1, collapsed=True)
    assert watched.alarm.reason is not None and "makes copies" in watched.alarm.reason


def test_a_warning_is_said_once_each_time_and_stops_nothing() -> None:
    watched = Watched(collapse="warn")
    assert not any(watched.scored(0.1, collapsed=bool(now)) for now in (1, 1, 1, 1, 0, 1, 1))
    assert watched.task.printed == [
        f"warning: the GAN makes copies (collapsed), 2 scores in a row, at {seen} images seen"
        for seen in (20, 70)
    ]
    assert not watched.alarm.stopped and watched.task.judged == []


def test_what_is_off_says_nothing() -> None:
    watched = Watched(val=90)
    assert not any(watched.scored(0.1, collapsed=True) for _ in range(9))
    assert watched.task.printed == [] and watched.logged == []


def test_the_last_epoch_s_end_only_warns() -> None:
    watched = Watched(no_gain="stop", no_gain_scores=1)
    watched.scored(0.1)
    watched.trainer.current_epoch = 8
    watched.score.scored_at += 10
    watched.alarm.on_train_epoch_end(watched.trainer, watched.task)  # type: ignore[arg-type]
    assert not watched.trainer.should_stop and not watched.alarm.stopped
    assert "has not improved" in watched.task.printed[0]


def test_state_goes_through_a_checkpoint() -> None:
    straight, begun, resumed = (Watched(no_gain="stop", collapse="stop") for _ in range(3))
    told = [(0.3, False), (0.4, True), (0.5, False), (0.2, True), (0.6, False), (0.7, False), (0.8, False)]
    for kid, collapsed in told:
        straight.scored(kid, collapsed=collapsed)
    for kid, collapsed in told[:4]:
        begun.scored(kid, collapsed=collapsed)
    resumed.score.load_state_dict(begun.score.state_dict())
    resumed.alarm.load_state_dict(begun.alarm.state_dict())
    for kid, collapsed in told[4:]:
        resumed.scored(kid, collapsed=collapsed)
    assert straight.alarm.stopped and resumed.alarm.state_dict() == straight.alarm.state_dict()
    again = Watched(no_gain="stop")
    again.alarm.load_state_dict(straight.alarm.state_dict())
    again.alarm.on_fit_start(again.trainer, again.task)  # type: ignore[arg-type]
    assert again.trainer.should_stop


def test_what_cannot_be_watched_is_refused() -> None:
    for change, message in (
        ({"no_gain_scores": 0}, r"set callback\.gan_alarm\.no_gain_scores=3"),
        ({"max_overfit": 1.5}, r"set callback\.gan_alarm\.max_overfit=0\.8"),
        ({"min_delta": -1.0}, r"set callback\.gan_alarm\.min_delta=0"),
    ):
        with pytest.raises(UserError, match=message):
            GANAlarm(**{**OFF, **change})
    with pytest.raises(UserError, match=r"monitor: kit_\*/val is no score there is"):
        Watched(no_gain="stop", monitor="kit_*/val").scored(0.1)
    watched = Watched(collapse="warn")
    watched.score.n_pairs = None
    with pytest.raises(UserError, match=r"set callback\.generative_score\.n_pairs=100"):
        watched.alarm.on_fit_start(watched.trainer, watched.task)  # type: ignore[arg-type]
    watched.trainer.callbacks = [watched.alarm]
    with pytest.raises(UserError, match=r"set callback\.gan_alarm=null"):
        watched.alarm.on_fit_start(watched.trainer, watched.task)  # type: ignore[arg-type]


TINY = [
    "task=gan", "gan=talukdar", "callback=gan_alarm", "data.n_patients=40", "train_classes=[opacity]",
    "cache.size_px=16", "gan.generator.image_size_px=16", "gan.discriminator.image_size_px=16",
    "gan.generator.widths=[4,4,4]", "gan.discriminator.widths=[4,4]", "loader.batch_size=4", "trainer.max_epochs=30",
    "trainer.progress=none", "trainer.precision=32-true", "callback.generative_score.n_images=9",
    "callback.generative_score.n_subsets=2", "callback.gan_alarm.min_delta=100", "callback.gan_alarm.no_gain_scores=2",
]  # fmt: skip


def train(*overrides: str) -> dict[str, Any]:
    """Do what train.py does, in this process; return the run's status."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", [*TINY, *overrides])
    check_config(config)
    values = plain(config)
    with open_run(Path("runs"), "r", values, identity(values)) as run:
        fit(run)
    found: dict[str, Any] = json.loads(Path("runs/r/status.json").read_text())
    return found


@pytest.mark.parametrize("every", [10, 14])  # 14 training images an epoch: within one, at its end
def test_a_stopped_run_is_whole_and_says_why_also_when_killed_before_that(
    every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """min_delta=100: the first score is the best, and two more follow."""
    monkeypatch.chdir(tmp_path)
    rate = f"callback.generative_score.every_n_images={every}"
    first = train(rate)
    said = capsys.readouterr().out
    assert first["state"] == "finished" and "has not improved (best" in first["stopped"]
    assert f"of 30 epochs: {first['stopped']}" in said
    log = Path("runs/r/metrics.csv").read_bytes()
    assert log.count(b"\n") > 3 and b"d_overfit/val" in log and first["headline"].startswith("kid_")
    best, last = (
        load_checkpoint(finished_run(Path("runs/r"), which)[1])["gan"]["images_seen"]
        for which in ("best", "last")
    )
    assert 0 < best <= last < 100
    killed = {**first, "state": "running", "metric": None, "headline": None, "stopped": None}
    Path("runs/r/status.json").write_text(json.dumps(killed))
    again = train(rate)
    assert [again[key] for key in ("state", "stopped", "metric")] == [
        first[key] for key in ("state", "stopped", "metric")
    ]
    assert Path("runs/r/metrics.csv").read_bytes() == log
