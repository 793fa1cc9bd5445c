"""Leaves every figure as files beside the page, and gives the page its bytes: the only place that does either."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from cxr.files import atomic_path, write_text

__all__ = ["STYLE", "figure_svg", "file_name", "save_figure", "save_png"]

LONGEST = 100  # characters of a figure's name; file systems allow 255 bytes with the ending
DPI = 200  # of the PNG: a 4-inch figure is 800 px wide, enough for a slide or a column of a paper
STYLE: Any = {  # matplotlib lists every key in its type, which changes with its version
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.edgecolor": "#6b6b6b",
    "axes.labelcolor": "#333333",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.parse_math": False,  # a class name may hold a $
    "svg.fonttype": "path",
    "svg.hashsalt": "cxr",
    "figure.facecolor": "white",
}


def save_figure(out: Path, name: str, figure: Figure | None) -> bytes | None:
    """Write a figure as figures/<name>.svg and .png below `out`; return the SVG for the page, None for None."""
    if figure is None:
        return None
    svg = figure_svg(figure)
    path = out / "figures" / f"{file_name(name)}.svg"
    write_text(path, svg.decode())
    figure.set_layout_engine(
        "none"
    )  # everything has its place by now; finding it again takes as long as drawing
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    _write(path.with_suffix(".png"), buffer.getvalue())
    return svg


def figure_svg(figure: Figure) -> bytes:
    """Return a figure as SVG, the same bytes each time."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def save_png(out: Path, name: str, image: npt.NDArray[np.uint8]) -> bytes:
    """Write pixels (H, W) or (H, W, 3 as BGR), uint8, as figures/<name>.png below `out`; return the file."""
    data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    _write(out / "figures" / f"{file_name(name)}.png", data)
    return data


def file_name(name: str) -> str:
    """Return a name with "-" for what a file name cannot hold; a very long one ends in a hash of the rest."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    if len(safe) <= LONGEST:
        return safe
    return f"{safe[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _write(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
