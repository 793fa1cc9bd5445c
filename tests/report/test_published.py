"""Every published cell, against the paper's own text."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr.errors import UserError
from cxr.report.published import load_published

NAMES = {
    "Custom CNN": "talukdar_cnn", "Inception V3": "inception_v3", "Resnet50": "resnet50",
    "EfficientNetB0": "efficientnet_b0", "VGG16": "vgg16",
    "DenseNet201": "densenet201", "Xception": "xception",
}  # fmt: skip
METRICS = [
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "train_accuracy",
    "accuracy",
    "train_loss",
    "wall_s",
]


@pytest.fixture
def text(repository: Path) -> str:
    path = repository.parent / "shared" / "papers" / load_published("talukdar").file
    if not path.is_file():
        pytest.skip(f"the paper's text is not here: {path.name}")
    return path.read_text(encoding="utf-8").replace("<b>", "").replace("</b>", "")


def test_tables_2_and_3_cell_by_cell(text: str) -> None:
    paper = load_published("talukdar")
    seen = 0
    for arm, source in (("real_only", "Table 2"), ("synthetic", "Table 3")):
        rows = text[text.rindex(f"{source}.") :].split("\n\n")[1].splitlines()[1:]
        assert [NAMES[row.split("\t")[0]] for row in rows] == list(paper.models)
        for row in rows:
            name, *cells = row.split("\t")
            for metric, cell in zip(METRICS, cells, strict=True):
                value = paper.find(NAMES[name], arm, metric)
                assert value is not None
                assert (value.printed, value.source) == (float(cell), source)
                seen += 1
    assert seen == len(paper.values) == 98


def test_correct_counts_and_facts_stand_in_the_text(text: str) -> None:
    paper = load_published("talukdar")
    for arm in paper.correct.values():
        for counts in arm.values():
            for n in counts:
                assert n is None or f" {n} " in text
    for fact in paper.facts.values():
        shown = str(fact["value"])
        assert shown in text or f"{fact['value']:,}" in text, fact


def test_the_test_sets_totals_follow_from_counts_and_accuracies() -> None:
    """1,172 and 1,254 images, each the only total that gives every printed accuracy of its table."""
    paper = load_published("talukdar")
    for arm, n in paper.n_test.items():
        fits = []
        for total in range(1000, 1400):
            accuracies = [
                (
                    round(100 * sum(c or 0 for c in counts) / total, 2),
                    paper.values[model, arm, "accuracy"].printed,
                )
                for model, counts in paper.correct[arm].items()
            ]
            if all(abs(got - printed) < 0.006 for got, printed in accuracies):
                fits.append(total)
        assert fits == [n]


def test_units_and_unknown_papers() -> None:
    value = load_published("talukdar").find("talukdar_cnn", "synthetic", "accuracy")
    assert value is not None and value.value == pytest.approx(0.9609)
    assert load_published("talukdar").find("talukdar_cnn", "duplicate_real", "accuracy") is None
    with pytest.raises(UserError, match="did you mean 'talukdar'"):
        load_published("taludkar")
