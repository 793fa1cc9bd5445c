"""Mixes of any labels: the counts that were asked for, right labels, no image from elsewhere, the same for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cxr.data import mix
from cxr.data.mix import Mixture, composition, training_rows
from cxr.errors import UserError

FAST = settings(
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much],
)
CLASSES = ["a", "b", "c"]
Labels = npt.NDArray[np.float32]


def one_hot(positions: list[int]) -> Labels:
    return np.eye(3, dtype=np.float32)[np.array(positions, dtype=np.int64)].reshape(-1, 3)


ONE = st.lists(st.integers(0, 2), min_size=1, max_size=20).map(one_hot)
MADE = st.lists(st.integers(0, 2), min_size=30, max_size=60).map(one_hot)
COUNTS = st.dictionaries(st.sampled_from(CLASSES), st.integers(0, 6), min_size=1)
LIMIT = st.none() | COUNTS
SEED = st.integers(0, 2**31)


def run(name: str, real: Labels, made: Labels, **options: Any) -> tuple[Mixture, dict[str, dict[str, int]]]:
    """Mix twice, hold what every mix promises, and return the mixture and its counts; a refusal is one line."""
    make = getattr(mix, name)
    try:
        mixture = make(real.copy(), made.copy(), classes=CLASSES, **options)
    except UserError as error:
        assert str(error).strip() and "\n" not in str(error)
        assume(False)
        raise
    again = make(real.copy(), made.copy(), classes=CLASSES, **options)
    assert np.array_equal(mixture.real, again.real) and np.array_equal(mixture.synthetic, again.synthetic)
    for rows, n in ((mixture.real, len(real)), (mixture.synthetic, len(made))):
        assert rows.dtype == np.int64 and ((rows >= 0) & (rows < n)).all()
    assert len(np.unique(mixture.synthetic)) == len(mixture.synthetic), "a synthetic image comes twice"
    # The training part is every third row of a data set: nothing else of it may come in.
    train = np.arange(len(real), dtype=np.int64) * 3 + 1
    rows = training_rows(train, mixture)
    assert set(rows[rows >= 0]) <= set(train) and len(rows) == len(mixture.real) + len(mixture.synthetic)
    assert sorted(-1 - rows[rows < 0]) == sorted(mixture.synthetic)
    counted = composition(mixture, real, made, classes=CLASSES)
    labels = np.concatenate([real[mixture.real], made[mixture.synthetic]])
    for k, c in enumerate(CLASSES):
        assert sum(counted[c].values()) == int((labels[:, k] == 1).sum())
    return mixture, counted


def kept(real: Labels, limit: dict[str, int] | None) -> dict[str, int]:
    return {c: min(int(real[:, k].sum()), (limit or {}).get(c, 10**9)) for k, c in enumerate(CLASSES)}


@FAST
@given(real=ONE, made=MADE, limit=LIMIT, seed=SEED)
def test_real_only(real: Labels, made: Labels, limit: dict[str, int] | None, seed: int) -> None:
    mixture, counted = run("real_only", real, made, limit=limit, seed=seed)
    assert {c: counted[c]["real"] for c in CLASSES} == kept(real, limit)
    assert not len(mixture.synthetic) and len(np.unique(mixture.real)) == len(mixture.real)


@FAST
@given(real=ONE, made=MADE, counts=COUNTS, limit=LIMIT, seed=SEED)
def test_add(
    real: Labels, made: Labels, counts: dict[str, int], limit: dict[str, int] | None, seed: int
) -> None:
    _, counted = run("add", real, made, counts=counts, limit=limit, seed=seed)
    expected = kept(real, limit)
    assert counted == {
        c: {"real": expected[c], "synthetic": counts.get(c, 0), "duplicated": 0} for c in CLASSES
    }


@FAST
@given(real=ONE, made=MADE, to=st.sampled_from(["max", "twice_max"]) | st.integers(0, 12), seed=SEED)
def test_top_up(real: Labels, made: Labels, to: Any, seed: int) -> None:
    _, counted = run("top_up", real, made, to=to, seed=seed)
    n = real.sum(axis=0).astype(int)
    goal = {"max": int(n.max()), "twice_max": 2 * int(n.max())}.get(to, to)
    for k, c in enumerate(CLASSES):
        assert counted[c] == {"real": n[k], "synthetic": max(0, goal - n[k]), "duplicated": 0}


@FAST
@given(real=ONE, made=MADE, share=st.floats(0, 3, allow_nan=False), seed=SEED)
def test_ratio(real: Labels, made: Labels, share: float, seed: int) -> None:
    _, counted = run("ratio", real, made, synthetic_per_real=share, seed=seed)
    for k, c in enumerate(CLASSES):
        assert abs(counted[c]["synthetic"] - share * real[:, k].sum()) <= 0.5 + 1e-9
        assert counted[c]["real"] == real[:, k].sum()


@FAST
@given(real=ONE, made=MADE, seed=SEED)
def test_undersample(real: Labels, made: Labels, seed: int) -> None:
    _, counted = run("undersample", real, made, seed=seed)
    fewest = int(real.sum(axis=0).min())
    assert counted == {c: {"real": fewest, "synthetic": 0, "duplicated": 0} for c in CLASSES}


@FAST
@given(real=ONE, made=MADE, amount=st.sampled_from(["match", "all"]), seed=SEED)
def test_synthetic_only(real: Labels, made: Labels, amount: str, seed: int) -> None:
    mixture, counted = run("synthetic_only", real, made, amount=amount, seed=seed)
    wanted = (real if amount == "match" else made).sum(axis=0)
    assert not len(mixture.real) and [counted[c]["synthetic"] for c in CLASSES] == wanted.tolist()


@FAST
@given(real=ONE, made=MADE, counts=COUNTS, limit=LIMIT, seed=SEED)
def test_duplicate_real_spreads_evenly(
    real: Labels, made: Labels, counts: dict[str, int], limit: dict[str, int] | None, seed: int
) -> None:
    mixture, counted = run("duplicate_real", real, made, counts=counts, to=None, limit=limit, seed=seed)
    expected = kept(real, limit)
    assert {c: counted[c]["real"] for c in CLASSES} == expected
    assert {c: counted[c]["duplicated"] for c in CLASSES} == {c: counts.get(c, 0) for c in CLASSES}
    times = np.bincount(mixture.real, minlength=len(real))
    for k in range(3):
        of_class = times[(real[:, k] == 1) & (times > 0)]
        assert not len(of_class) or of_class.max() - of_class.min() <= 1


@FAST
@given(
    data=st.data(),
    real=st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, float("nan")])] * 3), min_size=1, max_size=15),
    made=MADE,
    seed=SEED,
)
def test_several_or_unknown_labels(
    data: st.DataObject, real: list[tuple[float, ...]], made: Labels, seed: int
) -> None:
    labels = np.array(real, dtype=np.float32)
    name = data.draw(st.sampled_from(["add", "real_only", "duplicate_real", "undersample"]))
    counts = {"counts": data.draw(COUNTS)} if name in ("add", "duplicate_real") else {}
    limit = {} if name == "undersample" else {"limit": data.draw(LIMIT)}
    _, counted = run(
        name, labels, made, **counts, **limit, **({"to": None} if name == "duplicate_real" else {}), seed=seed
    )
    key = "synthetic" if name == "add" else "duplicated"
    for c, n in (counts.get("counts") or {}).items():
        assert counted[c][key] >= n if name == "duplicate_real" else counted[c][key] == n
