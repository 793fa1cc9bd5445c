"""Recipes of the papers: the images they train and test on, the networks they build, the jobs they sweep."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra

from cxr.config import build, conf_dir, plain
from cxr.data.index import labels
from cxr.data.mix import composition
from cxr.data.split import Split
from cxr.launch.processes import ProcessLauncher
from cxr.report.published import load_published
from cxr.run import default_name
from cxr.script.predict import model_key


def recipe(name: str, *overrides: str) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return plain(compose("train", [f"experiment={name}", *overrides]))


def recipes(paper: str) -> list[str]:
    return sorted(f"{paper}/{file.stem}" for file in (conf_dir() / "experiment" / paper).glob("*.yaml"))


def index_of(counts: dict[str, int]) -> pd.DataFrame:
    """One patient per image: then folds are exact."""
    classes = [name for name, n in counts.items() for _ in range(n)]
    ids = [f"{number:06d}" for number in range(len(classes))]
    columns: dict[str, Any] = {"image_id": ids, "patient_id": ids, "content_hash": ids}
    columns |= {f"label:{name}": np.float32([c == name for c in classes]) for name in counts}
    return pd.DataFrame(columns)


def trains_on(
    config: dict[str, Any], split: Split, index: pd.DataFrame, made: dict[str, int]
) -> dict[str, Any]:
    """Return class → (real, synthetic, duplicated) of training, and the test images, of a recipe."""
    classes = config["data"]["classes"]
    values = labels(index)
    synthetic = np.float32([[c == name for c in classes] for name, n in made.items() for _ in range(n)])
    real = values[split.parts["train"]]
    mixture = build(config["mix"])(real, synthetic if made else None, classes=classes)
    table = composition(mixture, real, synthetic if made else None, classes=classes)
    train = {name: tuple(row.values()) for name, row in table.items()}
    test = (values[split.parts["test"]] == 1).sum(axis=0).tolist()
    return {"train": train, "test": test, "val": len(split.parts["val"])}


ACRNET = {"Cardiomegaly": 1050, "Emphysema": 900, "No Finding": 3000}


ARMS: dict[str, tuple[dict[str, int], list[tuple[int, int, int]]]] = {  # synthetic images; what is trained on
    "acrnet": ({}, [(840, 0, 0), (720, 0, 0), (800, 0, 0)]),
    "acrnet_synthetic": (
        {"Cardiomegaly": 2000, "Emphysema": 2000},
        [(840, 2000, 0), (720, 2000, 0), (2800, 0, 0)],
    ),
    "acrnet_duplicate_real": ({}, [(840, 0, 2000), (720, 0, 2000), (2800, 0, 0)]),
}


@pytest.mark.parametrize("fold", range(5))
def test_acrnet_has_the_papers_numbers_in_every_fold(fold: int) -> None:
    index = index_of(ACRNET)
    config = recipe("acrnet/acrnet", f"split.fold={fold}")
    assert config["data"]["max_images"] == ACRNET
    split = build(config["split"])(index)
    for arm, (made, train) in ARMS.items():
        found = trains_on(recipe(f"acrnet/{arm}", f"split.fold={fold}"), split, index, made)
        assert found == {"train": dict(zip(ACRNET, train, strict=True)), "test": [210, 180, 200], "val": 0}


def test_limits_do_not_bind_where_there_are_few_images() -> None:
    index = index_of({"Cardiomegaly": 20, "Emphysema": 20, "No Finding": 100})
    config = recipe("acrnet/acrnet")
    found = trains_on(config, build(config["split"])(index), index, {})
    assert found["test"] == [4, 4, 20] and found["train"]["No Finding"] == (80, 0, 0)


def test_salehinejad_tests_on_equal_classes_and_tops_up_to_twice_the_largest() -> None:
    counts = {"No Finding": 3955, "Cardiomegaly": 1093, "Effusion": 3955, "Edema": 628, "Pneumothorax": 2194}
    index, found = index_of(counts), {}
    split = build(recipe("salehinejad/ds1")["split"])(index)  # of all recipes, see below
    for name in ("ds1", "ds2", "ds3", "ds3_duplicate_real"):
        found[name] = trains_on(recipe(f"salehinejad/{name}"), split, index, dict.fromkeys(counts, 7100))
        assert found[name]["test"] == [60] * 5
    real = {name: row[0] for name, row in found["ds1"]["train"].items()}
    for name, n in real.items():
        assert found["ds2"]["train"][name] == (min(real.values()), 0, 0)
        assert found["ds3"]["train"][name] == (n, 2 * max(real.values()) - n, 0)
        assert found["ds3_duplicate_real"]["train"][name] == (n, 0, 2 * max(real.values()) - n)
    gan = trains_on(recipe("salehinejad/gan"), split, index, {})
    assert gan["train"] == {name: (min(n, 2000), 0, 0) for name, n in real.items()}


@pytest.mark.parametrize("paper", ["acrnet", "salehinejad"])
def test_gans_and_classifiers_share_images_and_folds(paper: str) -> None:
    """Else a GAN would have seen test images; the grid only draws validation images besides."""
    all_of = {name: recipe(name) for name in recipes(paper) if name != "acrnet/grid"}
    gan = all_of[f"{paper}/gan"]
    for name, config in all_of.items():
        assert (config["data"], config["split"]) == (gan["data"], gan["split"]), name
    folds = gan["split"]["folds"]
    sweep = (conf_dir() / "experiment" / f"{paper}/gan.yaml").read_text()
    assert re.search(rf"split\.fold={','.join(map(str, range(folds)))}\s", sweep)


@pytest.mark.parametrize(
    "name", ["acrnet/acrnet_synthetic", "acrnet/acrnet_small_synthetic", "salehinejad/ds3"]
)
def test_an_arm_names_the_sets_that_its_gans_leave(name: str) -> None:
    paper = name.partition("/")[0]
    header = (conf_dir() / "experiment" / f"{paper}/gan.yaml").read_text()
    swept = re.findall(r"\[[^\]]+\]", re.search(r"'train_classes=(\S.*?)'", header)[1])  # type: ignore[index]
    runs = [default_name(f"{paper}-gan", [f"train_classes={c}", "split.fold=3"]) for c in swept]
    assert recipe(name, "split.fold=3")["synthetic"] == runs


COUNTS = {
    "acrnet/acrnet": 261_737_583, "acrnet/acrnet_small": 9_165_590, "acrnet/vgg16": 134_272_835,
    "acrnet/inception_v2": 10_273_315, "acrnet/resnet101": 42_506_307, "acrnet/cliquenet": 12_196_603,
    "salehinejad/ds1": 4_297_861, "talukdar/cnn": 6_259_209, "talukdar/inception_v3": 28_079_329,
    "talukdar/resnet50": 32_947_521, "talukdar/efficientnet_b0": 11_677_565, "talukdar/vgg16": 20_615_233,
    "talukdar/densenet201": 27_237_505, "talukdar/xception": 30_246_441,
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_each_network_is_the_one_whose_published_row_it_fills(name: str) -> None:
    node = recipe(name)["classifier"]
    with torch.device("meta"):
        network = build({**node, "pretrained": False} if "pretrained" in node else node)
    assert sum(p.numel() for p in network.parameters()) == COUNTS[name]
    paper, _, file = name.partition("/")
    key = model_key(node)
    if file == "acrnet_small":
        assert key == "acrnet_x0.25"  # not the published row
        return
    assert key in load_published(paper).models
    assert key == {"cnn": "talukdar_cnn", "ds1": "salehinejad_dcnn"}.get(file, file)


def test_the_grid_has_105_jobs_with_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cxr.script import train

    found: list[list[str]] = []
    monkeypatch.chdir(tmp_path)

    def sweep(*overrides: str) -> list[str]:
        found.clear()
        GlobalHydra.instance().clear()
        arguments = ["-m", "experiment=acrnet/grid", f"data.root={tmp_path}", *overrides]
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        train.main()
        return [default_name("acrnet-grid", overrides) for overrides in found]

    with monkeypatch.context() as patch:
        patch.setattr(BasicSweeper, "validate_batch_is_legal", lambda self, jobs: None)  # composes all 105
        patch.setattr(ProcessLauncher, "launch", lambda self, jobs, initial_job_idx: found.extend(jobs) or [])
        names = sweep()
        assert len(names) == len(set(names)) == 105
        for key, n in (("lr", 7), ("batch_size", 5), ("optimizer", 3)):
            assert len({re.search(rf"_{key}-([^_]+)", name)[1] for name in names}) == n  # type: ignore[index]
        assert "acrnet-grid_batch_size-16_optimizer-adam_lr-0.001" in names
    # A part of it through the launcher and the door; what is typed replaces what the file says.
    monkeypatch.setattr(
        ProcessLauncher, "run", lambda self, jobs, all_jobs: found.extend(job.overrides for job in jobs)
    )
    names = sweep("optimizer.lr=3e-6", "loader.batch_size=48")
    assert names == [
        f"acrnet-grid_batch_size-48_optimizer-{name}_lr-3e-06" for name in ("adam", "adadelta", "sgd")
    ]


@pytest.mark.parametrize("key", ["mix.limit", "split.max_test"])
def test_a_class_of_a_limit_is_one_of_the_data(key: str) -> None:
    from cxr.rules import known_classes

    config = recipe("acrnet/acrnet", f"+{key}.Cardiomegali=3")
    assert known_classes(recipe("acrnet/acrnet")) is None
    assert f"{key}.Cardiomegali: data.classes has no 'Cardiomegali'; did you mean 'Cardiomegaly'" in str(
        known_classes(config)
    )
