"""GAN → synthetic set → classifier → evaluation with logger=wandb, by the programs themselves, read back offline."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
import pytest
import wandb

KEY = "0123456789abcdef0123456789abcdef01234567"
SMALL = ["data.n_patients=40", "trainer.progress=none", "logger=wandb"]


def call(script: str, *overrides: str) -> None:
    """Run a program in this process: four starts of an interpreter would be most of the time."""
    import importlib

    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script}.py", *overrides])
        importlib.import_module(f"cxr.script.{script}").main()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in a home of its own, in which all four stages ran."""
    folder = tmp_path_factory.mktemp("chain")
    before = Path.cwd()
    wandb.teardown()  # its service process stays where it was started, and our paths are relative
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home-of-somebody")))
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("CXR_SWEEP", "my-sweep")
        patch.delenv("WANDB_DATA_DIR", raising=False)
        os.chdir(folder)
        try:
            call("train", "experiment=phantom/gan", "name=g", "trainer.max_epochs=2", "trainer.log_every_n_steps=1",
                 "loader.batch_size=8", "callback.generative_score.n_images=8", *SMALL)  # fmt: skip
            call("generate", "run=g", "n=8", "review=false", "logger=wandb")
            call("train", "experiment=phantom/cnn", "name=c", "arm=synthetic", "mix=add", "synthetic=[g]",
                 "mix.counts={opacity: 8}", "trainer.max_epochs=1", *SMALL)  # fmt: skip
            patch.delenv("CXR_SWEEP")
            call("evaluate", "runs=[c]", "n_resamples=50", "logger=wandb", "logger.worst_errors=3")
            yield folder
        finally:
            os.chdir(before)
            wandb.teardown()


def test_each_stage_is_a_run_of_its_kind_and_of_the_sweep(chain: Path, offline: Any) -> None:
    gan, classifier = offline.read(chain / "runs/g"), offline.read(chain / "runs/c", "classifier")
    made, judged = offline.read(chain / "synthetic/g"), offline.read(chain / "runs/c", "evaluate")
    runs = (gan, made, classifier, judged)
    assert [one.run.job_type for one in runs] == ["gan", "generate", "classifier", "evaluate"]
    assert {one.run.run_group for one in runs} == {
        "my-sweep"
    }  # the evaluation was not in it, what it judges was
    assert len({one.run.run_id for one in runs}) == 4
    assert {tuple(one.of("exit")[0].exit_code for one in runs)} == {(0, 0, 0, 0)}
    assert "synthetic" in classifier.run.tags
    assert classifier.config["optimizer"]["lr"] == judged.config["optimizer"]["lr"]
    assert set(classifier.config["manifest"]) >= {"git", "versions", "device", "counts"}


def test_the_lineage_goes_from_the_gan_to_the_evaluation(chain: Path, offline: Any) -> None:
    gan, classifier = offline.read(chain / "runs/g"), offline.read(chain / "runs/c", "classifier")
    made, judged = offline.read(chain / "synthetic/g"), offline.read(chain / "runs/c", "evaluate")
    for maker, user, name in (
        (gan, made, "gan-g"),
        (made, classifier, "synthetic-g"),
        (classifier, judged, "classifier-c"),
    ):
        logged, used = maker.made[name], user.used[name]
        assert logged.digest == used.digest  # W&B takes one content of one name for one version
        assert not set(maker.used) & {name}
    files = {entry.path: entry.ref for entry in gan.made["gan-g"].manifest.contents}
    assert files["last.ckpt"] == "file:runs/g/checkpoints/last.ckpt"
    facts = json.loads(made.made["synthetic-g"].metadata)
    assert (
        facts["images_sha256"]
        == json.loads((chain / "synthetic/g/manifest.json").read_text())["images_sha256"]
    )


def test_a_gans_run_has_its_curve_its_score_and_its_samples(chain: Path, offline: Any) -> None:
    gan = offline.read(chain / "runs/g")
    seen = [row["images_seen"] for row in gan.rows if "loss_d" in row]
    assert seen == sorted(set(seen))
    assert len(seen) > 2
    assert gan.metrics["loss_d"].step_metric == "images_seen"
    assert set(gan.summary["kid_pixel16/val"]) == {"min", "last"}
    log = pd.read_csv(chain / "runs/g/metrics.csv")
    assert gan.summary["loss_d"]["min"] == pytest.approx(log["loss_d"].min())
    (picture,) = gan.folder.rglob("media/images/samples_*.png")
    assert (
        cv2.imread(str(picture)) == cv2.imread(str(chain / "runs/g/figures/samples-epoch-0002.png"))
    ).all()


def test_an_evaluation_has_scores_with_intervals_charts_and_errors(chain: Path, offline: Any) -> None:
    judged = offline.read(chain / "runs/c", "evaluate")
    result = json.loads((chain / "runs/c/result.json").read_text())
    for name, score in result["metrics"].items():
        assert judged.summary[f"test/{name}"] == score
    assert judged.summary["interval"] == result["protocol"]["interval"]
    local = chain / "runs/c/figures/wandb"
    charts = _charts(judged)
    assert {name: chart["panel_config"]["panelDefId"] for name, chart in charts.items()} == {
        "roc": "wandb/area-under-curve/v0",
        "pr": "wandb/area-under-curve/v0",
        "confusion": "wandb/confusion_matrix/v1",
    }
    assert "n = " in charts["roc"]["panel_config"]["stringSettings"]["title"]
    for name in ("roc", "pr", "confusion"):
        (file,) = judged.folder.rglob(f"media/table/{name}_table_*.table.json")
        shown, kept = json.loads(file.read_text()), pd.read_csv(local / f"{name}.csv")
        assert shown["columns"] == kept.columns.tolist()
        for row, row_kept in zip(shown["data"], kept.to_numpy().tolist(), strict=True):
            assert row == [pytest.approx(v, abs=1e-12) if isinstance(v, float) else v for v in row_kept]
    assert pd.read_csv(local / "confusion.csv")["nPredictions"].tolist() == [
        n for row in result["confusion"] for n in row
    ]


def _charts(judged: Any) -> dict[str, Any]:
    """Return the charts that W&B is told to draw, by key."""
    found = {}
    for record in judged.of("config"):
        for update in record.update:
            if list(update.nested_key[:2]) == ["_wandb", "visualize"]:
                found[update.nested_key[2]] = json.loads(update.value_json)
    return found


def test_the_worst_errors_are_a_table_with_thumbnails_and_files(chain: Path, offline: Any) -> None:
    judged = offline.read(chain / "runs/c", "evaluate")
    kept = pd.read_csv(chain / "runs/c/figures/wandb/worst_errors.csv")
    assert 1 <= len(kept) <= 3
    (file,) = judged.folder.rglob("media/table/worst_errors_*.table.json")
    shown = json.loads(file.read_text())
    assert shown["columns"] == ["image", *kept.columns]
    assert [row[2] for row in shown["data"]] == kept["image_id"].tolist()
    assert kept["image_id"].str.fullmatch("id-[0-9a-f]{12}").all()  # it holds a patient's number
    (table,) = [a for a in judged.of("artifact") if a.name.endswith("worst_errors")]
    pictures = {
        Path(e.path).suffix: Path(e.local_path) for e in table.manifest.contents if "images" in e.path
    }
    stored = [e for e in table.manifest.contents if e.path.endswith(".png")]
    assert len(stored) == len(kept)
    assert cv2.imread(str(pictures[".png"])).shape[:2] == (64, 64)
    assert "patient_id" not in shown["columns"]
    assert (chain / "runs/c/figures/wandb/worst_errors.png").is_file()


def test_no_key_and_no_home_is_in_what_was_stored(chain: Path) -> None:
    looked = 0
    for file in [*chain.glob("runs/**/*"), *chain.glob("synthetic/**/*")]:
        if file.is_file():
            looked += 1
            content = file.read_bytes()
            assert KEY.encode() not in content, file
            assert b"home-of-somebody" not in content, file
    assert looked > 30


def test_evaluated_again_is_the_same_run_and_zero_errors_are_none(chain: Path, offline: Any) -> None:
    call(
        "evaluate",
        "runs=[c]",
        "n_resamples=50",
        "logger=wandb",
        "logger.worst_errors=0",
        "logger.artifacts=none",
    )
    first, again = (one for one in offline.read_all(chain / "runs/c") if one.run.job_type == "evaluate")
    assert first.run.run_id == again.run.run_id
    assert not list(again.folder.rglob("worst_errors_*"))
    assert not again.used
    assert "test/accuracy" in again.summary
