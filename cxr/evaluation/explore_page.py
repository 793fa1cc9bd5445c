"""The page of an exploration, explore.html, and its pictures and numbers as files: explore/*.png, explore.json.

The page is one file that loads nothing, as the review page is; its pictures are inside.
"""

from __future__ import annotations

import base64
import html
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr.data.picture import write_png
from cxr.data.synthetic import SyntheticSet
from cxr.evaluation.exploration import RANGE, Part, Pixels, Strip
from cxr.evaluation.review import EXPLORE
from cxr.files import write_json, write_text

__all__ = ["FOLDER", "PAGE", "SCHEMA", "signed", "write_exploration"]

PAGE, FOLDER = EXPLORE, "explore"
SCHEMA = 1
GAP_PX = 2
WARNING = (
    "This page holds real radiographs: it must not be published, and goes nowhere that the images of these patients may not go. "
    "So does the folder explore beside it."
)


def write_exploration(made: SyntheticSet, parts: Sequence[Part], facts: dict[str, Any]) -> Path:
    """Write both into a set and return the page; what an earlier call left is replaced. The page comes last.

    facts: what explore.json says beside the parts.
    """
    page, folder, partial = (made.path / name for name in (PAGE, FOLDER, f".{FOLDER}.partial"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    record: dict[str, Any] = {}
    for part in parts:
        files = [f"{part.key}-{k:02}.png" for k in range(len(part.strips))]
        for name, strip in zip(files, part.strips, strict=True):
            write_png(partial / name, _joined(strip))
        shown = [
            {"file": name, "about": strip.about, "captions": list(strip.captions)}
            for name, strip in zip(files, part.strips, strict=True)
        ]
        record[part.key] = {**part.record, "told": list(part.told), "pictures": shown}
    write_json(
        partial / "explore.json",
        {
            "schema": SCHEMA,
            "kind": "explore",
            "set": made.path.name,
            "images_sha256": made.manifest["images_sha256"],
            **facts,
            "parts": record,
        },
    )
    page.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    write_text(page, _page(made, parts))
    return page


def signed(difference: npt.NDArray[np.integer]) -> Pixels:
    """Return a difference in gray levels (S, S) as colours (S, S, 3), BGR: black none, red above, blue below."""
    share = np.clip(difference.astype(np.float64) / RANGE, -1.0, 1.0)[..., None]
    red, blue = np.array([70.0, 90.0, 255.0]), np.array([255.0, 170.0, 80.0])
    return np.asarray(np.where(share > 0, share * red, -share * blue).round(), np.uint8)


def _joined(strip: Strip) -> Pixels:
    """Return the pictures side by side: gray (H, W), or BGR where one of them is a difference."""
    pictures = [_drawn(one) for one in strip.pictures]
    if any(one.ndim == 3 for one in pictures):
        pictures = [one if one.ndim == 3 else np.repeat(one[..., None], 3, axis=2) for one in pictures]
    gap = np.zeros((len(pictures[0]), GAP_PX, *pictures[0].shape[2:]), np.uint8)
    between = [part for one in pictures for part in (gap, one)][1:]
    return np.concatenate(between, axis=1)


def _drawn(picture: npt.NDArray[Any]) -> Pixels:
    return np.asarray(picture) if picture.dtype == np.uint8 else signed(picture)


def _page(made: SyntheticSet, parts: Sequence[Part]) -> str:
    here = Path(__file__).parent
    text = (here / "explore.html").read_text(encoding="utf-8")
    counts = made.index["class"].value_counts(sort=False)
    held = (made.manifest.get("recipe") or {}).get("truncation")
    about = [
        f"{len(made.index):,} images of {made.manifest['size_px']} px: "
        + ", ".join(f"{n:,} {label}" for label, n in counts.items()),
        f"seed {made.manifest['seed']}",
        f"latents held to ±{held:g}" if held is not None else "latents as in training",
        f"after {made.manifest['checkpoints'][0]['g_steps']:,} steps of G",
    ]
    alarm = f'<p class="alarm" role="alert">{_safe(WARNING)}</p>' if any(p.real for p in parts) else ""
    links = "".join(f'<a href="#{part.key}">{_safe(part.title)}</a>' for part in parts)
    body = "\n".join(_section(part) for part in parts)
    found = {
        "STYLE": (here / "explore.css").read_text(encoding="utf-8"),
        "TITLE": _safe(f"Exploring {made.path.name}"),
        "ABOUT": _safe(" · ".join(about)),
        "ALARM": alarm,
        "LINKS": links,
        "BODY": body,
    }
    for key, value in found.items():
        text = text.replace(f"<!--{key}-->", value).replace(f"/*{key}*/", value)
    return text


def _section(part: Part) -> str:
    told = "".join(f"<p>{_safe(text)}</p>" for text in part.told)
    strips = "".join(_figure(strip) for strip in part.strips)
    return f'<section id="{part.key}"><h2>{_safe(part.title)}</h2>{told}<div class="strips">{strips}</div></section>'


def _figure(strip: Strip) -> str:
    cells = []
    for number, (picture, caption) in enumerate(zip(strip.pictures, strip.captions, strict=True), start=1):
        alt = _safe(caption.replace("\n", ", ") or f"{strip.about.partition('.')[0]}, picture {number}")
        shown = f"<span>{_safe(caption)}</span>" if caption else ""
        cells.append(
            f'<div class="cell"><img alt="{alt}" src="data:image/png;base64,{_png(_drawn(picture))}">{shown}</div>'
        )
    kind = "many" if len(cells) > 5 else "few"
    narrow = next(
        (k for k in (4, 3, 5) if len(cells) % k == 0), 4
    )  # columns on a phone: none alone in the last row
    columns = f"--n: {len(cells)}; --narrow: {narrow}"
    return (
        f'<figure><figcaption>{_safe(strip.about)}</figcaption><div class="row {kind}" style="{columns}">'
        f"{''.join(cells)}</div></figure>"
    )


def _safe(text: str) -> str:
    return html.escape(text, quote=True)


def _png(image: Pixels) -> str:
    done, encoded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    if not done:
        raise RuntimeError("a picture could not be written as PNG")
    return base64.b64encode(encoded.tobytes()).decode("ascii")
