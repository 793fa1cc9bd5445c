"""Names are readable, safe and depend on nothing but what was asked for; identities drop where, not what."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr.run import config_hash, default_name, differences, identity


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "talukdar-gan"),
        (["experiment=talukdar/gan", "data.root=/mnt/x", "name=null", "hydra.verbose=true"], "talukdar-gan"),
        (["task.optimizer_g.lr=0.001", "seed=1"], "talukdar-gan_seed-1_lr-0.001"),
        (["+trainer.max_epochs=2"], "talukdar-gan_max_epochs-2"),
        (
            ["train_classes=[PNEUMONIA]", "synthetic=[a-1,b]"],
            "talukdar-gan_synthetic-a-1+b_train_classes-PNEUMONIA",
        ),
        (["a.lr=1", "b.lr=2"], "talukdar-gan_a.lr-1_b.lr-2"),
        (["seed=1", "seed=2"], "talukdar-gan_seed-2"),
        (["~mix"], "talukdar-gan_mix"),
    ],
)
def test_default_names(overrides: list[str], name: str) -> None:
    assert default_name("talukdar/gan", overrides) == name


def test_what_cannot_be_written_plainly_ends_in_a_hash() -> None:
    assert re.fullmatch(r"gan_csv-a-b-[0-9a-f]{6}", default_name("gan", ["csv=a/b"]))
    assert default_name("gan", ["csv=a/b"]) != default_name("gan", ["csv=a b"])


@given(
    st.lists(st.tuples(st.sampled_from(["seed", "a.lr", "b.lr", "x/y", "data.csv"]), st.text()), max_size=8)
)
def test_names_are_always_safe_short_and_stable(pairs: list[tuple[str, str]]) -> None:
    overrides = [f"{key}={value}" for key, value in dict(pairs).items()]
    name = default_name("p/e", overrides)
    assert re.fullmatch(r"[A-Za-z0-9._+-]{1,100}", name)
    assert name == default_name("p/e", list(reversed(overrides)))


def test_identity_drops_where_and_keeps_what() -> None:
    config = {
        "name": "a",
        "seed": 0,
        "data": {"_target_": "cxr.data.pneumonia.Pneumonia", "root": "/a", "classes": ["N"]},
        "cache": {"dir": "/c", "size_px": 64},
        "loader": {"num_workers": 2, "batch_size": 8},
        "logger": {"_target_": "x"},
    }
    kept = identity(config)
    assert kept == {
        "seed": 0,
        "data": {"_target_": "cxr.data.pneumonia.Pneumonia", "classes": ["N"]},
        "cache": {"size_px": 64},
        "loader": {"batch_size": 8},
    }
    own = {"data": {"_target_": "cxr.data.folder.Folder", "root": "/a"}}
    assert identity(own) == own  # one's own folder: the root says which images


def test_hash_ignores_the_order_of_keys_only() -> None:
    assert config_hash({"a": 1, "b": {"c": 2, "d": 3}}) == config_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})
    assert len(config_hash({})) == 12


def test_differences_name_dotted_keys() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": None, "e": {}}
    new = {"a": {"b": 2, "c": [1, 2]}, "e": {"f": 0}}
    assert differences(old, new) == ["a.b: 1 → 2", "d: None → absent", "e: {} → absent", "e.f: absent → 0"]
    assert differences(old, old) == []
