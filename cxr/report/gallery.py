"""Gallery of the heat maps that evaluation left beside the results: which parts of a radiograph a model used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cxr.files import read_json
from cxr.metric.result import HEATMAPS
from cxr.report import html
from cxr.report.runs import ReportRun

__all__ = ["gallery"]

ABOUT = (
    "Each overlay shows where the evidence for one label was found, scaled by its own maximum: how much there was "
    "is the probability above it, in bold where the label is true. A map is no proof that the finding lies there."
)


def gallery(runs: Sequence[ReportRun]) -> str:
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
        for one in listing["images"]:
            png = (run.path / HEATMAPS).with_name(one["file"])
            parts.append(html.picture(png.read_bytes(), "png", _caption(one)))
        parts.append(html.note(f"{listing['method']}; layer {listing['layer']}."))
    return html.note(ABOUT) + "".join(parts) if parts else ""


def _caption(one: dict[str, Any]) -> str:
    return f"{one['image_id']}; labels: {', '.join(one['true']) or 'none'}."
