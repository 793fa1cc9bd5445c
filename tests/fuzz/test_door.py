"""The door, with overrides that hypothesis draws: a configuration that passes, or one line; never anything else."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cxr.config import check_config, conf_dir, config_groups, explain, plain
from cxr.rules import leaves

N = int(os.environ.get("CXR_FUZZ_EXAMPLES", "0")) // 10
FAST = settings(
    max_examples=max(12, N),
    derandomize=not N,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
BASES: dict[str, list[str]] = {
    "classifier": ["train"],
    "gan": ["train", "task=gan", "cache.size_px=64"],
    "generate": ["generate", "run=some"],
    "evaluate": ["evaluate", "runs=[some]", "report=phantom"],
}
VALUES = [
    *("0", "1", "-1", "3", "0.5", "1e-3", "1e400", "-0.0", "nan", "inf", ".inf", "0x10", "1_000", "99999999999999999999999"),
    *("true", "false", "yes", "null", "~", "", "''", '"a"', "a b", "2020-01-01", "12:30:45", "é", "日本", "a\nb",
      "\t", "\\", "'", '"', "#", "@"),
    *("[]", "[1,2]", "[a,[b]]", "{}", "{a: 1}", "{_target_: os.system}", "{a: {b: [1, null]}}",
      "[", "}", "[1,", "{a}", "a,b", "1,2", "=", "a=b"),
    *("${seed}", "${nope}", "${oc.env:HOME}", "${oc.env:NOPE}", "${", "${oc.select:x,1}", "${count:1}",
      "???", "x" * 300, "/", "../x", "*", "glob(*)"),
    *("range(1,3)", "choice(1,2)", "interval(0,1)", "!!python/object/apply:os.system [id]",
      "&a", "*a", "|", ">", "cxr.nope.Nope", "os.system"),
]  # fmt: skip


def composed(base: str, *overrides: str) -> Any:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(BASES[base][0], [*BASES[base][1:], *overrides])


def told(base: str, *overrides: str) -> str | None:
    """Return the line that the door ends in, or None where it lets the configuration pass."""
    try:
        check_config(composed(base, *overrides))
    except Exception as error:
        line = explain(error)
        assert line is not None, f"{overrides}: a defect, {type(error).__name__}: {error}"
        assert line.strip() and "\n" not in line, (overrides, line)
        return line
    return None


def keys(base: str) -> list[str]:
    config = OmegaConf.to_container(composed(base), resolve=False)
    found = {path for path, _ in leaves(config)} | {path.rpartition(".")[0] for path, _ in leaves(config)} - {
        ""
    }
    return sorted(
        found
        | set(config_groups())
        | {"experiment", "nope", "data.nope", "a.b.c", "_target_", "callback.nope._target_"}
    )


KEYS = {base: keys(base) for base in BASES}


@pytest.mark.parametrize("base", BASES)
def test_random_overrides_pass_or_end_in_one_line(base: str) -> None:
    one = st.tuples(
        st.sampled_from(["", "", "", "+", "++", "~"]),
        st.sampled_from(KEYS[base]),
        st.sampled_from(VALUES) | st.text(max_size=6),
    )

    @FAST
    @given(drawn=st.lists(one, min_size=1, max_size=2))
    def once(drawn: list[tuple[str, str, str]]) -> None:
        told(base, *[f"{sign}{key}={value}" for sign, key, value in drawn])

    once()


@settings(FAST, max_examples=max(6, N))
@given(
    key=st.from_regex(r"[a-z]{3,9}_zz", fullmatch=True),
    place=st.sampled_from(["", "trainer.", "data.", "classifier.", "split."]),
    sign=st.sampled_from(["", "+", "++"]),
)
def test_an_unknown_key_is_always_refused(key: str, place: str, sign: str) -> None:
    line = told("classifier", f"{sign}{place}{key}=1")
    assert line is not None and f"{place}{key}" in line and "no such key" in line, line


@settings(FAST, max_examples=max(6, N))
@given(
    base=st.sampled_from(["classifier", "gan"]),
    seed=st.integers(0, 2**31),
    size=st.integers(1, 4096),
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,30}", fullmatch=True),
    val=st.floats(0.01, 0.4),
)
def test_a_valid_configuration_survives_yaml(base: str, seed: int, size: int, name: str, val: float) -> None:
    """What `config.yaml` of a run holds is what was checked, to the last digit."""
    config = composed(
        base, f"seed={seed}", f"loader.batch_size={size}", f"name='{name}'", f"split.val={val!r}"
    )
    check_config(config)
    values = plain(config)
    again = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(values)))
    check_config(again)
    assert plain(again) == values and values["name"] == name and values["split"]["val"] == val
