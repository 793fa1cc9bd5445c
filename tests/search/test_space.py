"""The space of a search, as typed."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from cxr.errors import UserError
from cxr.search.space import Parameter, Space, parse_space, rounded


def space(*typed: str) -> Space:
    return parse_space(OverridesParser.create().parse_overrides(list(typed)))


# What is typed, and what it means: kind, low, high, step, log, values.
NUMBERS = [
    ("lr=interval(0.1,2)", ("float", 0.1, 2.0, None, False), None),
    ("lr=tag(log, interval(1e-5,1e-2))", ("float", 1e-5, 1e-2, None, True), None),
    ("n=int(interval(8,64))", ("int", 8, 64, 1, False), 57),
    ("n=tag(int, interval(1.5,4.5))", ("int", 2, 4, 1, False), 3),
    ("n=tag(int, log, interval(8,256))", ("int", 8, 256, 1, True), 249),
    ("n=range(1,9)", ("int", 1, 8, 1, False), 8),  # Hydra's: without its end
    ("n=range(16,65,16)", ("int", 16, 64, 16, False), 4),
    ("n=range(9,1,-2)", ("int", 3, 9, 2, False), 4),
    ("n=tag(log, range(1,9))", ("int", 1, 8, 1, True), 8),
    ("p=range(0,1,0.25)", ("float", 0.0, 0.75, 0.25, False), 4),
]


@pytest.mark.parametrize(("typed", "expected", "size"), NUMBERS, ids=[case[0] for case in NUMBERS])
def test_a_number(typed: str, expected: tuple[object, ...], size: int | None) -> None:
    (found,) = space(typed).parameters
    assert (found.kind, found.low, found.high, found.step, found.log) == expected
    assert space(typed).size == size


@pytest.mark.parametrize(
    ("typed", "choices"),
    [
        ("classifier=a,b", ("a", "b")),
        ("classifier=choice(a,b,a)", ("a", "b")),
        ("x=null,[1,2],'b c',true", ("null", "[1,2]", "'b c'", "True")),  # each can be typed again
    ],
)
def test_a_choice(typed: str, choices: tuple[str, ...]) -> None:
    (found,) = space(typed).parameters
    assert (found.kind, found.choices) == ("choice", choices)


def test_a_point_is_typed_in_order_beside_what_is_fixed() -> None:
    found = space("seed=0", "p=range(0,1,0.1)", "+a/b@c=d,e", "~loss", "n=range(1,3)")
    assert found.overrides({"p": 0.30000000000000004, "+a/b@c": "e", "n": 2}) == [
        "seed=0",
        "p=0.3",
        "+a/b@c=e",
        "~loss",
        "n=2",
    ]
    assert found.probes() == [
        ["seed=0", "p=0.0", "+a/b@c=d", "~loss", "n=1"],
        ["seed=0", "p=0.9", "+a/b@c=d", "~loss", "n=1"],
        ["seed=0", "p=0.0", "+a/b@c=e", "~loss", "n=1"],
        ["seed=0", "p=0.0", "+a/b@c=d", "~loss", "n=2"],
    ]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("seed=0", "nothing to search"),
        ("lr=tag(lg, interval(1,2))", "unknown tag 'lg'; did you mean 'log'?"),
        ("lr=tag(log, interval(0,2))", "got 0 as the low end of a logarithmic scale"),
        ("lr=interval(2,1)", "got an empty interval"),
        ("n=int(interval(1.2,1.8))", "got an empty interval"),
        ("n=range(3,3)", "got an empty range"),
        ("n=tag(log, range(1,9,2))", "a logarithmic range has steps of 1"),
        ("n=tag(int, range(0,1,0.5))", "the tag int, and a step that is no integer"),
        ("n=tag(log, choice(1,2))", "a choice takes no tag"),
    ],
)
def test_what_cannot_be_searched_is_said(typed: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        space(typed)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.000123456, 0.0001235), (0.99996, 1.0), (1.00004, 1.0), (0.10001, 0.1001)]
)
def test_numbers_are_short_and_within_the_ends(value: float, shown: float) -> None:
    assert rounded(value, 0.1001 if value > 0.1 else 0.0, 1.0) == shown


def test_all_that_can_be_drawn_is_counted() -> None:
    assert space("n=range(1,4)", "x=a,b").size == 6
    assert space("n=range(1,4)", "x=interval(0,1)").size is None
    assert Parameter("n", "int", (), 1, 3, 1).values() == ("1", "2", "3")
