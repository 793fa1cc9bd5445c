"""score.py memorisation=true on a tiny phantom chain: a set that copies is told, one of a fresh GAN is not."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from cxr.config import check_config, conf_dir, plain
from cxr.data.synthetic import load_synthetic, write_synthetic
from cxr.errors import UserError
from cxr.report.nearest import nearest_section
from cxr.run import identity, open_run

DATA = [
    "data=phantom",
    "data.n_patients=60",
    "data.images_per_patient=1",
    "data.size_px=64",
    "split.test=0.5",
    "trainer.max_epochs=1",
    "trainer.progress=none",
    "cache.size_px=64",
]
ASKED = ["run=cnn", "extractor.features=penultimate", "memorisation=true", "n_resamples=20", "n_halves=2",
         "n_subsets=2"]  # fmt: skip


def composed(script: str, *overrides: str) -> Any:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose(script, list(overrides))
    check_config(config)
    return config


def score(*overrides: str) -> None:
    importlib.import_module("cxr.script.score").job(composed("score", *ASKED, *overrides))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier; a set `noise`, and one `copier`: half of it blurred training images."""
    from cxr.script.fit import fit
    from cxr.script.prepare import prepare

    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        values = plain(composed("train", *DATA))
        with open_run(Path("runs"), "cnn", values, identity(values)) as run:
            fit(run)
        prepared = prepare(values)
        trained = prepared.cached.images[prepared.rows["train"]][:20]
        noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64)).astype(np.uint8)
        copier = noise.copy()
        copier[:20] = [cv2.GaussianBlur(one, (0, 0), 0.8) for one in trained]
        index = importlib.import_module("pandas").DataFrame(
            {
                "class": "normal",
                "z_seed": 0,
                "z_index": np.arange(40),
                "checkpoint_sha256": "0",
                "score": np.nan,
            }
        )
        for name, images in (("noise", noise), ("copier", copier)):
            manifest = {"classes": ["normal"], "seed": 0, "checkpoints": [], "split_fingerprint": "-",
                        "trained_on": [*prepared.hashes("train"), "of another data set"]}  # fmt: skip
            write_synthetic(Path("synthetic") / name, images, index, manifest, None)
    return folder


def record(name: str) -> dict[str, Any]:
    (file,) = Path("synthetic", name, "memorisation").glob("*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_copies_are_told(
    chain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(chain)
    score("synthetic=[copier]")
    printed = capsys.readouterr().out
    found = record("copier")
    assert found["verdict"] == "memorised" and "memorisation: memorised; pixel: 20 of 40" in printed
    assert set(found["spaces"]) == {"pixel", "feature"}
    assert {one["row"] for one in found["flagged"]} >= set(range(20))
    names = {one[space]["nearest"] for one in found["flagged"] for space in found["spaces"]}
    assert all(re.fullmatch("id-[0-9a-f]{12}", name) for name in names)  # the record goes where the set goes
    assert (found["n_trained_on"], found["n_missing"]) == (found["n_training"] + 1, 1)
    assert "1 of" in printed and "are not in this run's data" in printed
    before = Path("synthetic/copier/memorisation").stat().st_mtime_ns
    score("synthetic=[copier]")
    assert Path("synthetic/copier/memorisation").stat().st_mtime_ns == before

    score("synthetic=[noise]")
    assert (
        record("noise")["verdict"] != "memorised"
        and record("noise")["spaces"]["pixel"]["copies"]["n_flagged"] == 0
    )

    assert len(load_synthetic(Path("synthetic/copier")).images) == 40
    page = nearest_section([Path("synthetic/noise"), Path("synthetic/copier")])
    assert page.count("data:image/png") == 2 and "memorised" in page and "of another data set" not in page
    assert nearest_section([Path("synthetic")]) == ""


def test_training_images_are_no_yardstick(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(chain)
    with pytest.raises(UserError, match="set against=test or val"):
        score("synthetic=[noise]", "against=train")
