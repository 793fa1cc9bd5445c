"""Mixes: only the training part changes, by exactly what was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from cxr.data import mix
from cxr.errors import UserError

CLASSES = ["NORMAL", "PNEUMONIA"]


def one_hot(n_normal: int, n_pneumonia: int) -> np.ndarray:
    return np.array([[1, 0]] * n_normal + [[0, 1]] * n_pneumonia, np.float32)


REAL, SYNTHETIC = one_hot(10, 30), one_hot(25, 40)


def counts(mixture: mix.Mixture) -> dict[str, tuple[int, int, int]]:
    table = mix.composition(mixture, REAL, SYNTHETIC, classes=CLASSES)
    return {name: (row["real"], row["synthetic"], row["duplicated"]) for name, row in table.items()}


@pytest.mark.parametrize(
    ("mixture", "normal", "pneumonia"),
    [
        (mix.real_only(REAL, SYNTHETIC, classes=CLASSES, limit=None, seed=0), (10, 0, 0), (30, 0, 0)),
        (
            mix.real_only(REAL, None, classes=CLASSES, limit={"PNEUMONIA": 8, "NORMAL": 99}, seed=0),
            (10, 0, 0),
            (8, 0, 0),
        ),
        (
            mix.add(REAL, SYNTHETIC, classes=CLASSES, counts={"NORMAL": 7, "PNEUMONIA": 40}, seed=0),
            (10, 7, 0),
            (30, 40, 0),
        ),
        (mix.add(REAL, SYNTHETIC, classes=CLASSES, counts={"NORMAL": 7}, seed=0), (10, 7, 0), (30, 0, 0)),
        (mix.top_up(REAL, SYNTHETIC, classes=CLASSES, to="max", seed=0), (10, 20, 0), (30, 0, 0)),
        (mix.top_up(REAL, SYNTHETIC, classes=CLASSES, to=33, seed=0), (10, 23, 0), (30, 3, 0)),
        (
            mix.top_up(one_hot(10, 12), SYNTHETIC, classes=CLASSES, to="twice_max", seed=0),
            (10, 14, 0),
            (12, 12, 0),
        ),
        (
            mix.ratio(REAL, SYNTHETIC, classes=CLASSES, synthetic_per_real=0.5, seed=0),
            (10, 5, 0),
            (30, 15, 0),
        ),
        (mix.undersample(REAL, SYNTHETIC, classes=CLASSES, seed=0), (10, 0, 0), (10, 0, 0)),
        (
            mix.synthetic_only(REAL, SYNTHETIC, classes=CLASSES, amount="match", seed=0),
            (0, 10, 0),
            (0, 30, 0),
        ),
        (mix.synthetic_only(REAL, SYNTHETIC, classes=CLASSES, amount="all", seed=0), (0, 25, 0), (0, 40, 0)),
        (
            mix.duplicate_real(
                REAL, None, classes=CLASSES, counts={"NORMAL": 25, "PNEUMONIA": 4}, to=None, seed=0
            ),
            (10, 0, 25),
            (30, 0, 4),
        ),
        (
            mix.duplicate_real(REAL, None, classes=CLASSES, counts=None, to="twice_max", seed=0),
            (10, 0, 50),
            (30, 0, 30),
        ),
    ],
)
def test_what_each_mix_trains_on(
    mixture: mix.Mixture, normal: tuple[int, int, int], pneumonia: tuple[int, int, int]
) -> None:
    assert counts(mixture) == {"NORMAL": normal, "PNEUMONIA": pneumonia}
    assert mixture.real.dtype == mixture.synthetic.dtype == np.int64
    assert len(set(mixture.synthetic.tolist())) == len(mixture.synthetic), "no synthetic image twice"


def test_repeats_are_spread_evenly() -> None:
    mixture = mix.duplicate_real(REAL, None, classes=CLASSES, counts={"NORMAL": 25}, to=None, seed=0)
    times = np.bincount(mixture.real, minlength=40)
    assert sorted(times[:10]) == [3] * 5 + [4] * 5 and (times[10:] == 1).all()


def test_the_control_adds_as_many_as_the_arm_it_controls() -> None:
    wanted = {"NORMAL": 20, "PNEUMONIA": 15}
    arm = mix.add(REAL, SYNTHETIC, classes=CLASSES, counts=wanted, seed=3)
    control = mix.duplicate_real(REAL, SYNTHETIC, classes=CLASSES, counts=wanted, to=None, seed=3)
    assert len(control.real) == len(arm.real) + len(arm.synthetic) and not len(control.synthetic)


def test_a_limit_leaves_the_same_images_out_of_every_mix() -> None:
    limit = {"PNEUMONIA": 8}
    kept = mix.real_only(REAL, None, classes=CLASSES, limit=limit, seed=2).real.tolist()
    added = mix.add(REAL, SYNTHETIC, classes=CLASSES, counts={"NORMAL": 3}, limit=limit, seed=2)
    assert added.real.tolist() == kept and counts(added) == {"NORMAL": (10, 3, 0), "PNEUMONIA": (8, 0, 0)}
    repeated = mix.duplicate_real(REAL, None, classes=CLASSES, counts=None, to=20, limit=limit, seed=2)
    assert set(repeated.real.tolist()) == set(kept)
    assert counts(repeated) == {"NORMAL": (10, 0, 10), "PNEUMONIA": (8, 0, 12)}


def test_same_seed_same_choice() -> None:
    def draw(seed: int) -> list[int]:
        return mix.add(
            REAL, SYNTHETIC, classes=CLASSES, counts={"PNEUMONIA": 9}, seed=seed
        ).synthetic.tolist()

    assert draw(0) == draw(0) != draw(1)

    def keep(seed: int) -> list[int]:
        return mix.real_only(REAL, None, classes=CLASSES, limit={"PNEUMONIA": 9}, seed=seed).real.tolist()

    assert keep(0) == keep(0) != keep(1)
    assert keep(0)[:10] == list(range(10)) and keep(0) == sorted(set(keep(0)))


def test_too_few_synthetic_images_say_how_many_to_make() -> None:
    with pytest.raises(UserError, match=r"wants 26 synthetic images of NORMAL, 25 are there.*n=26"):
        mix.add(REAL, SYNTHETIC, classes=CLASSES, counts={"NORMAL": 26}, seed=0)
    with pytest.raises(UserError, match="0 are there"):
        mix.top_up(REAL, None, classes=CLASSES, to="max", seed=0)
    with pytest.raises(UserError, match="synthetic="):
        mix.synthetic_only(REAL, None, classes=CLASSES, amount="all", seed=0)


def test_wrong_counts_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'PNEUMONIA'"):
        mix.add(REAL, SYNTHETIC, classes=CLASSES, counts={"PNEUMONA": 1}, seed=0)
    with pytest.raises(UserError, match=r"mix\.counts is empty.*NORMAL:100"):
        mix.duplicate_real(REAL, SYNTHETIC, classes=CLASSES, counts=None, to=None, seed=0)
    with pytest.raises(UserError, match="expected 0 or more"):
        mix.add(REAL, SYNTHETIC, classes=CLASSES, counts={"NORMAL": -1}, seed=0)
    with pytest.raises(UserError, match="no training image of class NORMAL"):
        mix.duplicate_real(REAL[10:], None, classes=CLASSES, counts={"NORMAL": 5}, to=None, seed=0)
    with pytest.raises(UserError, match=r"mix\.counts or mix\.to, not both"):
        mix.duplicate_real(REAL, None, classes=CLASSES, counts={"NORMAL": 5}, to="max", seed=0)
    with pytest.raises(UserError, match=r"mix\.limit names the class.*did you mean 'NORMAL'"):
        mix.real_only(REAL, None, classes=CLASSES, limit={"NORML": 5}, seed=0)
    with pytest.raises(UserError, match=r"mix\.limit needs exactly one class per image"):
        mix.real_only(np.ones((3, 2), np.float32), None, classes=CLASSES, limit={"NORMAL": 1}, seed=0)
    with pytest.raises(UserError, match="exactly one class per image"):
        mix.undersample(np.ones((3, 2), np.float32), None, classes=CLASSES, seed=0)


def test_training_rows_point_into_the_cache_and_count_synthetic_images_down() -> None:
    train = np.array([5, 8, 9])
    mixture = mix.Mixture(np.array([0, 0, 2]), np.array([0, 4]))
    assert mix.training_rows(train, mixture).tolist() == [5, 5, 9, -1, -5]
