"""What makes a run the run it is: its identity, its hash, its default name, its difference to another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cxr.files import digest

__all__ = [
    "config_hash",
    "default_name",
    "differences",
    "identity",
    "machine_values",
    "safe_name",
    "sweep_name",
]

# Where things lie, what is shown and how fast it goes: none of it makes another experiment.
MACHINE_KEYS = (
    "name",
    "runs_dir",
    "synthetic_dir",
    "cache.dir",
    "cache.workers",
    "cache.rehash",
    "loader.num_workers",
    "logger",
    "trainer.progress",
    "trainer.max_time",
    "trainer.log_every_n_steps",
    "task.steps_per_call",
)
# The root of a published data set may move; the root of one's own folder or table says which images.
OWN_FILES = ("cxr.data.folder.Folder", "cxr.data.table.Table")
MAX_NAME = 100


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` (plain containers) without the keys that cannot change a result."""
    drop = set(MACHINE_KEYS)
    if (config.get("data") or {}).get("_target_") not in OWN_FILES:
        drop.add("data.root")
    if config.get("near_duplicates") != "group":  # the others only tell, or end the run before it begins
        drop.add("near_duplicates")
    if not isinstance(
        config.get("features"), int
    ):  # where features come from; only views of them are another training
        drop.add("features")
    if not (config.get("trainer") or {}).get("compile"):  # a run from before the key was there is the same
        drop.add("trainer.compile")

    if not _augmented_on_device(config):
        drop.add("loader.augment_on")

    def keep(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: keep(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
            for key, value in node.items()
            if prefix + key not in drop
        }

    return keep(config, "")


def _augmented_on_device(config: Mapping[str, Any]) -> bool:
    """Say whether a device may have warped the training images: its rounding is not the CPU's (by a grey level)."""
    of = {key: config.get(key) or {} for key in ("loader", "trainer", "augment")}
    where = of["loader"].get("augment_on", "cpu")
    if of["augment"].get("_target_", "cxr.data.augment.none") == "cxr.data.augment.none" or where == "cpu":
        return False
    return bool(where == "device" or of["trainer"].get("accelerator", "cpu") != "cpu")


def machine_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `identity` leaves out of `config`, by dotted key."""
    kept = _flat(identity(config)).keys()
    return {key: value for key, value in _flat(config).items() if key not in kept}


def config_hash(identity: Mapping[str, Any]) -> str:
    """Return 12 hex digits that name an identity, whatever the order of its keys."""
    return digest(identity, 12)


def default_name(base: str, overrides: Sequence[str], exclude: Sequence[str] = ()) -> str:
    """Name a run after `base` (its experiment, else its task) and the overrides given, in sorted order.

    `talukdar/gan` with `seed=1 task.optimizer_g.lr=0.001` is `talukdar-gan_lr-0.001_seed-1`: only
    letters, digits and `._+-`, so that the name needs no quotes in a shell or an override. A value
    that cannot be written so, and a name above 100 characters, ends in a hash instead. Keys in
    `exclude` are no part of the name, as Hydra's `override_dirname.exclude_keys`.
    """
    values: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        key = key.partition("@")[0].replace("/", ".")
        machine = any(
            key == k or key.startswith(f"{k}.") for k in (*MACHINE_KEYS, "hydra", "experiment", "data.root")
        )
        if not machine and key not in exclude:
            values[key] = value
    short = {key: key.rpartition(".")[2] for key in values}
    parts, exact = [safe_name(base)], True
    for key in sorted(values):
        label = short[key] if list(short.values()).count(short[key]) == 1 else key
        text = re.sub(r"[\[\]{}'\"\\ ]", "", values[key]).replace(",", "+").replace(":", "-")
        exact = exact and safe_name(text) == text
        parts.append(safe_name(f"{label}-{text}").rstrip("-"))
    name = "_".join(parts)
    if exact and len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 7].rstrip('-_.')}-{digest([base, values], 6)}"


def sweep_name(overrides: Sequence[str]) -> str:
    """Name a sweep after what was typed: the same command again means the same sweep.

    `experiment=a/x,a/y seed=0,1` is `a-x+a-y_seed-0+1-` and six digits of a hash of all overrides, in any order.
    """
    typed = dict(o.partition("=")[::2] for o in overrides)
    base = (
        (typed.get("experiment") or typed.get("+experiment") or "sweep").replace("/", "-").replace(",", "+")
    )
    name = default_name(base[: MAX_NAME // 2].rstrip("-_.+"), overrides)
    return f"{name[: MAX_NAME - 7].rstrip('-_.+')}-{digest(sorted(overrides), 6)}"


def safe_name(text: str) -> str:
    """Replace whatever needs quotes in a shell, a path or an override by `-`."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one `key: old → new` for each dotted key in which two configurations differ."""
    a, b = _flat(old), _flat(new)
    keys = sorted(key for key in {*a, *b} if a.get(key, "absent") != b.get(key, "absent"))
    return [f"{key}: {a.get(key, 'absent')!s} → {b.get(key, 'absent')!s}" for key in keys]


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, (list, tuple)) else value
    return flat
