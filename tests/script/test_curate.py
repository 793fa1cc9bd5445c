"""curate.py with a trained classifier: its choice is its answers, its images join the leak guard."""

from __future__ import annotations

import importlib
import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from cxr.config import check_config, conf_dir, plain
from cxr.data.synthetic import SyntheticSet, load_synthetic, write_synthetic
from cxr.errors import UserError
from cxr.run import identity, open_run
from cxr.script.curate import curate

DATA = [
    "data=phantom",
    "data.n_patients=40",
    "trainer.max_epochs=1",
    "trainer.progress=none",
    "cache.size_px=32",
]
N = 12  # images of each class


def composed(script: str, *overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose(script, list(overrides))
    check_config(config)
    return config


def run(*overrides: str) -> SyntheticSet:
    """What curate.py does, in this process."""
    importlib.import_module("cxr.script.curate").job(composed("curate", "accelerator=cpu", *overrides))
    name = next(o.partition("=")[2] for o in overrides if o.startswith("name="))
    return load_synthetic(Path("synthetic") / name)


def prepared(*overrides: str) -> Any:
    from cxr.script.prepare import prepare

    return prepare(plain(composed("train", *DATA, *overrides)))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, and a "synthetic" set: validation images of each class, then as many of noise."""
    from cxr.script.fit import fit

    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        values = plain(composed("train", *DATA, "split.val=0.4"))
        with open_run(Path("runs"), "cnn", values, identity(values)) as one:
            fit(one)
        known = prepared("split.val=0.4")
        write_made(known, "gan", [])
    return folder


def write_made(known: Any, name: str, trained_on: list[str]) -> None:
    real = np.concatenate(
        [known.rows["val"][known.labels[known.rows["val"], k] == 1][: N // 2] for k in range(2)]
    )
    noise = np.random.default_rng(0).integers(0, 256, (N, 32, 32), dtype=np.uint8)
    images = np.concatenate([known.cached.images[real], noise])
    order = np.argsort([0] * (N // 2) + [2] * (N // 2) + [1] * (N // 2) + [3] * (N // 2), kind="stable")
    index = pd.DataFrame(
        {"class": ["normal"] * N + ["opacity"] * N, "z_seed": 0, "z_index": range(2 * N),
         "checkpoint_sha256": "c", "score": np.nan}
    )  # fmt: skip
    manifest = {"classes": ["normal", "opacity"], "seed": 0, "checkpoints": [], "trained_on": trained_on,
                "split_fingerprint": known.split.fingerprint}  # fmt: skip
    write_synthetic(Path("synthetic") / name, images[order], index, manifest, None)


@pytest.fixture
def here(chain: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(chain)
    return chain


REAL = np.tile(np.repeat([True, False], N // 2), 2)  # which images of "gan" are radiographs


def test_agreement_is_what_the_classifier_answers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cxr.data.module import CXRDataModule
    from cxr.script.predict import answers, finished_classifier

    source = load_synthetic(Path("synthetic/gan"))
    config, file = finished_classifier(Path("runs/cnn"), "last", None)
    module = CXRDataModule(
        images=source.images, labels=np.zeros((2 * N, 2), np.float32), parts={"test": np.arange(2 * N)},
        batch_size=5, eval_batch_size=7, num_workers=0, drop_last=False, seed=0,
    )  # fmt: skip
    told = answers(config, module, file, "cpu")[2]
    own = np.where(source.index["class"] == "normal", told[:, 0], told[:, 1])
    limit = float(np.sort(own)[N // 2])
    wanted = np.flatnonzero(own >= limit - 1e-6)
    made = run(
        "synthetic=gan", "filter=agreement", "filter.run=cnn", f"filter.at_least={limit - 1e-6}", "name=sure"
    )
    assert made.index["source_row"].tolist() == wanted.tolist()
    np.testing.assert_array_equal(made.images, source.images[wanted])
    np.testing.assert_allclose(made.index["score"], own[wanted], atol=1e-5)
    counts = made.manifest["curated"][0]["counts"]
    assert sum(n["kept"] for n in counts.values()) == len(wanted)
    assert f"kept {counts['normal']['kept']} of {N} normal" in capsys.readouterr().out
    best = run(
        "synthetic=gan",
        "filter=agreement",
        "filter.run=cnn",
        "filter.at_least=0.0",
        "filter.keep=3",
        "name=best",
    )
    for label in ("normal", "opacity"):
        rows = np.flatnonzero(source.index["class"] == label)
        top = sorted(rows[np.argsort(-own[rows], kind="stable")[:3]])
        assert best.index["source_row"][best.index["class"] == label].tolist() == top


@pytest.mark.parametrize("features", ["classifier", "pixels"])
def test_realism_keeps_radiographs_and_drops_noise(features: str, here: Path) -> None:
    made = run("synthetic=gan", "filter=realism", "filter.run=cnn", f"filter.features={features}",
               "filter.quantile=1.0", f"name=near-{features}")  # fmt: skip
    kept = np.isin(np.arange(2 * N), made.index["source_row"])
    assert not kept[~REAL].any()
    assert kept[REAL].mean() >= 0.75  # validation images: other patients, the same phantom
    step = made.manifest["curated"][0]
    for label, told in step["references"].items():
        assert (made.index["score"][made.index["class"] == label] <= told["limit"]).all()
        assert told["n_images"] >= told["n_patients"] > 1
    trained = json.loads(Path("runs/cnn/manifest.json").read_text())
    assert set(made.manifest["trained_on"]) == set(trained["trained_on"])
    assert bool(made.manifest["chosen_on"]) == (
        features == "classifier"
    )  # pixels know of no validation image


def test_the_judges_images_count_as_the_gans(here: Path) -> None:
    made = run(
        "synthetic=gan",
        "filter=agreement",
        "filter.run=cnn",
        "filter.at_least=0.0",
        "filter.keep=6",
        "name=judged",
    )
    trained = json.loads(Path("runs/cnn/manifest.json").read_text())
    assert made.manifest["trained_on"] == trained["trained_on"]
    mix = ["mix=add", "synthetic=[judged]", "mix.counts={opacity: 3}"]
    same = prepared(*mix, "split.val=0.4")  # the judge's split: what it was validated on validates here, too
    assert set(made.manifest["chosen_on"]) == set(same.hashes("val"))
    assert same.leaked == []
    with pytest.raises(
        UserError, match="validation or test images trained the GAN or the judge of synthetic set judged"
    ):
        prepared(*mix, "split.val=0.4", "split.seed=1")
    prepared(
        *mix[:1], "synthetic=[gan]", mix[2], "split.val=0.4", "split.seed=1"
    )  # the uncurated set may be used there


def test_what_validated_the_judge_may_not_be_tested_on(here: Path) -> None:
    from cxr.data.synthetic import check_leak

    made = load_synthetic(Path("synthetic/gan"))
    made = replace(made, manifest={**made.manifest, "trained_on": ["t"], "chosen_on": ["v"], "curated": [{}]})
    assert check_leak(made, ["v"], "refuse", test_hashes=[]) == []
    assert check_leak(made, ["v", "w"], "allow", test_hashes=["v"]) == ["v"]
    assert check_leak(made, ["t"], "allow", test_hashes=[]) == ["t"]


def test_a_gan_that_saw_the_judges_test_images_is_refused(here: Path) -> None:
    known = prepared("split.val=0.4")
    write_made(known, "leaky", known.hashes("test")[:2])
    asked = ["synthetic=leaky", "filter=agreement", "filter.run=cnn", "filter.at_least=0.0", "name=leaked"]
    with pytest.raises(UserError, match="leak: 2 validation or test images trained the GAN or the judge"):
        run(*asked)
    assert not Path("synthetic/leaked").exists()
    assert run(*asked, "leakage=allow").manifest["curated"][0]["leaked"] == 2


def test_a_judge_of_synthetic_images_knows_what_their_gan_saw(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cxr.script import sift

    source = load_synthetic(Path("synthetic/gan"))
    seen = replace(source, manifest={**source.manifest, "trained_on": ["elsewhere"]})
    trained = json.loads(Path("runs/cnn/manifest.json").read_text())
    trained["inputs"]["synthetic/gan"] = {"hash": source.manifest["images_sha256"]}
    monkeypatch.setattr(sift, "read_config", lambda _: {"synthetic": ["gan"]})
    monkeypatch.setattr(sift, "prepare_as_trained", lambda *_: (prepared("split.val=0.4"), trained))
    monkeypatch.setattr(sift, "load_synthetic", lambda _: seen)
    judge = sift._judge(Path("runs/cnn"), source, None, Path("synthetic"))
    assert judge.seen == {*trained["trained_on"], "elsewhere"}
    assert "cnn was trained on images of this set" in judge.warnings[0]
    trained["inputs"]["synthetic/gan"]["hash"] = "0"
    with pytest.raises(UserError, match="what its GAN saw is not known"):
        sift._judge(Path("runs/cnn"), source, None, Path("synthetic"))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["synthetic=gna", "filter.run=cnn"], "gna; did you mean 'gan'"),
        (["synthetic=gan", "filter.run=cn"], "filter.run: nothing below runs is called 'cn'; did you mean 'cnn'"),
        (["synthetic=gan", "filter.run=cnn", "name=gan"], "name: gan is the set to choose from"),
        (["synthetic=gan", "filter.run=cnn", "filter.at_least=1.0"], "nothing is left of gan .*lower filter.at_least"),
    ],
    ids=["set", "run", "name", "nothing"],
)  # fmt: skip
def test_mistakes(here: Path, overrides: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        run("filter=agreement", "name=x", *overrides)
    assert not Path("synthetic/x").exists()


def test_its_yaml_lists_every_key() -> None:
    config = composed("curate", "synthetic=a", "filter=agreement", "filter.run=b")
    assert set(config) - {"_target_", "filter"} == inspect.signature(curate).parameters.keys()


def test_people_need_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, cxr.evaluation.decisions; print(*{'torch', 'lightning', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout.strip() == ""
