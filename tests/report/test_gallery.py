"""Heat maps and the figure of all labels: in the page, n/a where undefined, never of another network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr.files import write_json
from cxr.metric.classification import auprc, auroc, roc_points
from cxr.report.build import build_report
from cxr.report.figure_labels import label_figures
from cxr.report.gallery import gallery
from cxr.report.runs import group_runs, load_run
from cxr.report.save import figure_svg

LABELS = ["Mass", "Nodule", "Hernia"]  # no test image has the last


def with_maps(run: Path, sha256: str = "ab" * 32) -> Path:
    """Leave heat maps in a run folder, as evaluation would."""
    folder = run / "figures" / "gradcam"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "01.png"), np.zeros((4, 4), np.uint8))
    one = {
        "file": "01.png",
        "image_id": "i<7>.png",
        "true": ["Mass"],
        "labels": ["Mass"],
        "probabilities": [0.5],
    }
    listing = {"checkpoint": {"file": "checkpoints/best.ckpt", "sha256": sha256}, "images": [one]}
    write_json(folder / "gradcam.json", {**listing, "method": "Grad-CAM", "layer": "Backbone.maps"})
    return run


@pytest.fixture
def make(make_run: Callable[..., Path]) -> Callable[..., Path]:
    def multi_label(root: Path, name: str, **facts: object) -> Path:
        return make_run(root, name, classes=LABELS, multi_label=True, paper=None, **facts)

    return multi_label


def test_a_multi_label_report_has_both(tmp_path: Path, make: Callable[..., Path]) -> None:
    run = with_maps(make(tmp_path, "a", model="densenet121"))
    page = build_report([run, make(tmp_path, "b", model="densenet121", seed=1)], [], tmp_path / "out", "some")
    assert (tmp_path / "out" / "figures" / "roc-densenet121-real_only-all-labels.svg").is_file()
    text = page.read_text()
    assert "Where the models look" in text
    assert "i&lt;7&gt;.png; labels: Mass." in text
    assert "layer Backbone.maps" in text


def test_the_figure_has_every_label(tmp_path: Path, make: Callable[..., Path]) -> None:
    [arm] = group_runs([load_run(make(tmp_path, "a", model="m"))])
    [(file, figure, told)] = label_figures([arm], "M")
    drawn = figure_svg(figure)
    assert (file, "M, real images only" in told) == ("roc-m-real_only-all-labels", True)
    assert drawn.count(b"line2d") >= len(LABELS)
    assert b"NaN" not in drawn
    assert b"nan" not in drawn


def test_no_figure_for_one_label_per_image_and_no_gallery_without_maps(
    tmp_path: Path, make_run: Callable[..., Path]
) -> None:
    run = load_run(make_run(tmp_path, "a"))
    assert list(label_figures(group_runs([run]), "M")) == []
    assert gallery([run]) == ""


def test_maps_of_another_checkpoint_are_not_shown(tmp_path: Path, make: Callable[..., Path]) -> None:
    text = gallery([load_run(with_maps(make(tmp_path, "a"), sha256="cd" * 32))])
    assert "another checkpoint" in text
    assert "<img" not in text


@pytest.mark.parametrize("target", [[1, 0, 0, 0], [1, 1, 1, 0]])
def test_one_image_makes_no_ranking(target: list[int]) -> None:
    prob = [0.9, 0.3, 0.2, 0.1]
    assert auroc(target, prob) is auprc(target, prob) is roc_points(target, prob) is None
    assert auroc([*target, *target], [*prob, *prob]) is not None
