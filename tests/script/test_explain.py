"""evaluate with heat maps on procedural chests: whatever the network and output, once, with the run's own scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from cxr.config import check_config, conf_dir, plain
from cxr.data.phantom import Phantom
from cxr.errors import UserError
from cxr.run import identity, open_run
from cxr.script.evaluate import job
from cxr.script.explain import explain_run
from cxr.script.fit import fit

TRAIN = [
    "data.n_patients=40", "cache.size_px=32", "trainer.progress=none", "trainer.precision=32-true",
    "trainer.max_epochs=1", "name=r",
]  # fmt: skip


def composed(program: str, *overrides: str) -> Any:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose(program, list(overrides))
    check_config(config)
    return config


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "labels", [[], ["data.multi_label=true", "loss=weighted_bce", "task.output=softmax"]]
)
def test_heat_maps_of_a_run(labels: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    values = plain(composed("train", *TRAIN, *labels))
    with open_run(Path("runs"), "r", values, identity(values)) as run:
        fit(run)
    asked = composed("evaluate", "runs=[r]", "heatmaps=3", "n_resamples=20", "accelerator=cpu")
    job(asked)
    listing = Path("runs/r/figures/gradcam/gradcam.json")
    found = json.loads(listing.read_text())
    assert [one["file"] for one in found["images"]] == ["01.png", "02.png", "03.png"]
    assert found["layer"] == "TalukdarCNN.conv3"
    scores = pd.read_parquet("runs/r/predictions.parquet").set_index("image_id")
    for one in found["images"]:
        assert one["probabilities"] == sorted(one["probabilities"], reverse=True)
        assert one["labels"] == sorted(one["labels"], key=lambda c: -scores.loc[one["image_id"], f"prob:{c}"])
        assert one["true"] == [
            c for c in values["data"]["classes"] if scores.loc[one["image_id"], f"target:{c}"]
        ]
    before = listing.stat().st_mtime_ns
    job(asked)
    assert listing.stat().st_mtime_ns == before
    record = json.loads(Path("runs/r/result.json").read_text())
    with pytest.raises(UserError, match=r"heatmaps: got -1.*set heatmaps=0"):
        explain_run(Path("runs/r"), record, n=-1, localisation=False, layer=None, n_resamples=20, seed=0,
                    accelerator="cpu", data_root=None)  # fmt: skip

    capsys.readouterr()
    scoring = composed(
        "evaluate", "runs=[r]", "heatmaps=2", "localisation=true", "heatmap_layer=conv2", "n_resamples=20",
        "accelerator=cpu",
    )  # fmt: skip
    job(scoring)
    told = capsys.readouterr().out
    found, full = (
        json.loads(listing.read_text()),
        json.loads(listing.with_name("localisation.json").read_text()),
    )
    index = Phantom(**{k: v for k, v in values["data"].items() if k != "_target_"}).boxes()
    known = index[index["image_id"].isin(scores.index) & index["label"].isin(values["data"]["classes"])]
    cases = {(one["image_id"], one["label"]) for one in full["localisation"]["cases"]}
    assert cases == set(zip(known["image_id"], known["label"], strict=True))
    whole = found["localisation"]["all"]
    assert whole["n_images"] == known["image_id"].nunique()
    assert f"n = {len(known)} maps of {whole['n_images']} images, {whole['n_patients']} patients" in told
    assert "cases" not in found["localisation"]
    assert found["localisation"]["regions"] == "masks"
    assert found["layer"] == "TalukdarCNN.conv2"
    for one in found[
        "images"
    ]:  # images whose findings have a place are shown first, that label among the four
        assert one["localisation"].keys() == set(known.loc[known["image_id"] == one["image_id"], "label"])
        assert one["localisation"]
        assert one["probabilities"] == sorted(one["probabilities"], reverse=True)
    before = listing.stat().st_mtime_ns
    job(scoring)
    assert listing.stat().st_mtime_ns == before
    job(asked)  # without scores again: those of before are gone
    assert sorted(p.name for p in listing.parent.iterdir()) == ["01.png", "02.png", "03.png", "gradcam.json"]


def test_what_cannot_be_scored_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = plain(composed("train", *TRAIN, "data.n_patients=20"))
    with open_run(Path("runs"), "r", values, identity(values)) as run:
        fit(run)
    nowhere = Phantom(n_patients=1, images_per_patient=1, classes=["normal"], difficulty=0.0, size_px=32, seed=0,
                      multi_label=False).boxes()  # fmt: skip
    monkeypatch.setattr(Phantom, "boxes", lambda self: nowhere)
    asked = composed("evaluate", "runs=[r]", "localisation=true", "n_resamples=20", "accelerator=cpu")
    job(asked)
    told = capsys.readouterr().out
    assert "warning: heat maps are not scored: none of the 8 test images has a box of normal, opacity" in told
    monkeypatch.setattr("cxr.script.explain.find_regions", lambda *_: None)
    job(asked)
    assert (
        "warning: heat maps are not scored: data set phantom has no boxes and no masks"
        in capsys.readouterr().out
    )
    listing = json.loads(Path("runs/r/figures/gradcam/gradcam.json").read_text())
    assert listing["localisation"] is None
    assert listing["images"] == []
