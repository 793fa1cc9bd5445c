"""Rules across fields of a configuration: what the types cannot say, checked before any data is read.

Each rule takes the resolved configuration as plain containers and returns one line that names
the override to change, or None. Add a rule by writing a function and naming it in `RULES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from cxr.errors import did_you_mean
from cxr.trainer_rules import TRAINER_RULES, kind

__all__ = ["FIRST_RULES", "RULES", "Rule", "leaves"]

Config = dict[str, Any]
Rule = Callable[[Config], "str | None"]

NEEDS_SYNTHETIC = {"add", "top_up", "ratio", "synthetic_only"}


def leaves(node: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted path and the value of everything that is not a mapping."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield from leaves(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def positive_numbers(config: Config) -> str | None:
    """Learning rates, sizes and counts that must be above zero and finite."""
    above_zero = {
        "lr",
        "batch_size",
        "size_px",
        "image_size_px",
        "max_epochs",
        "accumulate",
        "steps_per_call",
        "n",
        "folds",
        "n_resamples",
    }
    for path, value in leaves(config):
        name = path.rpartition(".")[2]
        if name not in above_zero or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if not math.isfinite(value) or value <= 0:
            return f"{path}: got {value}, expected a finite number above 0; set {path}=…"
    return None


def split_fractions(config: Config) -> str | None:
    """Validation and test fractions leave something to train on."""
    split = config.get("split") or {}
    fractions = {k: split[k] for k in ("val", "test") if isinstance(split.get(k), float)}
    for key, value in fractions.items():
        if not 0 <= value < 1:
            return f"split.{key}: got {value}, expected a fraction in [0, 1) or a count of images; set split.{key}=…"
    if sum(fractions.values()) >= 1:
        return f"split: val + test = {sum(fractions.values()):g} leaves no training images; lower split.val or split.test"
    return None


def fold_in_range(config: Config) -> str | None:
    """A fold of k-fold cross-validation is one of the k."""
    split = config.get("split") or {}
    folds, fold = split.get("folds"), split.get("fold")
    if isinstance(folds, int) and isinstance(fold, int) and not 0 <= fold < folds:
        return f"split.fold: got {fold}, expected 0 … {folds - 1} with split.folds={folds}; set split.fold=…"
    return None


def network_image_size(config: Config) -> str | None:
    """The network takes the size that the cache holds."""
    size = (config.get("cache") or {}).get("size_px")
    for path, value in leaves(
        {k: config[k] for k in ("gan", "classifier") if isinstance(config.get(k), dict)}
    ):
        if path.endswith(".image_size_px") and value != size:
            return f"{path}: the network takes {value} px and the cache holds {size} px; set cache.size_px={value}"
    return None


def outputs_match_classes(config: Config) -> str | None:
    """A classifier has one output per class, or a single one for two classes."""
    classifier, data = config.get("classifier"), config.get("data") or {}
    if not isinstance(classifier, dict) or not isinstance(data.get("classes"), list):
        return None
    n, classes, multi = classifier.get("n_outputs"), data["classes"], bool(data.get("multi_label"))
    allowed = [len(classes)] if multi or len(classes) != 2 else [1, 2]
    if isinstance(n, int) and n not in allowed:
        wanted = " or ".join(map(str, allowed))
        return (f"classifier.n_outputs: got {n}, expected {wanted} for {len(classes)} classes; "
                f"set classifier.n_outputs={allowed[0]}")  # fmt: skip
    return None


def loss_fits_labels(config: Config) -> str | None:
    """Cross-entropy wants one label of several outputs; binary losses want independent ones."""
    loss, classifier, data = config.get("loss"), config.get("classifier"), config.get("data") or {}
    if not isinstance(loss, dict) or not isinstance(classifier, dict):
        return None
    name, n, multi = (
        kind(config, "loss").lower().replace("_", ""),
        classifier.get("n_outputs"),
        bool(data.get("multi_label")),
    )
    if "crossentropy" in name and "binary" not in name and (multi or n == 1):
        why = "labels are independent (data.multi_label=true)" if multi else "classifier.n_outputs=1"
        return f"loss: cross_entropy needs one label out of several outputs, but {why}; set loss=bce"
    if ("bce" in name or "focal" in name) and not multi and isinstance(n, int) and n > 1:
        return (f"loss: {kind(config, 'loss')} needs independent labels, but data.multi_label=false with {n} outputs; "
                "set loss=cross_entropy")  # fmt: skip
    return None


def mix_has_its_images(config: Config) -> str | None:
    """A mix that adds synthetic images names their sets; one that does not names none."""
    mix, sets = kind(config, "mix"), config.get("synthetic") or []
    if mix in NEEDS_SYNTHETIC and not sets:
        return f"synthetic: mix={mix} needs at least one synthetic set and none is named; set synthetic=[NAME] or mix=real_only"
    if mix and mix not in NEEDS_SYNTHETIC and sets:
        return f"mix: {mix} uses no synthetic images but synthetic={sets}; set mix=add (or top_up, ratio, synthetic_only)"
    return None


def known_classes(config: Config) -> str | None:
    """Classes named elsewhere are classes of the data set."""
    classes = (config.get("data") or {}).get("classes")
    if not isinstance(classes, list):
        return None
    named = [("train_classes", c) for c in config.get("train_classes") or []]
    for group, key in (("mix", "counts"), ("mix", "limit"), ("split", "max_test")):
        numbers = (config.get(group) or {}).get(key)
        named += [(f"{group}.{key}.{c}", c) for c in (numbers if isinstance(numbers, dict) else {})]
    for path, name in named:
        if name not in classes:
            return f"{path}: data.classes has no '{name}'{did_you_mean(str(name), classes)}"
    return None


def groups_are_chosen(config: Config) -> str | None:
    """Training needs a choice of each of these groups; `~loader` takes one away."""
    if config.get("_target_") != "cxr.script.train.train":
        return None
    wanted = ["data", "cache", "split", "loader", "augment", "task", "trainer", "callback"]
    wanted += ["classifier", "loss", "optimizer", "mix"] if kind(config, "task") == "ClassifierTask" else []
    for group in wanted:
        if config.get(group) is None:
            return f"{group}: nothing is chosen; set {group}=NAME, one of conf/{group}/*.yaml"
    return None


def classes_are_named(config: Config) -> str | None:
    """Training needs the names of the classes before it reads the data."""
    data = config.get("data")
    if isinstance(data, dict) and data.get("classes", []) is None and "task" in config:
        return "data.classes: must be a list of class names, and is not; set data.classes=[A,B]"
    return None


def distinct_classes(config: Config) -> str | None:
    """No class is named twice, and a classifier has at least two (one when labels are independent)."""
    data = config.get("data") or {}
    classes = data.get("classes")
    if not isinstance(classes, list):
        return None
    if len(set(classes)) < len(classes):
        return f"data.classes: {classes} names a class twice; set data.classes=[…]"
    if kind(config, "task") == "ClassifierTask" and len(classes) < 2 and not data.get("multi_label"):
        return f"data.classes: a classifier needs at least two classes, got {classes}; set data.classes=[…]"
    return None


def mix_has_its_counts(config: Config) -> str | None:
    """A mix that adds a number of images per class is told which."""
    mix = config.get("mix") or {}
    if "counts" in mix and not mix["counts"] and mix.get("to") is None:
        return f"mix.counts: {kind(config, 'mix')} needs images per class; set mix.counts={{CLASS: 100}}"
    return None


def monitors_look_at_validation(config: Config) -> str | None:
    """No `monitor` chooses by test images."""
    for path, value in leaves({k: config.get(k) for k in ("callback", "scheduler")}):
        if path.endswith(".monitor") and isinstance(value, str) and "test" in value.split("/"):
            return (f"{path}: got '{value}', expected a score of validation images (test images are for the end); "
                    f"set {path}=val/{value.replace('test/', '').replace('/test', '')}")  # fmt: skip
    return None


# Before the types are checked: what a type error elsewhere would only hint at.
FIRST_RULES: list[Rule] = [groups_are_chosen, classes_are_named]

RULES: list[Rule] = [
    positive_numbers,
    distinct_classes,
    known_classes,
    split_fractions,
    fold_in_range,
    network_image_size,
    outputs_match_classes,
    loss_fits_labels,
    mix_has_its_images,
    mix_has_its_counts,
    monitors_look_at_validation,
    *TRAINER_RULES,
]
