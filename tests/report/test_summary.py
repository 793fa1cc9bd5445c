"""The opening sentences say what the intervals say, no more: sign, size, and what the control did."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cxr.metric.bootstrap import Estimate
from cxr.report.difference import Difference
from cxr.report.mark import NO_PATIENTS, RANDOM, Mark
from cxr.report.spec import generic_spec
from cxr.report.summary import summary


def made(
    value: float | None, low: float | None, high: float | None, *, arm: str = "synthetic",
    reference: str = "real_only", metric: str = "accuracy", seeds: bool = False, marks: tuple[Mark, ...] = (),
    published: float | None = None,
) -> Difference:  # fmt: skip
    both = (low, high) if seeds else (None, None)
    ours = Estimate(value, low, high, *both, (), 1171, 685, 3, 0)
    return Difference("cnn", "Custom CNN", arm, reference, metric, ours, (3, 3), published, False, marks)


def test_effect_control_and_what_they_rest_on() -> None:
    told = summary(
        generic_spec("x"),
        [
            made(0.004, -0.003, 0.011, seeds=True, published=0.0206),
            made(0.005, -0.001, 0.012, arm="duplicate_real", seeds=True),
            made(-0.001, -0.008, 0.006, reference="duplicate_real", seeds=True),
        ],
        3,
    )
    assert told == [
        (
            "Synthetic images changed test accuracy by +0.40 points (95 % interval −0.30 … +1.10). That is no detectable "
            "change: the interval includes zero. The paper prints +2.06 points."
        ),
        (
            "Repeating real images instead changed test accuracy by +0.50 points (95 % interval −0.10 … +1.20). That is "
            "no detectable change: the interval includes zero."
        ),
        (
            "Synthetic images and as many repeated real ones cannot be told apart (−0.10 points, 95 % interval −0.80 … "
            "+0.60)."
        ),
        (
            "Custom CNN; paired on the same 1,171 test images of 685 patients; intervals over patients and seeds; seeds "
            "per arm: 3."
        ),
    ]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.001, 0.02, "excludes zero"),
        (-0.02, -0.001, "excludes zero"),
        (-0.01, 0.01, "no detectable change"),
        (0.0, 0.01, "no detectable change"),
    ],
)
def test_the_sign_is_said_only_where_it_is_known(low: float, high: float, said: str) -> None:
    effect, _ = summary(generic_spec("x"), [made((low + high) / 2, low, high)], 2)
    assert said in effect
    assert ("no detectable" in effect) == (low <= 0 <= high)


@pytest.mark.parametrize(
    ("value", "low", "high", "said"), [(0.02, 0.01, 0.03, "did better"), (-0.02, -0.03, -0.01, "did worse")]
)
def test_against_the_control(value: float, low: float, high: float, said: str) -> None:
    against, _ = summary(generic_spec("x"), [made(value, low, high, reference="duplicate_real")], 2)
    assert f"Synthetic images {said} than as many repeated real ones" in against


def test_other_scores_and_what_is_not_known() -> None:
    unknown = (Mark(NO_PATIENTS, "told"),)
    effect, basis = summary(
        generic_spec("x"), [made(0.01, -0.1, 0.2, metric="auroc/Edema", marks=unknown)], 2
    )
    assert "changed AUROC Edema by +0.010 (95 % interval −0.100 … +0.200)" in effect
    assert "1,171 test images, patients unknown" in basis and "685" not in basis
    effect, _ = summary(generic_spec("x"), [made(None, None, None)], 2)
    assert "not defined by this test set" in effect
    effect, _ = summary(
        generic_spec("x"), [made(0.01, -0.1, 0.2, arm="mine", reference="real_only", metric="f1_macro")], 2
    )
    assert effect.startswith("Mine against real images only changed F1 by +0.010")
    assert "no two arms" in summary(generic_spec("x"), [], 1)[0]


@pytest.mark.parametrize("why", ["one class", "random weights"])
def test_a_failed_model_or_a_random_backbone_is_no_result(why: str) -> None:
    marks = (Mark(RANDOM, "never trained"),) if why == "random weights" else ()
    found = [
        made(0.29, 0.17, 0.40, marks=marks),
        made(0.3, 0.2, 0.4, reference="duplicate_real", marks=marks),
    ]
    if why == "one class":
        found = [replace(d, degenerate=True) for d in found]
    effect, control, _ = summary(generic_spec("x"), found, 3)
    assert "That is no result: " in effect and "is no result: " in control
    assert why.split()[-1] in effect and "clear" not in effect and "better" not in control


def test_arms_without_a_sentence_of_their_own_are_named() -> None:
    told = summary(generic_spec("x"), [made(0.1, 0.0, 0.2, reference="undersample")], 2)
    assert told[0].startswith(
        "With GAN images against balanced real images changed test accuracy by +10.00 points"
    )


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0.0002, 0.0044, "+0.0002 … +0.0044"),
        (-0.0044, -0.00002, "−0.00440 … −0.00002"),
        (-0.0002, 0.0044, "0.000 … +0.004"),
        (0.001, 0.004, "+0.001 … +0.004"),
    ],
)
def test_an_interval_that_excludes_zero_shows_no_zero(low: float, high: float, shown: str) -> None:
    (first, *_) = summary(
        generic_spec("x"), [made(0.002, low, high, metric="auroc/PNEUMONIA", seeds=True)], 3
    )
    assert f"(95 % interval {shown})" in first
