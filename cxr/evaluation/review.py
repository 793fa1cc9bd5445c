"""The review page of a synthetic set: keep or reject its images by key or touch, then export a CSV.

Salehinejad et al. had radiologists remove "inappropriate generated chest X-rays" before training. The page is
one HTML file with style, script and images inside; it loads nothing, and what is decided stays in the browser.
The CSV names the SHA-256 of the set's pixels, so `curate.py` can refuse to apply it to another set.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from cxr.data.synthetic import SyntheticSet
from cxr.files import write_text

__all__ = ["review_files", "write_review"]

EXPLORE = "explore.html"  # the page of cxr/evaluation/explore_page.py, linked where it is there
MAX_IMAGES = 2000  # of a page; as many decisions as anyone makes at a sitting
MAX_BYTES = 32_000_000  # of the images of a page: 1,500 of 128 px fit, and a phone still opens it


def write_review(
    synthetic: SyntheticSet, *, max_images: int = MAX_IMAGES, max_bytes: int = MAX_BYTES
) -> list[Path]:
    """Write review.html into a set, and review-2.html … where one page would be too large; return their paths.

    Every page holds a run of the set's rows, its own decisions and its own CSV. Pages of an earlier call that
    this one does not write are removed.
    """
    pictures = [_png(np.asarray(image)) for image in synthetic.images]
    starts = _cut([len(p) for p in pictures], max_images, max_bytes)
    names = ["review.html" if i == 0 else f"review-{i + 1}.html" for i in range(len(starts))]
    for part, (first, end) in enumerate(zip(starts, [*starts[1:], len(pictures)], strict=True)):
        write_text(synthetic.path / names[part], _page(synthetic, pictures[first:end], first, part, names))
    for old in set(review_files(synthetic.path)) - {synthetic.path / name for name in names}:
        old.unlink()
    return [synthetic.path / name for name in names]


def review_files(path: Path) -> list[Path]:
    """Return the review pages that lie in the folder of a set."""
    return sorted([*path.glob("review.html"), *path.glob("review-*.html")])


def _cut(sizes: Sequence[int], max_images: int, max_bytes: int) -> list[int]:
    """Return where parts begin: each has at most so many images and (unless one image is more) bytes."""
    starts, count, total = [0], 0, 0
    for row, size in enumerate(sizes):
        if count and (count == max_images or total + size > max_bytes):
            starts.append(row)
            count = total = 0
        count, total = count + 1, total + size
    return starts


def _page(
    synthetic: SyntheticSet, pictures: Sequence[str], first: int, part: int, names: Sequence[str]
) -> str:
    """Return the HTML of one part: rows first … first + len(pictures) - 1."""
    rows = synthetic.index.iloc[first : first + len(pictures)]
    classes = sorted(set(rows["class"]))
    data = {
        "name": synthetic.path.name,
        "images_sha256": synthetic.manifest["images_sha256"],
        "size_px": synthetic.manifest["size_px"],
        "total": len(synthetic.index),
        "first": first,
        "part": part + 1,
        "parts": list(names),
        "classes": classes,
        "class": [classes.index(name) for name in rows["class"]],
        "z_seed": [str(seed) for seed in rows["z_seed"]],  # 64 bits; JavaScript's numbers hold 53
        "z_index": [str(index) for index in rows["z_index"]],
        "images": list(pictures),
    }
    here = Path(__file__).parent
    text = (here / "review.html").read_text(encoding="utf-8")
    text = text.replace("/*STYLE*/", (here / "review.css").read_text(encoding="utf-8"))
    text = text.replace("/*SCRIPT*/", (here / "review.js").read_text(encoding="utf-8"))
    link = f' <a href="{EXPLORE}">Explore the GAN</a>' if (synthetic.path / EXPLORE).is_file() else ""
    text = text.replace("<!--EXPLORE-->", link)
    # a class may be called anything: "<" could end the script element that holds the data
    return text.replace("/*DATA*/", json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"))


def _png(image: np.ndarray) -> str:
    done, encoded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    if not done:
        raise RuntimeError("an image could not be written as PNG")
    return base64.b64encode(encoded.tobytes()).decode("ascii")
