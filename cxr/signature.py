"""Hold a configuration node against the signature of the thing it builds.

A constructor's signature is the schema of its YAML: names, annotations, which are required.
Nothing here builds anything or touches data.

pydantic and typeguard check Python values; a YAML scalar is not one yet (a list stands for a
tuple, a string for a Path, a mapping with `_target_` for an object), and their coercions
("3" is an int) are the mistakes we want to refuse. Hence our own few lines.
"""

from __future__ import annotations

import collections.abc
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from cxr.errors import UserError, did_you_mean
from cxr.target import resolve_target

__all__ = ["BUILD_KEYS", "check_node", "check_value"]

BUILD_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_"}
_SEQUENCES = {
    list,
    set,
    frozenset,
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Collection,
}


def check_node(node: Mapping[str, Any], path: str, extra_keys: frozenset[str] = frozenset()) -> None:
    """Refuse a key of `node` that its target does not take, a value of another type, a missing argument.

    `extra_keys` are allowed beside the target's parameters (config groups at the root).
    """
    target = resolve_target(node["_target_"], path or "config")
    parameters = {
        name: p for name, p in inspect.signature(target).parameters.items() if p.kind is not p.VAR_KEYWORD
    }
    hints = _hints(target)
    for key, value in node.items():
        if key in BUILD_KEYS or (key in extra_keys and key not in parameters):
            continue
        where = f"{path}.{key}" if path else key
        if key not in parameters:
            raise UserError(f"{where}: no such key{did_you_mean(key, set(parameters) | extra_keys)}")
        if problem := check_value(value, hints.get(key, Any)):
            raise UserError(f"{where}: {problem}; set {where}=…")
    if not node.get("_partial_", False):
        for name, parameter in parameters.items():
            if (
                parameter.default is parameter.empty
                and name not in node
                and parameter.kind is not parameter.VAR_POSITIONAL
            ):
                where = f"{path}.{name}" if path else name
                raise UserError(f"{where}: missing, and {node['_target_']} needs it; set +{where}=…")


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Return parameter annotations as types; those that cannot be evaluated are left out."""
    function = target.__init__ if inspect.isclass(target) else target
    raw = getattr(function, "__annotations__", {})
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    hints: dict[str, Any] = {}
    for name, annotation in raw.items():
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, scope)  # an annotation in our own or a library's source
            except Exception:  # names imported for type checkers only: such a parameter stays unchecked
                continue
        hints[name] = annotation
    return hints


def check_value(value: object, expected: Any) -> str | None:
    """Return what is wrong with a YAML `value` for an annotation, or None when it fits."""
    if _fits(value, expected):
        return None
    got = f"got {value!r}" if not isinstance(value, dict) else "got a mapping"
    literals = _literals(expected)
    if literals and isinstance(value, str):
        hint = did_you_mean(value, literals)
        return f"{got}, expected {_describe(expected)}{hint if 'did you mean' in hint else ''}"
    kind = "not a number" if value != value else type(value).__name__
    return f"{got} ({kind}), expected {_describe(expected)}"


def _fits(value: object, expected: Any) -> bool:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any or expected is object or isinstance(expected, (str, typing.TypeVar)):
        return True
    if expected is None or expected is type(None):
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is typing.Annotated:
        return _fits(value, arguments[0])
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in arguments)
    if isinstance(value, dict) and "_target_" in value:
        return _node_fits(value, expected)
    if expected in (bool, str):
        return isinstance(value, expected)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if expected is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    if expected is Path or origin is type(Path):
        return isinstance(value, str)
    kind = origin or expected
    if kind is tuple:
        return _tuple_fits(value, arguments)
    if kind in _SEQUENCES:
        return isinstance(value, list) and all(_fits(v, arguments[0]) for v in value if arguments)
    if kind in (dict, collections.abc.Mapping):
        return isinstance(value, dict) and all(
            _fits(k, arguments[0]) and _fits(v, arguments[1]) for k, v in value.items() if arguments
        )
    # Where an object is wanted, only a node with `_target_` can build one.
    return not (inspect.isclass(kind) or kind is collections.abc.Callable)


def _tuple_fits(value: object, arguments: tuple[Any, ...]) -> bool:
    if not isinstance(value, list):
        return False
    if not arguments:
        return True
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return all(_fits(v, arguments[0]) for v in value)
    return len(value) == len(arguments) and all(_fits(v, a) for v, a in zip(value, arguments, strict=True))


def _node_fits(node: Mapping[str, Any], expected: Any) -> bool:
    """Say whether what a node builds can be an `expected`; a function's product is taken on trust."""
    kind = typing.get_origin(expected) or expected
    if kind in (bool, int, float, str, Path, list, tuple, dict):
        return False
    if kind is collections.abc.Callable or node.get("_partial_", False):
        return True
    built = resolve_target(node["_target_"], "node")
    if inspect.isclass(built) and inspect.isclass(kind) and not getattr(kind, "_is_protocol", False):
        return issubclass(built, kind)
    return True


def _literals(expected: Any) -> list[str]:
    if typing.get_origin(expected) is Literal:
        return [str(option) for option in typing.get_args(expected)]
    return [text for option in typing.get_args(expected) for text in _literals(option)]


def _describe(expected: Any) -> str:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected is None or expected is type(None):
        return "null"
    if origin in (typing.Union, types.UnionType):
        names = list(dict.fromkeys(_describe(option) for option in arguments))
        # torch takes a Tensor for a float; YAML has none
        return " or ".join([name for name in names if name != "Tensor"] or names)
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in arguments)
    if origin is not None:
        inner = ", ".join("…" if a is Ellipsis else _describe(a) for a in arguments)
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    return getattr(expected, "__name__", str(expected))
