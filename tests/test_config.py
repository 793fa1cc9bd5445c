"""The door: every configuration of conf/ passes it and builds; every mistake ends in one line and exit code 2."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra.utils
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from cxr import rules, signature, trainer_rules
from cxr.config import build, check_config, conf_dir, config_groups, explain, plain
from cxr.errors import UserError
from cxr.target import resolve_target

TRAIN_GAN = ["task=gan", "cache.size_px=64"]
SYNTHETIC = ["synthetic=[some]"]
# What a choice needs beside it, to make a whole configuration.
NEEDS: dict[str, list[str]] = {
    "callback/gan": TRAIN_GAN,
    "callback/gan_alarm": TRAIN_GAN,
    "classifier/backbone": ["classifier.name=resnet18", "classifier.pretrained=false"],
    "data/covid19_radiography": ["loss=cross_entropy"],
    "data/folder": ["data.classes=[a,b]"],
    "data/table": ["data.classes=[a,b]"],
    "extractor/torchscript": ["extractor.path=network.pt"],
    "experiment/acrnet/resnet101": ["classifier.name=resnet18"],  # smaller: true sizes in tests/experiment
    "experiment/acrnet/vgg16": ["classifier.name=resnet18"],
    **{
        f"experiment/acrnet/{m}": ["classifier.width_multiplier=0.1"]
        for m in ("acrnet", "acrnet_synthetic", "acrnet_duplicate_real", "grid")
    },
    **{
        f"experiment/talukdar/{m}{arm}": ["classifier.name=resnet18", "classifier.pretrained=false"]
        for m in ("inception_v3", "resnet50", "efficientnet_b0", "vgg16", "densenet201", "xception")
        for arm in ("", "_synthetic", "_duplicate_real")
    },
    **{
        f"experiment/covidgan/{m}{arm}": ["classifier.pretrained=false"]
        for m in ("vgg16", "resnet50")
        for arm in ("", "_synthetic", "_duplicate_real")
    },
    **{
        f"experiment/densenet14/{m}": ["classifier.pretrained=false"]
        for m in ("densenet121", "densenet121_augmented", "resnet50_augmented")
    },
    **{f"gan_augment/{name}": TRAIN_GAN for name in ("none", "diffaugment", "ada")},
    "gan/acrnet": ["task=gan", "cache.size_px=256"],
    "gan/diffusion": ["task=diffusion", "cache.size_px=64"],
    "gan/covidgan": ["task=acgan", "cache.size_px=112"],
    "gan/salehinejad": ["task=gan", "cache.size_px=256"],
    "gan/talukdar": TRAIN_GAN,
    "adversarial_loss/hinge": TRAIN_GAN,
    "adversarial_loss/lsgan": TRAIN_GAN,
    "adversarial_loss/non_saturating": TRAIN_GAN,
    "adversarial_loss/wgan_gp": TRAIN_GAN,
    "gan/strong": ["task=projection", "cache.size_px=64"],
    "loss/cross_entropy": ["classifier.n_outputs=2"],
    "mix/add": [*SYNTHETIC, "mix.counts={opacity: 3}"],
    "mix/duplicate_real": ["mix.counts={opacity: 3}"],
    "mix/ratio": SYNTHETIC,
    "mix/synthetic_only": SYNTHETIC,
    "mix/top_up": SYNTHETIC,
    "task/acgan": ["task=acgan", "cache.size_px=112"],
    "task/diffusion": ["task=diffusion", "cache.size_px=64"],
    "task/gan": TRAIN_GAN,
    "task/projection": ["task=projection", "cache.size_px=64"],
    "trainer/ddp": [],
}
OPTIMIZERS = ("torch.optim.Adadelta", "torch.optim.Adam", "torch.optim.RMSprop", "torch.optim.SGD")
SCHEDULERS = (
    "cxr.task.scheduler.SigmoidDecay",
    "torch.optim.lr_scheduler.CosineAnnealingLR",
    "torch.optim.lr_scheduler.StepLR",
)
MIXES = ("real_only", "add", "top_up", "ratio", "undersample", "synthetic_only", "duplicate_real")
SPLITS = ("official", "patient", "stratified", "kfold", "holdout")
# Parameters that code gives at the call; every other parameter of a target is in its YAML.
GIVEN_BY_CODE: dict[str, set[str]] = {
    **{name: {"params"} for name in OPTIMIZERS},
    **{name: {"optimizer"} for name in SCHEDULERS},
    **{f"cxr.data.mix.{name}": {"real_labels", "synthetic_labels", "classes"} for name in MIXES},
    **{f"cxr.data.split.{name}": {"index"} for name in SPLITS},
    "cxr.data.augment.none": {"batch", "rng"},
    "cxr.data.module.CXRDataModule": {
        *("images", "labels", "parts", "seed", "augment", "synthetic", "synthetic_labels")
    },
    "cxr.loss.gan.class_cross_entropy": {"class_logits", "labels"},
    "cxr.loss.gan.discriminator_bce": {"real_logits", "fake_logits"},
    "cxr.loss.gan.discriminator_hinge": {"real_logits", "fake_logits"},
    "cxr.loss.gan.discriminator_least_squares": {"real_logits", "fake_logits"},
    "cxr.loss.gan.discriminator_wasserstein": {"real_logits", "fake_logits"},
    "cxr.loss.gan.generator_bce": {"fake_logits"},
    "cxr.loss.gan.generator_critic": {"fake_logits"},
    "cxr.loss.gan.generator_least_squares": {"fake_logits"},
    "cxr.loss.gan.gradient_penalty": {"judge", "real", "fake", "share"},
    "cxr.trainer.make_trainer": {"run_dir", "logger", "callbacks"},
}


def choices() -> list[str]:
    """Return `group/name` of every option and `experiment/…` of every recipe."""
    found = [p.relative_to(conf_dir()).with_suffix("").as_posix() for p in conf_dir().glob("*/**/*.yaml")]
    return sorted(name for name in found if not name.startswith("hydra/"))


def composed(config_name: str, *overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(config_name, list(overrides))


def with_choice(choice: str) -> DictConfig:
    group, _, name = choice.partition("/")
    if group == "study":
        return composed("study", f"study={name}")
    if group == "report":
        return composed("evaluate", "runs=[some]", f"report={name}")
    if group == "filter":
        needs = "filter.csv=[a.csv]" if name == "review" else "filter.run=some"
        return composed("curate", "synthetic=some", f"filter={name}", needs)
    needs = NEEDS.get(choice, [])
    if group == "extractor":
        return composed("score", "synthetic=[some]", "run=some", f"extractor={name}", *needs)
    first = [o for o in needs if o.startswith("task=") and group != "task"]
    return composed("train", *first, f"{group}={name}", *[o for o in needs if not o.startswith("task=")])


def nodes(node: object, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, child in node.items():
            yield from nodes(child, f"{path}.{key}".lstrip("."))
    elif isinstance(node, list):
        for number, child in enumerate(node):
            yield from nodes(child, f"{path}.{number}")


@pytest.mark.parametrize("choice", choices())
def test_every_yaml_passes_the_door_and_builds(choice: str) -> None:
    config = with_choice(choice)
    check_config(config, find_data=False)
    values = plain(config)
    for key in sorted(config_groups() & values.keys()):
        if "_target_" in (values[key] or {}) and key != "extractor":  # one reads its weights at once
            build(values[key])
    for node in (values.get("callback") or {}).values():
        build(node)
    for path, node in nodes(values):
        target = resolve_target(node["_target_"], path)
        given = GIVEN_BY_CODE.get(node["_target_"], set())
        listed = node.keys() - signature.BUILD_KEYS - (config_groups() if not path else set())
        assert listed == inspect.signature(target).parameters.keys() - given, f"{choice}: {path}"
        if node["_target_"].startswith("cxr."):  # an annotation that cannot be read checks nothing
            assert listed <= signature._hints(target).keys(), f"{choice}: {path}"


def test_generate_passes() -> None:
    check_config(composed("generate", "run=some"))


@pytest.mark.parametrize(
    "file", sorted((conf_dir() / "hydra" / "launcher").glob("*.yaml")), ids=lambda p: p.stem
)
def test_the_yaml_of_a_launcher_lists_its_parameters(file: Path) -> None:
    launcher = OmegaConf.load(file)
    assert isinstance(launcher, DictConfig)
    target = hydra.utils.get_class(launcher["_target_"])
    assert launcher.keys() - {"_target_"} == inspect.signature(target).parameters.keys()


# --- rules across fields: a configuration that breaks each, and one beside it that does not

CLASSIFIER = {"_target_": "cxr.task.classifier.ClassifierTask"}
GAN = {"_target_": "cxr.task.gan.GANTask"}
TWO = {"classes": ["A", "B"], "multi_label": False}
MIX = {"_target_": "cxr.data.mix.add", "counts": {"A": 1}}
DROPPED = {
    "_target_": "cxr.script.train.train",
    "task": GAN,
    **{key: {} for key in ("data", "cache", "split", "loader", "augment", "trainer", "callback")},
}
RULE_CASES: list[tuple[rules.Rule, dict[str, Any], dict[str, Any], str]] = [
    (rules.groups_are_chosen, {**DROPPED, "loader": None}, DROPPED, "set loader=NAME"),
    (
        rules.classes_are_named,
        {"data": {"classes": None}, "task": GAN},
        {"data": TWO, "task": GAN},
        "set data.classes=",
    ),
    (rules.positive_numbers, {"optimizer": {"lr": 0.0}}, {"optimizer": {"lr": 1e-9}}, "set optimizer.lr="),
    (rules.positive_numbers, {"a": {"lr": float("inf")}}, {"a": {"lr": None}}, "set a.lr="),
    (rules.distinct_classes, {"data": {"classes": ["A", "A"]}}, {"data": TWO}, "set data.classes="),
    (
        rules.distinct_classes,
        {"data": {"classes": ["A"]}, "task": CLASSIFIER},
        {"data": {"classes": ["A"]}, "task": GAN},
        "at least two classes",
    ),
    (
        rules.known_classes,
        {"data": {"classes": ["NORMAL"]}, "train_classes": ["NORML"]},
        {"data": TWO, "train_classes": ["A"]},
        "did you mean 'NORMAL'",
    ),
    (
        rules.known_classes,
        {"data": TWO, "mix": {"counts": {"C": 1}}},
        {"data": TWO, "mix": MIX},
        "mix.counts.C",
    ),
    (rules.split_fractions, {"split": {"val": 1.5}}, {"split": {"val": 500}}, "set split.val="),
    (
        rules.split_fractions,
        {"split": {"val": 0.5, "test": 0.5}},
        {"split": {"val": 0.4, "test": 0.5}},
        "lower split.val",
    ),
    (
        rules.fold_in_range,
        {"split": {"folds": 5, "fold": 5}},
        {"split": {"folds": 5, "fold": 4}},
        "set split.fold=",
    ),
    (
        rules.network_image_size,
        {"cache": {"size_px": 128}, "gan": {"generator": {"image_size_px": 64}}},
        {"cache": {"size_px": 64}, "gan": {"generator": {"image_size_px": 64}}},
        "set cache.size_px=64",
    ),
    (
        rules.outputs_match_classes,
        {"data": TWO, "classifier": {"n_outputs": 3}},
        {"data": TWO, "classifier": {"n_outputs": 2}},
        "set classifier.n_outputs=1",
    ),
    (
        rules.outputs_match_classes,
        {"data": {**TWO, "multi_label": True}, "classifier": {"n_outputs": 1}},
        {"data": {**TWO, "multi_label": True}, "classifier": {"n_outputs": 2}},
        "set classifier.n_outputs=2",
    ),
    (
        rules.loss_fits_labels,
        {"data": TWO, "loss": {"_target_": "x.CrossEntropy"}, "classifier": {"n_outputs": 1}},
        {"data": TWO, "loss": {"_target_": "x.CrossEntropy"}, "classifier": {"n_outputs": 2}},
        "set loss=bce",
    ),
    (
        rules.loss_fits_labels,
        {"data": TWO, "loss": {"_target_": "x.BCE"}, "classifier": {"n_outputs": 2}},
        {"data": TWO, "loss": {"_target_": "x.BCE"}, "classifier": {"n_outputs": 1}},
        "set loss=cross_entropy",
    ),
    (rules.mix_has_its_images, {"mix": MIX, "synthetic": []}, {"mix": MIX, "synthetic": ["s"]}, "mix=add"),
    (
        rules.mix_has_its_images,
        {"mix": {"_target_": "x.real_only"}, "synthetic": ["s"]},
        {"mix": {"_target_": "x.real_only"}, "synthetic": []},
        "set mix=add",
    ),
    (rules.mix_has_its_counts, {"mix": {**MIX, "counts": None}}, {"mix": MIX}, "set mix.counts="),
    (
        trainer_rules.gan_uses_its_own_accumulation,
        {"task": GAN, "trainer": {"accumulate_grad_batches": 2}},
        {"task": CLASSIFIER, "trainer": {"accumulate_grad_batches": 2}},
        "task.accumulate=",
    ),
    (
        trainer_rules.gan_uses_its_own_accumulation,
        {"task": GAN, "trainer": {"gradient_clip_val": 1.0}},
        {"task": GAN, "trainer": {"gradient_clip_val": None}},
        "task.clip_grad_norm=",
    ),
    (
        trainer_rules.explicit_gan_strategy,
        {"task": GAN, "trainer": {"devices": 2, "strategy": "auto"}},
        {"task": GAN, "trainer": {"devices": 2, "strategy": "ddp_find_unused_parameters_true"}},
        "set trainer.strategy=ddp_find",
    ),
    (
        trainer_rules.explicit_gan_strategy,
        {"task": GAN, "trainer": {"devices": [0, 1], "strategy": "ddp"}},
        {"task": CLASSIFIER, "trainer": {"devices": [0, 1], "strategy": "ddp"}},
        "set trainer.strategy=ddp_find",
    ),
    (
        trainer_rules.explicit_gan_strategy,
        {"task": GAN, "trainer": {"accelerator": "gpu", "devices": "auto", "strategy": "auto"}},
        {"task": GAN, "trainer": {"accelerator": "cpu", "devices": "auto", "strategy": "auto"}},
        "possibly several devices",
    ),
    (
        trainer_rules.explicit_gan_strategy,
        {"task": GAN, "trainer": {"devices": 1, "num_nodes": 2, "strategy": "auto"}},
        {"task": GAN, "trainer": {"devices": 1, "num_nodes": 1, "strategy": "auto"}},
        "2 devices",
    ),
    (
        trainer_rules.devices_are_named,
        {"trainer": {"devices": 0}},
        {"trainer": {"devices": "auto"}},
        "set trainer.devices=auto",
    ),
    (
        trainer_rules.devices_are_named,
        {"trainer": {"devices": [1, 1]}},
        {"trainer": {"devices": [1, 0]}},
        "each once",
    ),
    (
        trainer_rules.devices_are_named,
        {"trainer": {"accelerator": "cpu", "devices": [0, 1]}},
        {"trainer": {"accelerator": "cpu", "devices": 2}},
        "set trainer.devices=2 (processes)",
    ),
    (
        trainer_rules.devices_are_named,
        {"trainer": {"num_nodes": 0}},
        {"trainer": {"num_nodes": 3}},
        "set trainer.num_nodes=1",
    ),
    (
        trainer_rules.batch_is_shared_evenly,
        {"loader": {"batch_size": 30}, "trainer": {"devices": [0, 3], "num_nodes": 2}},
        {"loader": {"batch_size": 32}, "trainer": {"devices": 2, "num_nodes": 2}},
        "set loader.batch_size=32",
    ),
    (
        trainer_rules.clipping_needs_unscaled_gradients,
        {"trainer": {"precision": "16-mixed", "gradient_clip_val": 1.0}, "optimizer": {"fused": True}},
        {"trainer": {"precision": "16-mixed", "gradient_clip_val": 1.0}, "optimizer": {"fused": None}},
        "set optimizer.fused=false",
    ),
    (
        trainer_rules.clipping_needs_unscaled_gradients,
        {
            "trainer": {"precision": "16-mixed", "gradient_clip_val": 1.0},
            "task": {"optimizer": {"fused": True}},
        },
        {
            "trainer": {"precision": "16-mixed", "gradient_clip_val": 1.0},
            "task": {**GAN, "optimizer_g": {"fused": True}},
        },
        "set task.optimizer.fused=false",
    ),
    (
        trainer_rules.feature_views,
        {"features": 4, "classifier": {"frozen": False}, "augment": {"_target_": "x.AlbumentationsRecipe"}},
        {
            "features": "auto",
            "classifier": {"frozen": False},
            "augment": {"_target_": "x.AlbumentationsRecipe"},
        },
        "set features=auto",
    ),
    (
        rules.monitors_look_at_validation,
        {"callback": {"checkpoints": {"monitor": "test/auroc"}}},
        {"callback": {"checkpoints": {"monitor": "val/auroc"}}},
        "set callback.checkpoints.monitor=val/auroc",
    ),
]


@pytest.mark.parametrize(
    ("rule", "bad", "good", "told"), RULE_CASES, ids=[case[0].__name__ for case in RULE_CASES]
)
def test_rule(rule: rules.Rule, bad: dict[str, Any], good: dict[str, Any], told: str) -> None:
    problem = rule(bad)
    assert problem is not None
    assert told in problem
    assert "\n" not in problem
    assert rule(good) is None


def test_every_rule_is_tried() -> None:
    assert {case[0] for case in RULE_CASES} == {*rules.RULES, *rules.FIRST_RULES}


def test_a_defect_of_ours_is_not_explained_away() -> None:
    assert explain(RuntimeError("boom")) is None
    assert explain(ValueError("boom")) is None
    with pytest.raises(InstantiationException, match="divisible") as caught:
        build(
            {
                "_target_": "torch.nn.Conv2d",
                "in_channels": 1,
                "out_channels": 3,
                "kernel_size": 3,
                "groups": 2,
            }
        )
    assert explain(caught.value) is None


def test_what_a_constructor_refuses_comes_out_as_it_was_said() -> None:
    node = {
        "_target_": "cxr.data.pneumonia.Pneumonia",
        "root": None,
        "classes": ["NORML"],
        "patient_key": "number",
    }
    with pytest.raises(UserError, match="did you mean 'NORMAL'"):
        build(node)


# --- mistakes, as typed

RECIPES = {
    "key": "# @package _global_\noptimizer: {lrr: 0.1}\n",
    "root_key": "# @package _global_\nseeed: 4\n",
    "value": "# @package _global_\ncache: {fit: strech}\n",
    "reference": "# @package _global_\nseed: ${sed}\n",
    "scalar": "# @package _global_\nloader: 3\n",
    "parent": "# @package _global_\ndefaults:\n  - talukdar/cn\n",
    "choice": "# @package _global_\ndefaults:\n  - override /classifier: talukda_cnn\n",
    "group": "# @package _global_\ndefaults:\n  - override /classifer: backbone\n",
    "brace": "# @package _global_\noptimizer: {lr: 3\n",
    "twice": "# @package _global_\nseed: 3\nseed: 4\n",
    "unpackaged": "seed: 3\n",
}
MINE = "--config-dir=mine"

# Refused while composing, before torch is imported: (script, arguments, what the line says).
COMPOSING: list[tuple[str, list[str], str]] = [
    ("train", ["sed=3"], "sed: no such key; did you mean 'seed'?"),
    ("train", ["optimizer.lrr=1"], "optimizer.lrr: no such key; did you mean 'lr'?"),
    ("train", ["task=gan", "gan.generator.latent_dimm=1"], "gan.generator.latent_dimm: no such key; did you mean"),
    ("train", ["callback.sample_grid.rows=3"], "callback.sample_grid: no such key"),
    ("train", ["data.rot=x", "data=pneumonia"], "data.rot: no such key; did you mean 'root'?"),
    ("train", ["mix=add", "mix.counts.opacity=3"], "mix.counts.opacity: no such key, as mix.counts holds none"),
    ("train", ["task=gan", "gan=talukda"], "gan=talukda: no such choice; did you mean 'talukdar'?"),
    ("train", ["gann=talukdar"], "gann: no such key; did you mean 'gan'?"),
    ("train", ["gan=talukdar"], "gan: not part of this configuration; `task`"),
    ("train", ["experiment=talukdar/gann"], "experiment=talukdar/gann: no such choice; did you mean 'talukdar/gan'?"),
    ("train", ["experiment=talukdar"], "experiment=talukdar: no such choice; did you mean 'talukdar/"),
    ("train", ["+experiment=talukdar/gan"],
     "experiment=talukdar/gan: experiment has a choice already; type it without +"),
    ("train", ["loader=null"], "loader=null: a config group takes the name of one of its files"),
    ("train", ["cache="], "cache=: no such choice; known: default"),
    ("train", ["optimizer@foo=adam"], "optimizer@foo: no such key or config group"),
    ("train", ["seed=0,1"], "seed=0,1: one value expected; add -m"),
    ("train", ["optimizer.lr=["], "cannot read the override 'optimizer.lr=['"),
    ("train", ["optimizer.lr"], "optimizer.lr: expected key=value"),
    ("train", ["hydra/launcher=proceses"], "hydra/launcher=proceses: no such choice; did you mean 'processes'?"),
    ("train", ["hydra.run.dirr=x"], "hydra.run.dirr: no such key; did you mean 'dir'?"),
    ("train", ["--config-name=trian"], "trian: no such configuration; did you mean 'train'?"),
    ("train", [MINE, "experiment=parent"],
     "talukdar/cn: no such choice (in experiment/parent.yaml); did you mean 'talukdar/cnn'?"),
    ("train", [MINE, "experiment=choice"], "classifier=talukda_cnn: no such choice; did you mean 'talukdar_cnn'?"),
    ("train", [MINE, "experiment=group"],
     "classifer: no such key or config group (in experiment/group.yaml); did you mean 'classifier'?"),
    ("train", [MINE, "experiment=brace"], "mine/experiment/brace.yaml, line 3, column 1: not valid YAML"),
    ("train", [MINE, "experiment=twice"],
     "mine/experiment/twice.yaml, line 3, column 1: not valid YAML (found duplicate key seed)"),
    ("train", [MINE, "experiment=scalr"], "experiment=scalr: no such choice; did you mean 'scalar'?"),
    ("train", ["-m", "seed=0,1", "optimizer.lrr=1,2"], "optimizer.lrr: no such key; did you mean 'lr'?"),
    ("train", ["-m", "seed=0,1", "optimizer=adam,adamm"], "optimizer=adamm: no such choice; did you mean 'adam'?"),
    ("train", ["-m", "seed=0,1", "+hydra.launcher.n_job=2"],
     "hydra.launcher.n_job: no such key; did you mean 'n_jobs'?"),
    ("generate", ["run=x", "nn=3"], "nn: no such key; did you mean 'n'?"),
    ("generate", [], "run: must be set, and is not; set run=…"),
    ("generate", ["run=talukdar-gann"], "run: nothing below runs is called 'talukdar-gann'"),
    ("score", ["run=x"], "synthetic: must be set, and is not; set synthetic=…"),
    ("curate", ["filter=realism", "filter.run=b"], "synthetic: must be set, and is not; set synthetic=…"),
    ("curate", ["synthetic=a"], "filter: nothing is chosen; set filter=review, filter=agreement or filter=realism"),
    ("curate", ["synthetic=a", "filter=reviw"], "filter=reviw: no such choice; did you mean 'review'?"),
    ("curate", ["synthetic=a", "filter=review"], "filter.csv: must be set, and is not; set filter.csv=…"),
    ("curate", ["synthetic=a", "filter=agreement", "filter.run=b", "filter.at_least=2.0"],
     "filter.at_least: got 2, expected a probability in [0, 1]; set filter.at_least=0.5"),
    ("curate", ["synthetic=a", "filter=agreement", "filter.run=b", "filter.keep=0"], "filter.keep: got 0"),
    ("curate", ["synthetic=a", "filter=realism", "filter.run=b", "filter.quantile=0.0"], "filter.quantile: got 0"),
    ("study", ["scale=small"], "scale: got 'small', expected one of full, tiny"),
    ("study", ["study=talukdar"], "data_root: the study talukdar needs"),
    ("generate", ["run=x", "weights=emma"], "weights: got 'emma', expected one of ema, raw; did you mean 'ema'?"),
    ("evaluate", [], "runs: must be set, and is not; set runs=…"),
    ("evaluate", ["runs=[talukdar*]"], "runs: nothing below runs is called 'talukdar*'"),
    ("evaluate", ["runs=talukdar"], "runs: got 'talukdar' (str), expected list[str]; set runs=…"),
    ("evaluate", ["runs=[a]", "report=talukda"], "report=talukda: no such choice; did you mean 'talukdar'?"),
    ("evaluate", ["runs=[a]", "report.title=x"], "report: nothing is chosen; set report=NAME"),
]  # fmt: skip

# Refused by the checks, which import what the configuration names.
CHECKING: list[tuple[str, list[str], str]] = [
    ("train", ["+sed=3"], "sed: no such key; did you mean 'seed'?"),
    ("train", ["++sed=3"], "sed: no such key; did you mean 'seed'?"),
    ("train", ["+optimizer.lrr=1"], "optimizer.lrr: no such key; did you mean 'lr'?"),
    ("train", ["++optimizer.lrr=1"], "optimizer.lrr: no such key; did you mean 'lr'?"),
    ("train", ["task=gan", "+gan.generator.latent_dimm=1"],
     "gan.generator.latent_dimm: no such key; did you mean 'latent_dim'?"),
    ("train", ["task=gan", "++gan.generatr.latent_dim=1"], "gan.generatr: no such key; did you mean 'generator'?"),
    ("train", ["+gann=talukdar"], "gann: no such key; did you mean 'gan'?"),
    ("train", ["+hydra.job.nam=x"], "hydra.job.nam: no such key; did you mean 'name'?"),
    ("train", ["trainer.max_epochs=abc"],
     "trainer.max_epochs: got 'abc' (str), expected int; set trainer.max_epochs=…"),
    ("train", ["seed=null"], "seed: got None (NoneType), expected int"),
    ("train", ["seed=???"], "seed: must be set, and is not"),
    ("train", ["optimizer.betas=[0.9]"], "optimizer.betas: got [0.9] (list), expected tuple[float, float]"),
    ("train", ["trainer.devices=two"], "trainer.devices: got 'two', expected int or list[int] or one of auto"),
    ("train", ["cache.fit=strech"],
     "cache.fit: got 'strech', expected one of stretch, pad, crop; did you mean 'stretch'?"),
    ("train", ["data.classes=[normal,opacty]", "train_classes=[opacity]"],
     "train_classes: data.classes has no 'opacity'; did you mean 'opacty'?"),
    ("train", ["classifier.n_outputs=${data.clases}"],
     "classifier.n_outputs: ${data.clases} points at nothing; did you mean 'classes'?"),
    ("train", ["~loader"], "loader: nothing is chosen; set loader=NAME"),
    ("train", ["~optimizer"], "task.optimizer: ${optimizer} points at nothing"),
    ("train", ["optimizer._target_=os.system"], "optimizer._target_: os.system may not be built"),
    ("train", ["data._target_=cxr.data.phantom.Fantom"], "cxr.data.phantom has no 'Fantom'; did you mean 'Phantom'?"),
    ("train", ["data=folder"], "data.classes: must be a list of class names"),
    ("train", ["data=pneumonia"],
     "set data.root=/path/to/it; published as Kaggle paultimothymooney/chest-xray-pneumonia"),
    ("train", ["data=pneumonia", "data.root=/nowhere"], "is not at /nowhere: set data.root="),
    ("train", [MINE, "experiment=key"], "optimizer.lrr: no such key; did you mean 'lr'?"),
    ("train", [MINE, "experiment=root_key"], "seeed: no such key; did you mean 'seed'?"),
    ("train", [MINE, "experiment=value"], "cache.fit: got 'strech'"),
    ("train", [MINE, "experiment=reference"], "seed: ${sed} points at nothing; did you mean 'seed'?"),
    ("train", [MINE, "experiment=scalar"], "loader: got 3, expected the keys of one of conf/loader/*.yaml"),
    ("train", [MINE, "experiment=unpackaged"], "does the experiment's file begin with '# @package _global_'?"),
    ("train", ["-m", "trainer.max_epochs=1,abc"],
     "job 1 (trainer.max_epochs=abc): trainer.max_epochs: got 'abc' (str), expected int"),
    ("train", ["-m", "seed=0,1", "cache.fit=strech,pad"],
     "cache.fit: got 'strech', expected one of stretch, pad, crop; did you mean 'stretch'?"),
    ("train", ["-m", "seed=0,1", "+optimizer.lrr=1"], "optimizer.lrr: no such key; did you mean 'lr'?"),
    ("evaluate", ["runs=[a]", "report=talukdar", "++report.tables.0.nam=x"],
     "report.tables.0.nam: no such key; did you mean 'name'?"),
]  # fmt: skip


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user's own folder of recipes below the working directory."""
    for name, text in RECIPES.items():
        (tmp_path / "mine" / "experiment").mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / "experiment" / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.fixture
def door(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str]]:
    """Run a script's main() here, in `mine`; return exit code and stderr. Whatever would train fails."""
    stub = types.ModuleType("cxr.script.fit")
    stub.fit = lambda run: pytest.fail("the door let it through")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cxr.script.fit", stub)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.chdir(mine)

    def run(script: str, *arguments: str) -> tuple[object, str]:
        from cxr.script import curate, evaluate, generate, score, study, train

        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
        programs = {
            "train": train,
            "generate": generate,
            "curate": curate,
            "score": score,
            "evaluate": evaluate,
            "study": study,
        }
        main = programs[script].main
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    return run


def hold(code: object, errors: str, told: str, sweep: bool, folder: Path) -> None:
    """One line, exit code 2, nothing left behind; a sweep has a line for each bad job and a closing one."""
    lines = errors.splitlines()
    assert code == 2, errors
    assert told in errors
    assert all(line.startswith("error: ") for line in lines), errors
    assert len(lines) == 1 or (sweep and re.search(r"of \d+ jobs cannot run; none was started", lines[-1]))
    assert [p.name for p in folder.iterdir()] == ["mine"]


def name_of(case: tuple[str, list[str], str]) -> str:
    return " ".join([case[0], *case[1]])


@pytest.mark.parametrize("case", [*COMPOSING, *CHECKING], ids=name_of)
def test_a_mistake_is_told_in_one_line(
    case: tuple[str, list[str], str], door: Callable[..., tuple[object, str]], mine: Path
) -> None:
    script, arguments, told = case
    code, errors = door(script, *arguments)
    hold(code, errors, told, "-m" in arguments, mine)


# One of each kind; an import of torch costs seconds, so only the sweep has one.
AS_TYPED = {
    "train optimizer.lrr=1",
    "train experiment=talukdar/gann",
    "train optimizer.lr=[",
    f"train {MINE} experiment=brace",
    "train -m seed=0,1 optimizer.lrr=1,2",
    "train -m trainer.max_epochs=1,abc",
    "generate",
    "evaluate runs=[talukdar*]",
}
FRESH = [case for case in [*COMPOSING, *CHECKING] if name_of(case) in AS_TYPED]


# The test above takes each through the same door in one process; these, of kinds that fail there alike, cost a start each.
LATER = {"train experiment=talukdar/gann", "train optimizer.lr=[", "generate", "evaluate runs=[talukdar*]"}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if name_of(case) in LATER else [], id=name_of(case))
        for case in FRESH
    ],
)
def test_a_mistake_as_the_user_types_it(
    case: tuple[str, list[str], str], cli: Callable[..., subprocess.CompletedProcess[str]], mine: Path
) -> None:
    script, arguments, told = case
    done = cli(script, *arguments)
    hold(done.returncode, done.stderr, told, "-m" in arguments, mine)
    assert done.stdout == ""


def test_none_of_those_was_renamed() -> None:
    assert len(FRESH) == len(AS_TYPED) and LATER < AS_TYPED


def test_near_names_of_runs(door: Callable[..., tuple[object, str]], mine: Path) -> None:
    (mine / "runs" / "talukdar-gan").mkdir(parents=True)
    (mine / "runs" / "talukdar-gan" / "status.json").write_text('{"state": "finished"}')
    for script, argument in (("generate", "run=talukdar-gann"), ("evaluate", "runs=[talukdr-gan]")):
        code, errors = door(script, argument)
        assert code == 2
        assert errors.startswith("error: run")
        assert errors.endswith("did you mean 'talukdar-gan'?\n")


def test_the_full_error_on_demand(cli: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = cli("train", "optimizer.lrr=1", env={"HYDRA_FULL_ERROR": "1"})
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr


def test_a_defect_of_ours_keeps_its_traceback(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cxr.config import run_app

    def job(config: DictConfig) -> None:
        raise RuntimeError("boom")

    GlobalHydra.instance().clear()
    monkeypatch.chdir(mine)
    monkeypatch.setattr(sys, "argv", ["generate.py", "run=some"])
    with pytest.raises(RuntimeError, match="boom"):
        run_app("generate", job)


# --- answers that must not wait for torch

LIGHT = """
import runpy, sys
sys.path.insert(0, {repository!r})
sys.argv = {argv!r}
try:
    runpy.run_path({script!r}, run_name="__main__")
finally:
    print("heavy:", sorted({{"torch", "lightning", "pandas", "numpy", "cv2"}} & set(sys.modules)))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]], ids=" ".join)
@pytest.mark.parametrize("script", ["train", "generate", "curate", "score", "evaluate", "study"])
def test_help_and_preview_import_nothing_heavy(
    script: str, arguments: list[str], repository: Path, tmp_path: Path
) -> None:
    path = str(repository / f"{script}.py")
    code = LIGHT.format(repository=str(repository), argv=[path, *arguments], script=path)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True, timeout=60, check=True
    )
    assert done.stdout.endswith("heavy: []\n")
    assert not list(tmp_path.iterdir())
    if arguments == ["--help"]:
        assert done.stdout.count(f"  python {script}.py") >= 3
        assert "powered by Hydra" not in done.stdout
        assert ("dir: studies/" if script == "study" else "runs_dir: runs") in done.stdout
