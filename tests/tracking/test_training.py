"""The logger of a training, offline: what a run leaves in its folder, read back with wandb's own protocol."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import wandb

from cxr.tracking.settings import Wandb
from cxr.tracking.training import RunWandbLogger, summaries

GAN = {"_target_": "cxr.task.gan.GANTask"}
CLASSIFIER = {"_target_": "cxr.task.classifier.ClassifierTask"}


def settings(**changed: Any) -> Wandb:
    values: dict[str, Any] = {
        "project": "cxr",
        "entity": None,
        "group": None,
        "mode": "offline",
        "artifacts": "reference",
        "worst_errors": 4,
        "share_ids": "hashed",
    }
    return Wandb(**{**values, **changed})


def config(**changed: Any) -> dict[str, Any]:
    return {
        "task": GAN,
        "gan": {"generator": {"_target_": "cxr.gan.talukdar.Generator"}},
        "paper": "talukdar",
        "arm": None,
        "seed": 3,
        "experiment": "talukdar/gan",
        **changed,
    }


def logged(folder: Path, status: str = "success", **changed: Any) -> RunWandbLogger:
    folder.mkdir(parents=True, exist_ok=True)
    logger = settings()(save_dir=folder, config=config(**changed))
    task = SimpleNamespace(images_seen=640, current_epoch=2, classes=["a"])
    logger.log_graph(task)
    logger.log_metrics({"loss_d": 0.25, "epoch": 2}, step=7)
    task.images_seen = 1280
    logger.log_metrics({"loss_d": 0.5, "kid_pixel16/val": 0.125, "epoch": 2}, step=14)
    logger.log_image("samples", [np.zeros((4, 4), np.uint8)], step=14, caption=["epoch 3"])
    logger.finalize(status)
    return logger


def test_two_jobs_in_one_process_are_two_runs_with_their_own_facts(tmp_path: Path, offline: Any) -> None:
    first = settings()(save_dir=tmp_path / "a", config=config())
    second = settings()(
        save_dir=tmp_path / "b",
        config=config(
            seed=4, task=CLASSIFIER, arm="synthetic", classifier={"_target_": "cxr.classifier.acrnet.ACRnet"}
        ),
    )
    for logger in (first, second):  # both open at once: neither may go on in the other's
        Path(str(logger.save_dir)).mkdir()
        logger.log_metrics({"val/loss": 1.0, "epoch": 0}, step=0)
    second.finalize("success")
    first.finalize("success")
    a, b = offline.read(tmp_path / "a"), offline.read(tmp_path / "b")
    assert a.run.run_id != b.run.run_id
    assert (a.run.display_name, a.run.job_type, a.run.run_group) == ("a", "gan", "talukdar/gan")
    assert (b.run.display_name, b.run.job_type) == ("b", "classifier")
    assert sorted(a.run.tags) == ["seed3", "talukdar"]  # the paper and the GAN are of one name
    assert sorted(b.run.tags) == ["acrnet", "seed4", "synthetic", "talukdar"]
    assert [len(one.rows) for one in (a, b)] == [1, 1]
    assert a.config["seed"] == 3
    assert b.config["arm"] == "synthetic"


def test_a_gans_curves_are_over_images_seen_and_its_summary_knows_the_best(
    tmp_path: Path, offline: Any
) -> None:
    logged(tmp_path / "a")
    found = offline.read(tmp_path / "a")
    assert [(row["images_seen"], row.get("loss_d")) for row in found.rows] == [
        (640, 0.25),
        (1280, 0.5),
        (1280, None),
    ]
    assert found.rows[1]["trainer/global_step"] == 14
    assert {found.metrics[name].step_metric for name in ("loss_d", "kid_pixel16/val", "samples")} == {
        "images_seen"
    }
    assert found.summary["loss_d"] == {"min": 0.25, "last": 0.5}
    assert found.summary["kid_pixel16/val"] == {"min": 0.125, "last": 0.125}
    assert found.rows[2]["samples.captions"] == ["epoch 3"]
    assert len(list(found.folder.rglob("media/images/samples_*.png"))) == 1
    assert [e.exit_code for e in found.of("exit")] == [0]


def test_a_classifiers_curves_are_over_epochs(tmp_path: Path, offline: Any) -> None:
    logged(tmp_path / "a", task=CLASSIFIER)
    found = offline.read(tmp_path / "a")
    assert found.metrics["loss_d"].step_metric == "epoch"
    assert "images_seen" not in found.rows[0]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("val/loss", ["min", "last"]),
        ("loss_g", ["min", "last"]),
        ("fid_n60to500_pixel16/val", ["min", "last"]),
        ("val/auroc", ["max", "last"]),
        ("train/accuracy", ["max", "last"]),
        ("logit_real", ["last"]),
        ("collapsed", ["last"]),
    ],
)
def test_min_where_low_is_good_max_where_high_is(name: str, shown: list[str]) -> None:
    assert summaries(name) == shown


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_training_that_ends_otherwise_is_finished_as_failed(
    tmp_path: Path, offline: Any, status: str
) -> None:
    logger = logged(tmp_path / "a", status)
    found = offline.read(tmp_path / "a")
    assert [e.exit_code for e in found.of("exit")] == [1]
    assert not found.made
    with pytest.raises(RuntimeError, match="finished"):
        logger.log_metrics({"loss_d": 1.0}, step=9)
    logger.finalize("success")  # Lightning and we both end it: the second is nothing
    assert len(offline.read_all(tmp_path)) == 1


def test_a_resumed_run_is_the_same_run_and_another_configuration_is_another(
    tmp_path: Path, offline: Any
) -> None:
    logged(tmp_path / "a", "failed")
    time.sleep(1.1)  # wandb names the folder of a run by its second
    logged(tmp_path / "a")
    time.sleep(1.1)
    logged(tmp_path / "a", seed=9)
    first, resumed, other = offline.read_all(tmp_path / "a")
    assert first.run.run_id == resumed.run.run_id != other.run.run_id
    assert [one.of("exit")[0].exit_code for one in (first, resumed)] == [1, 0]


def test_runs_of_the_same_name_elsewhere_are_not_the_same(tmp_path: Path, offline: Any) -> None:
    """Two machines of one team may have the same paths: an id made of a path would join their runs."""
    for side in "lr":
        logged(tmp_path / side / "a")
    one, other = (offline.read(tmp_path / side) for side in "lr")
    assert one.run.run_id != other.run.run_id


def test_the_group_is_the_sweep(tmp_path: Path, offline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_SWEEP", "lr-and-seed")
    logged(tmp_path / "a")
    assert offline.read(tmp_path / "a").run.run_group == "lr-and-seed"


def test_a_wandb_agent_names_the_run_by_id_and_we_by_name(
    tmp_path: Path, offline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "WANDB_SWEEP_ID": "swp12345",
        "WANDB_RUN_ID": "trial001",
        "WANDB_NAME": "brisk-sweep-1",
        "WANDB_RUN_GROUP": "another",
    }.items():
        monkeypatch.setenv(name, value)
    wandb.teardown()  # it reads the environment once in a process; an agent's job is a fresh one
    logged(tmp_path / "talukdar-cnn_seed-1")
    wandb.teardown()
    run = offline.read(tmp_path).run
    assert (run.run_id, run.sweep_id, run.run_group) == ("trial001", "swp12345", "swp12345")
    assert run.display_name == "talukdar-cnn_seed-1"


def test_disabled_means_nothing_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = settings(mode="auto")(save_dir=tmp_path, config=config())
    logger.log_graph(SimpleNamespace(images_seen=1, current_epoch=0, classes=["a"]))
    logger.log_metrics({"loss_d": 1.0}, step=0)
    logger.finalize("success")
    assert not list(tmp_path.rglob("*.wandb"))
