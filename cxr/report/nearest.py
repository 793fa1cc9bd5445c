"""What a generator copied, as score.py found it: the shares beside those of new real images, and the closest pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr.metric.memorisation_record import read_memorisation
from cxr.report import html

__all__ = ["nearest_section"]

ABOUT = """
A copy lies much nearer to one training image than to all others. Per image: the distance to the nearest training image
over the mean distance to the next ones. Flagged is who has less than nearly all held-out radiographs of patients that
the GAN never saw: of such images the share under “new real” would be flagged. Memorised means that more are flagged than
chance allows (p < 0.01 in a space), or that an image has exactly the pixels of a training image.

Pixel distances outlast a blur, a shift of some pixels and another contrast, not a flip or a rotation. Authentic: farther
from the nearest training image than that one is from its own nearest other (Alaa et al. 2022). Distance: median over that
of held-out images; below 1, synthetic images lie nearer to training images than new patients do.
"""
HEAD = ("Images", "Space", "Flagged", "New real", "p", "Authentic", "Authentic, held out", "Distance", "Synthetic", "Training",
        "Held out", "Verdict")  # fmt: skip
GALLERY = (
    "The closest pairs: image, nearest training image, difference after moving and fitting the contrast (red: brighter, "
    "blue: darker, over 64 gray levels). Synthetic images first, then held-out real ones: so near lies a new patient."
)


def nearest_section(synthetic: Sequence[Path]) -> str:
    """Return the memorisation of synthetic sets (folders) as HTML, "" where none was looked for."""
    found = [one for path in synthetic for one in read_memorisation(path)]
    if not found:
        return ""
    rows = [row for _, record in found for row in _rows(record)]
    parts = [html.note(" ".join(text.split())) for text in ABOUT.strip().split("\n\n")]
    parts.append(html.grid_table(HEAD, rows, numbers=range(2, 11)))
    cautions = {f"{_images(record)}: {told}": None for _, record in found for told in record["warnings"]}
    if cautions:
        parts.append(html.bullets(cautions))
    for file, record in found:
        parts.append(html.heading(f"{_images(record)}, {record['protocol']}"))
        if (picture := file.with_suffix(".png")).is_file():
            parts.append(html.picture(picture.read_bytes(), "png", GALLERY))
    return "".join(parts)


def _rows(record: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, space in record["spaces"].items():
        one, authentic = space["copies"], space["authenticity"]
        rows.append([
            _images(record),
            name,
            f"{_percent(one)} ({one['n_flagged']:,})",
            f"{100 * one['level']:.1f} %",
            f"{one['p_value']:.2g}",
            _percent(authentic["synthetic"]),
            _percent(authentic["held_out"]),
            _ratio(space["distance_ratio"]),
            f"{one['n']:,}",
            f"{record['n_training']:,}",
            f"{one['n_held_out']:,}",
            record["verdict"],
        ])  # fmt: skip
    return rows


def _percent(one: Mapping[str, Any]) -> str:
    return f"{100 * one['value']:.1f} % [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"


def _ratio(one: Mapping[str, Any]) -> str:
    if one["value"] is None or one["low"] is None:
        return "n/a"
    return f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"


def _images(record: Mapping[str, Any]) -> str:
    return " + ".join(str(part["name"]) for part in record["sets"])
