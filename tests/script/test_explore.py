"""generate.py explore=true on a tiny phantom GAN: whose images are shown under which names, what is refused."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from cxr.config import check_config, conf_dir, plain
from cxr.data.synthetic import load_synthetic
from cxr.errors import UserError
from cxr.evaluation.exploration import Sizes
from cxr.files import read_json
from cxr.run import identity, open_run

FEW = Sizes(
    strips=1,
    steps=3,
    morphs=1,
    morph_latents=2,
    gallery=2,
    searched=4,
    projected=2,
    starts=2,
    projection_steps=2,
)
GAN = [
    "task=acgan", "gan=covidgan", "data=phantom", "data.n_patients=40", "trainer.max_epochs=1", "trainer.progress=none",
    "cache.size_px=64", "gan.generator.image_size_px=64", "gan.discriminator.image_size_px=64", "split=patient",
    "gan.generator.widths=[8,8,8,8]", "gan.discriminator.widths=[8,8,8,8,8]",
    "~callback.generative_score", "~callback.sample_grid",
]  # fmt: skip


def composed(script: str, *overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose(script, list(overrides))
    check_config(config)
    return config


def generate(*overrides: str) -> None:
    importlib.import_module("cxr.script.generate").job(composed("generate", "run=g", "n=6", *overrides))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cxr.script.fit import fit

    found = tmp_path_factory.mktemp("chain")
    values = plain(composed("train", *GAN))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found)
        with open_run(Path("runs"), "g", values, identity(values)) as run:
            fit(run)
    return found


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("cxr.script.explore.Sizes", lambda: FEW)
    return folder


def ids_of(folder: Path) -> pd.DataFrame:
    (index,) = folder.glob("cache/*/index.parquet")
    return pd.read_parquet(index)


def explored(folder: Path, name: str) -> tuple[str, dict[str, Any]]:
    record: dict[str, Any] = read_json(folder / "synthetic" / name / "explore" / "explore.json")
    return (folder / "synthetic" / name / "explore.html").read_text("utf-8"), record


def test_real_images_are_named_by_a_key_and_stand_where_they_belong(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate("explore=true")
    assert "explore.html, which holds real radiographs" in capsys.readouterr().out
    page, record = explored(here, "g")
    index = ids_of(here)
    assert not [one for one in index["image_id"] if one in page or one in json.dumps(record)]
    names = [one["id"] for one in record["parts"]["projection"]["images"]]
    assert len(names) == 2 and all(name.startswith("id-") and name in page for name in names)
    assert 'href="explore.html"' in (here / "synthetic" / "g" / "review.html").read_text("utf-8")
    assert (
        record["n_missing"] == 0 and record["n_trained_on"] == record["parts"]["nearest"]["n_training"] > 10
    )
    assert [one["class"] for one in record["parts"]["interpolation"]["strips"]] == ["normal", "opacity"]
    assert record["recipe"] == load_synthetic(here / "synthetic" / "g").manifest["recipe"]

    generate("explore=true", "name=plain", "share_ids=plain")
    _, plainly = explored(here, "plain")
    trained = set(load_synthetic(here / "synthetic" / "g").manifest["trained_on"])
    hashes = index.set_index("image_id")["content_hash"]
    projected = [one["id"] for one in plainly["parts"]["projection"]["images"]]
    assert len(projected) == 2 and not set(hashes[projected]) & trained
    near = [
        one[kind]["nearest"] for one in plainly["parts"]["nearest"]["pairs"] for kind in ("pixel", "aligned")
    ]
    assert set(hashes[near]) <= trained
    classes = index.set_index("image_id")[["label:normal", "label:opacity"]].idxmax(axis=1)
    for one in plainly["parts"]["projection"]["images"]:
        assert classes[one["id"]] == f"label:{one['class']}"


def test_a_set_that_is_there_is_explored_and_another_truncation_is_another_set(here: Path) -> None:
    generate("name=later")
    before = (here / "synthetic" / "later" / "manifest.json").read_bytes()
    assert not (here / "synthetic" / "later" / "explore.html").exists()
    generate("name=later", "explore=true")
    assert (here / "synthetic" / "later" / "explore.html").is_file()
    assert (here / "synthetic" / "later" / "manifest.json").read_bytes() == before
    with pytest.raises(UserError, match=r"another recipe.*name="):
        generate("name=later", "truncation=1")
    generate("name=held", "truncation=1", "explore=true")
    assert "latents held to ±1 " in explored(here, "held")[0]


def test_images_of_another_split_are_refused_before_any_is_made(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_json(here / "runs" / "g" / "manifest.json")
    monkeypatch.setattr(
        "cxr.script.predict.read_json", lambda _: {**manifest, "split_fingerprint": "another"}
    )
    with pytest.raises(UserError, match="set data_root="):
        generate("name=never", "explore=true")
    assert not (here / "synthetic" / "never").exists()


def test_images_that_are_elsewhere_are_asked_for_by_this_programs_key(here: Path) -> None:
    from cxr.script.explore import real_images

    config = {"data": {"_target_": "cxr.data.pneumonia.Pneumonia", "root": None, "classes": ["NORMAL", "PNEUMONIA"],
                       "patient_key": "number"},
              "cache": plain(composed("train"))["cache"]}  # fmt: skip
    with pytest.raises(UserError, match=r"^explore=true needs the real images.* set data_root=/path"):
        real_images(here / "runs" / "g", config, here / "nowhere")
