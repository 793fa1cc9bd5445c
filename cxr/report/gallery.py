"""Gallery of the heat maps that evaluation left beside the results: which parts of a radiograph a model used.

Where findings have a known place, also how often maps lie there, beside what chance would get.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxr.errors import UserError
from cxr.files import read_json
from cxr.metric.result import HEATMAPS
from cxr.report import html
from cxr.report.runs import ReportRun
from cxr.share import Ids, ShareIds

__all__ = ["gallery"]

ABOUT = (
    "Each overlay shows where the evidence for one label was found, scaled by its own maximum: how much there was "
    "is the probability above it, in bold where the label is true, and that maximum, in logits, below. A map is no "
    "proof that the finding lies there."
)
OUTLINES = (
    "Outlined in blue: where the finding is known to be. A cross marks the map's maximum: a hit lies in the outline or "
    "within 3 % of the image's side of it."
)
TITLES = {
    "pointing_tol3": "Pointing game: the maximum lies in the region (or within 3 % of the side)",
    "iou_at50": "IoU of the region and what exceeds half the maximum",
    "energy_inside": "Share of the map inside the region",
}
HEAD = (
    "Label",
    "Score",
    "Ours",
    "No map",
    "Centre",
    "Another patient's map",
    "Ours − another's",
    "Maps",
    "Patients",
)


def gallery(runs: Sequence[ReportRun], share_ids: ShareIds = "hashed") -> str:
    """Return the heat maps of all runs that have some for the evaluated checkpoint; "" where none has.

    Maps of another checkpoint than the result's are of another network: they are left out and named.
    """
    parts = []
    for run in runs:
        if not (run.path / HEATMAPS).is_file():
            continue
        listing = read_json(run.path / HEATMAPS)
        parts.append(html.heading(run.name))
        if listing.get("checkpoint") != run.result["checkpoint"]:
            parts.append(html.note("Its heat maps are of another checkpoint: evaluate the run again."))
            continue
        parts += [html.note(f"{text}.") for text in listing.get("warnings", [])]
        if listing.get("localisation"):
            parts.append(_localisation(listing["localisation"]))
        ids = Ids(run.path.parent, share_ids)
        for one in listing["images"]:
            png = (run.path / HEATMAPS).parent / one["file"]
            if Path(one["file"]).name != one["file"]:
                raise UserError(
                    f"{run.path / HEATMAPS}: file is {one['file']!r}, expected a name; evaluate the run again"
                )
            parts.append(html.picture(_jpeg(png), "jpeg", _caption(one, ids), pixels=True))
        if any(one.get("localisation") for one in listing["images"]):
            parts.append(html.note(OUTLINES))
        parts.append(html.note(f"{listing['method']}; layer {listing['layer']}."))
    return html.note(ABOUT) + "".join(parts) if parts else ""


def _jpeg(png: Path) -> bytes:
    """Return a picture at a fifth of its size as PNG: a page with tens of them must open on a phone."""
    image = cv2.imdecode(np.frombuffer(png.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"{png}: cannot be read; delete its folder and evaluate the run again")
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes())


def _caption(one: Mapping[str, Any], ids: Ids) -> str:
    found = [
        f"{label}: {'hit' if score['pointing_tol3'] > 0 else 'miss'}, {score['energy_inside']:.0%} of the map inside"
        for label, score in one.get("localisation", {}).items()
    ]
    return "; ".join([ids(one["image_id"]), f"labels: {', '.join(one['true']) or 'none'}", *found]) + "."


def _localisation(told: Mapping[str, Any]) -> str:
    """Return the verdict, the scores of all maps, and folded those of each label."""
    whole, protocol = told["all"], told["protocol"]
    rows = _rows("all labels" if len(told["labels"]) > 1 else next(iter(told["labels"])), whole)
    parts = [html.note(_verdict(whole)), html.grid_table(HEAD, rows, numbers=range(2, len(HEAD)))]
    if len(told["labels"]) > 1:
        by_label = [row for label, part in told["labels"].items() for row in _rows(label, part)]
        table = html.grid_table(HEAD, by_label, numbers=range(2, len(HEAD)))
        parts.append(f"<details><summary>By label</summary>{table}</details>")
    tall, wide = told["map_positions"]
    outside = f" {told['n_outside']} regions lie outside the cropped images." if told["n_outside"] else ""
    parts.append(
        html.note(
            f"Against {told['regions']}: {protocol['unit']}. No map: {protocol['uniform']}. Centre: "
            f"{protocol['centre']}. Another patient's map: {protocol['other_image']}. Intervals: "
            f"{protocol['interval']}, {told['n_resamples']} resamples. Maps have {tall} × {wide} positions, "
            f"enlarged; {whole['n_empty']} are zero everywhere and score 0.{outside}"
        )
    )
    return "".join(parts)


def _verdict(whole: Mapping[str, Any]) -> str:
    score = whole["scores"]["pointing_tol3"]
    above = score["above_uniform"]
    if above["low"] is None:
        verdict = "One patient is too few to say whether the maps lie where the findings are"
    elif above["low"] > 0:
        verdict = "The maps point at findings more often than a random point would"
    elif above["high"] < 0:
        verdict = "The maps point at findings less often than a random point would"
    else:
        verdict = "The maps do not point at findings detectably more often than a random point would"
    return (
        f"{verdict}: pointing game {_with_interval(score)}, 95 % interval, against {score['uniform']:.3f} "
        f"(n = {whole['n_maps']} maps of {whole['n_images']} images, {whole['n_patients']} patients)."
    )


def _rows(label: str, part: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            label,
            TITLES[name],
            _with_interval(score),
            f"{score['uniform']:.3f}",
            f"{score['centre']:.3f}",
            "n/a" if score["other_image"] is None else f"{score['other_image']:.3f}",
            _with_interval(score["above_other_image"], sign="+"),
            str(score["n"]),
            str(score["n_patients"]),
        ]
        for name, score in ((name, part["scores"][name]) for name in TITLES)
    ]


def _with_interval(score: Mapping[str, Any], sign: str = "") -> str:
    if score["value"] is None:
        return "n/a"
    value, low, high = (
        None if score[k] is None else f"{score[k]:{sign}.3f}" for k in ("value", "low", "high")
    )
    return f"{value}" if low is None else f"{value} ({low} to {high})".replace("-", "−")
