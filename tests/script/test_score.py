"""score.py on a tiny phantom chain: what it writes, what it marks, what it refuses."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from cxr.config import check_config, conf_dir, plain
from cxr.errors import UserError
from cxr.run import identity, open_run
from cxr.script.score import score

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

DATA = [
    "data=phantom",
    "data.n_patients=40",
    "trainer.max_epochs=1",
    "trainer.progress=none",
    "cache.size_px=64",
]
GAN = [
    "task=gan", *DATA, "gan.generator.widths=[16,16,16,8]", "gan.discriminator.widths=[8,8,8]",
    "~callback.generative_score", "~callback.sample_grid",
]  # fmt: skip
BOTH = "synthetic=[gan-normal,gan-opacity]"
ONE = "synthetic=[gan-opacity]"


def composed(script: str, *overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose(script, list(overrides))
    check_config(config)
    return config


def train(name: str, *overrides: str) -> None:
    """What train.py does, in this process."""
    from cxr.script.fit import fit

    values = plain(composed("train", *overrides))
    with open_run(Path("runs"), name, values, identity(values)) as run:
        fit(run)


def run(script: str, *overrides: str) -> object:
    """What another entry point does, in this process."""
    fast = ["n_resamples=50", "n_halves=5"] if script == "score" else []
    return importlib.import_module(f"cxr.script.{script}").job(composed(script, *fast, *overrides))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GAN and a set of 16 images per class, a classifier, and one that was trained on a set; an epoch each."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("normal", "opacity"):
            train(f"gan-{name}", *GAN, f"train_classes=[{name}]")
            run("generate", f"run=gan-{name}", "n=16")
        train("cnn", *DATA)
        train("cnn-mixed", *DATA, "mix=add", ONE, "mix.counts={opacity: 8}", "arm=synthetic")
    return folder


@pytest.fixture
def here(chain: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(chain)
    return chain


def record(folder: str) -> tuple[Path, dict[str, Any]]:
    """Return the one record below a folder of the synthetic sets."""
    (file,) = Path("synthetic", folder, "scores").iterdir()
    return file, json.loads(file.read_text())


def test_sets_scored_together(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = run("score", BOTH, "run=cnn", "name=both")
    printed = capsys.readouterr().out
    file, found = record("both")
    assert printed.splitlines()[-1] == str(file)
    sha256 = found["extractor"]["run"]["checkpoint"]["sha256"]
    where = f"talukdar_cnn@{sha256[:8]},test"
    assert found["protocol"] == where
    assert file.name.startswith(f"{where.replace(',', '-')}-joined-")
    kinds = ("kid", "fid", "precision_k3", "recall_k3", "density_k5", "coverage_k5")
    expected = {
        f"is_softmax[{where}]",
        f"fid_logits[{where}]",
        *(f"{kind}_softmax[{where}]" for kind in kinds),
    }
    assert set(found["metrics"]) == expected
    assert set(found["names"].values()) == expected
    for name in expected - {f"is_softmax[{where}]"}:
        one = found["metrics"][name]
        assert (one["n_real"], one["n_synthetic"]) == (16, 32) and one["low"] <= one["high"], name
        assert one["null"]["cuts"] == 5, name
    trained = json.loads(Path("runs/cnn/manifest.json").read_text())
    assert found["split_fingerprint"] == trained["split_fingerprint"]
    assert found["counts"] == {"real": trained["counts"]["test"], "synthetic": {"normal": 16, "opacity": 16}}
    for one in found["sets"]:
        manifest = json.loads((Path("synthetic") / one["name"] / "manifest.json").read_text())
        assert one["images_sha256"] == manifest["images_sha256"]
    scores = found["metrics"][f"is_softmax[{where}]"]
    n_real = sum(found["counts"]["real"].values())
    assert (scores["real"]["n"], scores["synthetic"]["n"]) == (n_real, 32)
    assert 1.0 <= scores["real"]["value"] <= 2.0
    fid = found["metrics"][f"fid_softmax[{where}]"]
    assert value == fid["value"]
    assert 0.0 <= fid["low"] <= fid["high"] and 0.0 <= fid["value"] <= 2.1
    assert (fid["n_real"], fid["n_synthetic"], fid["null"]["cuts"]) == (n_real, 32, 5)
    diversity = found["diversity"]  # GANs of one epoch make one image each
    assert diversity["near_duplicates"]["synthetic"]["value"] > 0.9
    assert f"the GAN has collapsed: {diversity['collapsed']}" in found["warnings"]
    assert diversity["msssim"]["name"].endswith("_scales3_window11")
    assert found["leakage"] is None  # the GANs' split is the classifier's: they saw no test image

    before = file.stat().st_mtime_ns
    assert run("score", BOTH, "run=cnn", "name=both") == value
    assert capsys.readouterr().out == printed
    assert file.stat().st_mtime_ns == before  # found, not made again
    run("score", BOTH, "run=cnn", "name=both", "seed=1")
    assert record("both")[1]["settings"]["seed"] == 1


def test_the_answers_on_real_images_are_those_of_evaluation(here: Path) -> None:
    run("evaluate", "runs=[cnn]", "n_resamples=20")
    run("score", BOTH, "run=cnn", "name=same")
    _, found = record("same")
    frame = pd.read_parquet("runs/cnn/predictions.parquet")
    p = frame[["prob:normal", "prob:opacity"]].to_numpy(np.float64)
    divergence = (p * np.log(p / p.mean(axis=0))).sum(axis=1).mean()
    name = f"is_softmax[{found['protocol']}]"
    assert found["metrics"][name]["real"]["value"] == pytest.approx(np.exp(divergence), rel=1e-6)
    assert found["metrics"][name]["real"]["n_patients"] == frame["patient_id"].nunique()


def test_against_the_images_that_the_gan_saw(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("score", ONE, "run=cnn", "against=train", "name=seen")
    file, found = record("seen")
    n = json.loads(Path("runs/cnn/manifest.json").read_text())["counts"]["train"]["opacity"]["real"]
    assert file.name == f"{found['protocol'].replace(',', '-')}.json"
    assert found["counts"] == {"real": {"opacity": n}, "synthetic": {"opacity": 16}}  # the same class only
    assert found["leakage"] == f"the GAN saw {n} of the {n} real images"
    assert any("trained on these real images" in w for w in found["warnings"])
    assert f"warning: leak: {found['leakage']}" in capsys.readouterr().out


def test_all_classes_and_splits_are_another_protocol(here: Path) -> None:
    run("score", ONE, "run=cnn", "real_classes=all", "splits=2", "name=all")
    file, found = record("all")
    assert file.stem.endswith("-test-all-splits2")
    assert f"is_softmax_splits2[{found['protocol']}]" in found["metrics"]
    assert set(found["counts"]["real"]) == {"normal", "opacity"}
    assert any("part of the distance is that mixture" in w for w in found["warnings"])


def test_a_classifier_that_was_trained_on_the_set_says_so(here: Path) -> None:
    run("score", ONE, "run=cnn-mixed", "name=mixed")
    assert any("was trained on gan-opacity" in w for w in record("mixed")[1]["warnings"])


def test_any_run_gives_the_real_images(here: Path) -> None:
    """A GAN's run, by pixels; its name has a hash of split and size, which pixels say nothing of."""
    run("score", ONE, "run=gan-opacity", "extractor=pixel", "against=train", "name=pixels")
    file, found = record("pixels")
    assert found["protocol"].startswith("pixel16,train@") and file.stem == found["protocol"].replace(",", "-")
    assert set(found["names"]) == {"kid", "fid", "precision", "recall", "density", "coverage"}
    fid = found["metrics"][found["names"]["fid"]]
    assert (
        fid["low"] is None and "256 features of 16 images" in fid["no_interval"] and fid["null"]["cuts"] == 5
    )
    kid = found["metrics"][found["names"]["kid"]]
    assert kid["low"] <= kid["high"] and kid["subsets"]["size"] == 8
    assert found["extractor"]["run"] is None and found["real"]["run"] == "gan-opacity"
    assert found["leakage"] is not None
    run("score", ONE, "run=cnn", "extractor=pixel", "against=train", "name=same-images")
    assert (
        record("same-images")[1]["protocol"] == found["protocol"]
    )  # the same images, whichever run names them


def test_a_classifier_beside_another_runs_images(here: Path) -> None:
    run("score", ONE, "run=gan-opacity", "extractor.run=cnn", "extractor.features=penultimate", "name=domain")
    file, found = record("domain")
    assert found["protocol"].startswith("talukdar_cnn@") and ",test@" in found["protocol"]
    assert found["names"]["fid"].startswith("fid_penultimate[") and "fid_logits" not in found["names"]
    assert found["extractor"]["protocol"]["dimensions"] == 60
    assert file.stem.endswith("-penultimate") and found["extractor"]["run"]["run"] == "cnn"
    train("small", *DATA, "cache.size_px=32", "trainer.limit_train_batches=1")
    with pytest.raises(UserError, match=r"extractor\.run: small takes images of 32 px, got 64 px"):
        run("score", ONE, "run=gan-opacity", "extractor.run=small", "name=wrong")


def test_real_features_are_taken_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cxr.extractor.run import RunExtractor

    seen = []
    answer = RunExtractor.answer
    monkeypatch.setattr(RunExtractor, "answer", lambda self, x: (seen.append(len(x)), answer(self, x))[1])
    args = (BOTH, "run=cnn", "against=val", "extractor.features=logits", "batch_size=8")
    run("score", *args, "name=first")
    assert seen == [8] * 5  # 8 real, 32 synthetic
    run("score", *args, "name=second")
    assert seen == [8] * 9
    first, second = (record(name)[1]["metrics"] for name in ("first", "second"))
    assert first == second


def test_few_images_have_no_neighbours_and_an_old_record_is_made_again(here: Path) -> None:
    args = (ONE, "run=cnn", "against=val", "name=few")
    run("score", *args)
    file, found = record("few")
    assert "precision" not in found["names"] and {"kid", "fid", "is"} <= set(found["names"])
    assert any("need more than 5 images of each set; there are 4" in one for one in found["warnings"])
    file.write_text(json.dumps({**found, "schema": 1}))
    from cxr.metric.score_record import read_scores

    with pytest.raises(UserError, match=r"not a score of schema 2; run score\.py again"):
        read_scores(Path("synthetic"))
    run("score", *args)
    assert record("few")[1]["metrics"] == found["metrics"]


def test_inception_by_its_file(
    here: Path, random_inception: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("score", ONE, "run=gan-opacity", "extractor=inception", f"extractor.weights_path={random_inception}",
        "against=val", "name=inception", "batch_size=4")  # fmt: skip
    _, found = record("inception")
    assert found["protocol"].startswith("inception@") and set(found["names"]) == {"kid", "fid", "is"}
    assert found["extractor"]["protocol"]["resize"].startswith("bilinear as TensorFlow 1")
    assert "(legacy): real " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["synthetic=[gan-opacty]", "run=cnn"], "gan-opacty; did you mean 'gan-opacity'"),
        (["synthetic=[gan-normal,gan-normal]", "run=cnn"], "each once"),
        (["synthetic=[]", "run=cnn"], "each once"),
        ([BOTH, "run=cn"], "run: nothing below runs is called 'cn'; did you mean 'cnn'"),
        ([BOTH, "run='cnn*'"], "means 2 runs, expected one"),
        ([BOTH, "run=gan-normal"],
         "runs/gan-normal: not a classifier run, and features come from one; set extractor=inception, or extractor.run"),
        ([BOTH, "run=gan-normal", "extractor.run=cn"], "extractor.run: nothing below runs is called 'cn'"),
        ([BOTH, "run=cnn", "extractor=pixel", "extractor.size_px=7"], "64×64 images cannot be averaged to 7×7"),
        ([BOTH, "run=cnn", "checkpoint=worst"], "checkpoint: got 'worst'"),
        ([BOTH, "run=cnn", "splits=0"], "splits: got 0"),
        ([BOTH, "run=cnn", "splits=33"], "set splits=1"),
    ],
    ids=["unknown set", "twice", "none", "unknown run", "two runs", "a GAN", "extractor", "blocks",
         "choice", "no split", "splits"],
)  # fmt: skip
def test_mistakes(here: Path, overrides: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told.replace("[", r"\[")):
        run("score", *overrides)


def test_another_class_and_other_pixels_are_refused(here: Path, tmp_path: Path) -> None:
    """Copies, since the chain is shared."""
    copy = tmp_path / "gan-odd"
    copy.mkdir()
    for name in ("images.npy", "manifest.json", "index.parquet"):
        (copy / name).write_bytes(Path("synthetic/gan-normal", name).read_bytes())
    index = pd.read_parquet(copy / "index.parquet")
    index.assign(**{"class": "healthy"}).to_parquet(copy / "index.parquet", index=False)
    told = json.loads((copy / "manifest.json").read_text())
    for key in ("index_sha256", "facts_sha256"):  # as in a set of an older cxr, which this is not about
        told.pop(key, None)
    (copy / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="has the class 'healthy', unknown here; known: normal, opacity"):
        run("score", f"synthetic=[{copy}]", "run=cnn")
    np.save(copy / "images.npy", 255 - np.load(copy / "images.npy"))
    with pytest.raises(UserError, match="is not what its manifest names"):
        run("score", f"synthetic=[{copy}]", "run=cnn")


def test_its_yaml_lists_every_key() -> None:
    config = composed("score", "synthetic=[a]", "run=b")
    assert set(config) - {"_target_", "extractor"} == inspect.signature(score).parameters.keys()


def test_as_the_user_types_it(cli: Cli, tmp_path: Path) -> None:
    shown = cli("score", "--help").stdout
    assert shown.count("  python score.py") == 3
    assert "against: test" in shown and "powered by Hydra" not in shown
    done = cli("score", "synthetic=[a]")
    assert (done.returncode, done.stderr) == (2, "error: run: must be set, and is not; set run=…\n")
    assert not list(tmp_path.iterdir())


def test_the_entry_point_imports_nothing_heavy() -> None:
    code = (
        "import sys, cxr.script.score; print(*{'torch', 'lightning', 'pandas', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout.strip() == ""
