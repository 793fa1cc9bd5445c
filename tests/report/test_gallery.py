"""Heat maps and the figure of all labels: in the page, n/a where undefined, never of another network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxr.errors import UserError
from cxr.files import write_json, write_text
from cxr.metric.classification import auprc, auroc, roc_points
from cxr.metric.result import HEATMAPS
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
    assert re.search(r"id-[0-9a-f]{12}; labels: Mass\.", text) and "7&gt;.png" not in text
    assert "i&lt;7&gt;.png; labels: Mass." in gallery([load_run(run)], "plain")
    assert "layer Backbone.maps" in text


def test_a_listing_cannot_name_a_picture_elsewhere(tmp_path: Path, make: Callable[..., Path]) -> None:
    run = with_maps(make(tmp_path, "a", model="m"))
    cv2.imwrite(str(run / "01.png"), np.zeros((4, 4), np.uint8))
    listing = run / HEATMAPS
    for file in ("../../01.png", str(run / "01.png")):
        write_text(listing, re.sub(r'"file": "(?!check)[^"]*"', f'"file": "{file}"', listing.read_text()))
        with pytest.raises(UserError, match="expected a name"):
            gallery([load_run(run)])


def test_the_figure_has_every_label(tmp_path: Path, make: Callable[..., Path]) -> None:
    [arm] = group_runs([load_run(make(tmp_path, "a", model="m"))])
    [(file, figure, told)] = label_figures([arm], "M")
    assert figure is not None
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


def scored(n: int, above: tuple[float, float]) -> dict[str, Any]:
    """Return what evaluation leaves of localisation, with made-up numbers."""
    spread = {"value": 0.2, "low": above[0], "high": above[1], "n": n, "n_patients": n}
    score = {"value": 0.5, "low": 0.3, "high": 0.7, "n": n, "n_patients": n, "uniform": 0.1, "centre": 0.2,
             "other_image": None, "above_uniform": spread, "above_other_image": {**spread, "value": None}}  # fmt: skip
    whole = {"n_maps": n, "n_images": n, "n_patients": n, "n_empty": 1}
    names = ("pointing_tol3", "iou_at50", "energy_inside")
    return {**whole, "scores": dict.fromkeys(names, score)}


@pytest.mark.parametrize(
    ("above", "verdict"),
    [((0.1, 0.3), "more often than"), ((-0.1, 0.3), "do not point"), ((-0.3, -0.1), "less often than")],
)
def test_localisation_is_told_with_its_baselines(
    tmp_path: Path, make: Callable[..., Path], above: tuple[float, float], verdict: str
) -> None:
    run = with_maps(make(tmp_path, "a"))
    listing = json.loads((run / HEATMAPS).read_text())
    protocol = dict.fromkeys(("unit", "uniform", "centre", "other_image", "interval"), "as told")
    labels = {name: scored(20, above) for name in LABELS[:2]}
    listing["localisation"] = {"all": scored(40, above), "labels": labels, "protocol": protocol, "regions": "boxes",
                               "n_outside": 2,
                               "n_resamples": 9, "map_positions": [7, 7]}  # fmt: skip
    listing["images"][0]["localisation"] = {
        "Mass": {"pointing_tol3": 1.0, "iou_at50": 0.2, "energy_inside": 0.61}
    }
    listing["warnings"] = ["take care"]
    write_json(run / HEATMAPS, listing)
    text = gallery([load_run(run)]).replace("\u00a0", " ")
    assert verdict in text
    assert (
        "0.500 (0.300 to 0.700), 95 % interval, against 0.100 (n = 40 maps of 40 images, 40 patients)" in text
    )
    assert "Mass: hit, 61% of the map inside" in text
    assert text.count("<tr") == 2 + 3 + 6  # two heads, all labels, by label
    assert "n/a" in text  # no other patient's map
    assert "2 regions lie outside" in text
    assert "take care" in text


@pytest.mark.parametrize("target", [[1, 0, 0, 0], [1, 1, 1, 0]])
def test_one_image_makes_no_ranking(target: list[int]) -> None:
    prob = [0.9, 0.3, 0.2, 0.1]
    assert (auroc(target, prob), auprc(target, prob), roc_points(target, prob)) == (None, None, None)
    assert auroc([*target, *target], [*prob, *prob]) is not None
