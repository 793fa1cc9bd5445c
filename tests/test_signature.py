"""A value fits its annotation or is refused with what was expected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest

from cxr.errors import UserError
from cxr.signature import check_node, check_value
from cxr.target import resolve_target

NODE = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-3}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, int),
        (1, float),
        (1.5, float),
        (True, bool),
        ("a", str),
        (None, Optional[int]),
        (3, int | None),
        ("x", Literal["x", "y"]),
        ([1, 2], list[int]),
        ([1, 2.5], tuple[float, float]),
        ([1, 2, 3], tuple[int, ...]),
        ("data", Path),
        (None, Path | None),
        ({"a": 1}, dict[str, int]),
        ("b", Union[int, str]),
        (NODE, Callable[..., Any]),
        (NODE, object),
        ([], Sequence[str]),
        (0, int),
        (0, float),
    ],
)
def test_fits(value: object, expected: object) -> None:
    assert check_value(value, expected) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", int),
        (1.5, int),
        (True, int),
        (True, float),
        (1, bool),
        ("yes", bool),
        (1, str),
        (None, int),
        ("z", Literal["x", "y"]),
        (1, Literal["x", "y"]),
        (True, Literal[1]),
        ([1, "2"], list[int]),
        ("12", list[int]),
        ([1], tuple[float, float]),
        ([1, "a"], tuple[int, ...]),
        (3, Path),
        ({"a": "1"}, dict[str, int]),
        ([1], Union[int, str]),
        ("adam", Callable[..., Any]),
        (NODE, int),
        (float("nan"), float),
        ("3", int | None),
    ],
)
def test_refused(value: object, expected: object) -> None:
    assert check_value(value, expected) is not None


def test_a_misspelt_literal_gets_a_suggestion() -> None:
    assert "did you mean 'stretch'" in str(check_value("strech", Literal["pad", "stretch"]))


def test_unknown_key_names_its_path_and_the_nearest() -> None:
    with pytest.raises(UserError, match=r"optimizer\.lrr: no such key; did you mean 'lr'"):
        check_node({"_target_": "torch.optim.Adam", "_partial_": True, "lrr": 1.0}, "optimizer")


def test_missing_argument_is_named() -> None:
    with pytest.raises(UserError, match=r"optimizer\.params: missing"):
        check_node({"_target_": "torch.optim.Adam", "lr": 1.0}, "optimizer")


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "subprocess.run", 3, "Adam"])
def test_only_allowed_targets(target: object) -> None:
    with pytest.raises(UserError, match="_target_"):
        resolve_target(target, "optimizer")


def test_misspelt_target() -> None:
    with pytest.raises(UserError, match="did you mean 'Adam'"):
        resolve_target("torch.optim.Adamm", "optimizer")
