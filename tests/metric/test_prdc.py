"""Precision, recall, density, coverage: by hand, against scikit-learn's neighbours and torch-fidelity, at the edges."""

from __future__ import annotations

import cxr  # noqa: F401  # first: it lets torchvision, and so torch-fidelity, be imported

# isort: split
import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from cxr.errors import UserError
from cxr.metric import near_pairs, prdc
from cxr.metric.prdc import Neighbours, neighbours, neighbours_of_halves


def scored(x: np.ndarray, y: np.ndarray, k_precision: int = 3, k_density: int = 5) -> Neighbours:
    return neighbours(x, y, k_precision=k_precision, k_density=k_density)


def means(one: Neighbours) -> list[float]:
    return [float(v.mean()) for v in (one.precision, one.recall, one.density, one.coverage)]


def test_by_hand() -> None:
    # on a line, k = 1: real 0, 1, 3, 10 have balls of radius 1, 1, 2, 7; synthetic 2, 20 have 18, 18
    x, y = np.array([[0.0], [1.0], [3.0], [10.0]]), np.array([[2.0], [20.0]])
    one = scored(x, y, 1, 1)
    np.testing.assert_array_equal(
        one.precision, [1, 0]
    )  # 2 is in the ball of 1 (its edge); 20 in none: |20 - 10| > 7
    np.testing.assert_array_equal(one.recall, [1, 1, 1, 1])  # |x - 2| <= 18
    np.testing.assert_array_equal(one.density, [2, 0])  # 2 is in the balls of 1 and 3, not of 10: 8 > 7
    np.testing.assert_array_equal(one.coverage, [0, 1, 1, 0])


def test_agrees_with_scikit_learn_and_torch_fidelity() -> None:
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), rng.normal(0.7, 0.8, size=(45, 4))
    radii = {}
    for name, images in (("x", x), ("y", y)):
        found, _ = NearestNeighbors(n_neighbors=6).fit(images).kneighbors(images)  # itself first
        radii[name] = found
    in_x3, in_x5 = (  # for each real image, which synthetic ones are in its ball
        [NearestNeighbors(radius=r).fit(y).radius_neighbors([p], return_distance=False)[0] for p, r in
         zip(x, radii["x"][:, k], strict=True)] for k in (3, 5)
    )  # fmt: skip
    in_y3 = [
        NearestNeighbors(radius=r).fit(x).radius_neighbors([p], return_distance=False)[0]
        for p, r in zip(y, radii["y"][:, 3], strict=True)
    ]
    expected = [
        len(np.unique(np.concatenate(in_x3))) / 45,
        len(np.unique(np.concatenate(in_y3))) / 60,
        sum(map(len, in_x5)) / (5 * 45),
        sum(len(one) > 0 for one in in_x5) / 60,
    ]
    ours = means(scored(x, y))
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    assert 0 < ours[1] < ours[0] <= 1  # narrower and moved: more of it is real than of the real is in it
    theirs = calculate_precision_recall_full(torch.from_numpy(y), torch.from_numpy(x), neighborhood=3)
    np.testing.assert_allclose(ours[:2], theirs, rtol=1e-6)


def test_edges() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20, 3))
    assert means(scored(x, x))[:2] == [1.0, 1.0] and means(scored(x, x))[3] == 1.0
    assert means(scored(x, x))[2] == pytest.approx(6 / 5)  # five neighbours and itself
    assert means(scored(x, x + 1e3)) == [0.0, 0.0, 0.0, 0.0]
    same = np.ones((8, 3))
    assert means(scored(same, same)) == [1.0, 1.0, 8 / 5, 1.0]  # constant images: balls of radius 0, finite
    collapsed = scored(x, x[:1].repeat(20, axis=0))
    assert means(collapsed)[0] == 1.0 and means(collapsed)[1] == 1 / 20  # real, and one image
    with pytest.raises(UserError, match="a set has 5 images, expected more than k = 5; set k_precision"):
        scored(x, x[:5])
    with pytest.raises(UserError, match="expected at least 1; set k_precision=3"):
        scored(x, x, 0, 5)


def by_definition(x: np.ndarray, y: np.ndarray, k_precision: int, k_density: int) -> Neighbours:
    """The formulas, on whole matrices of differences."""
    within_x, within_y, across = (
        np.linalg.norm(a[:, None].astype(np.float64) - b, axis=2) for a, b in ((x, x), (y, y), (x, y))
    )
    radii = [
        np.sort(d, axis=1)[:, k]
        for d, k in ((within_x, k_precision), (within_x, k_density), (within_y, k_precision))
    ]
    near = across <= radii[1][:, None]
    return Neighbours(
        precision=(across <= radii[0][:, None]).any(axis=0).astype(float),
        recall=(across <= radii[2]).any(axis=1).astype(float),
        density=near.sum(axis=0) / k_density,
        coverage=near.any(axis=1).astype(float),
    )


def sets(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x, y = rng.normal(size=(90, 6)), rng.normal(0.3, 0.9, size=(70, 6))
    return {
        "apart": (x, y),
        "ties": (rng.integers(0, 3, (90, 2)).astype(float), rng.integers(0, 3, (70, 2)).astype(float)),
        "copies": (np.repeat(x[:30], 3, axis=0), np.concatenate([y, x[:20]])),
        "far from 0": (1e6 + x, 1e6 + y),
        "collapsed": (x, np.repeat(y[:1], 70, axis=0)),
        "nearly collapsed": (x, y[:1] + 1e-9 * y),
        "constant": (np.ones((90, 6)), np.ones((70, 6))),
        "one outlier": (np.concatenate([x, [[1e4] * 6]]), y),
    }[kind]


@pytest.mark.parametrize("most", [6, 256])
@pytest.mark.parametrize(
    "kind",
    ["apart", "ties", "copies", "far from 0", "collapsed", "nearly collapsed", "constant", "one outlier"],
)
def test_is_the_definition_where_distances_are_equal_or_nearly_so(
    kind: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prdc, "_MOST", most)  # 6: halves find too few neighbours listed
    rng = np.random.default_rng(4)
    x, y = (v.astype(np.float32) for v in sets(kind, rng))
    halves = [
        (order[:40], order[40:80], rng.choice(70, 40, replace=False)) for order in (rng.permutation(90),)
    ]
    whole, null, same_n = neighbours_of_halves(x, y, halves, k_precision=3, k_density=5)
    a, b, c = halves[0]
    expected = [by_definition(*pair, 3, 5) for pair in ((x, y), (x[a], x[b]), (x[a], y[c]))]
    for one, other in zip((whole, null[0], same_n[0]), expected, strict=True):
        for name in ("precision", "recall", "density", "coverage"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_blocks_and_halves_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(41, 4)).astype(np.float32), rng.normal(0.3, 1, size=(57, 4)).astype(np.float32)
    halves = []
    for _ in range(3):
        order = rng.permutation(41)
        halves.append((np.sort(order[:20]), order[20:36], rng.choice(57, 16, replace=False)))
    monkeypatch.setattr(near_pairs, "_ENTRIES", 300)  # 5 to 7 rows
    whole, null, same_n = neighbours_of_halves(x, y, halves, k_precision=3, k_density=5)
    monkeypatch.undo()
    expected = [
        scored(x, y),
        *(scored(x[a], x[b]) for a, b, _ in halves),
        *(scored(x[a], y[c]) for a, _, c in halves),
    ]
    for one, other in zip([whole, *null, *same_n], expected, strict=True):
        for name in ("precision", "recall", "density", "coverage"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    with pytest.raises(UserError, match="a set has 5 images"):
        neighbours_of_halves(
            x, y, [(halves[0][0], halves[0][1][:5], halves[0][2])], k_precision=3, k_density=5
        )


def test_few_pairs_are_asked_for_by_their_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(300, 64)), rng.normal(0.1, 1, size=(900, 64))
    halves = [
        (order[:150], order[150:], np.sort(rng.choice(900, 150, replace=False)))  # a sixth: few are listed
        for order in (rng.permutation(300) for _ in range(20))
    ]
    asked, original = 0, near_pairs.exact

    def counting(a: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += len(rows)
        return original(a, b, rows, columns)

    for module in (near_pairs, prdc):
        monkeypatch.setattr(module, "exact", counting)
    neighbours_of_halves(x, y, halves, k_precision=3, k_density=5)
    listed = 2.5 * 6
    of_all = listed * (2 * 300 + 6 * 900)  # a half holds every second of them, or every sixth
    assert of_all <= asked < 1.2 * of_all
