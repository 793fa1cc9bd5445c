"""Synthetic sets in a report: their images, what the generator made on its way there, its curves and its recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from cxr.errors import UserError
from cxr.files import read_json
from cxr.report import html
from cxr.report.figure import curve_figure
from cxr.report.save import save_figure, save_png

__all__ = ["SyntheticSet", "synthetic_entry", "synthetic_sets"]

EPOCHS = 6  # grids of a strip: the first, the last and others evenly between
TILES = 2  # rows and columns of each grid that a strip shows
GAP = 2  # black pixels between the images of a grid (cxr.callback.sample_grid.tile)
WIDEST = 1300  # pixels of a picture on the page: twice what its column is wide


@dataclass(frozen=True)
class SyntheticSet:
    """A synthetic set as the report needs it: its folder and manifest."""

    path: Path
    manifest: dict[str, Any]


def synthetic_sets(paths: Sequence[Path]) -> list[SyntheticSet]:
    """Read the manifests of synthetic sets; a UserError names a folder that is none."""
    found = []
    for path in paths:
        manifest = read_json(path / "manifest.json")
        if not isinstance(manifest, dict) or manifest.get("kind") != "synthetic":
            raise UserError(
                f"{path}: not a synthetic set (its manifest has no kind: synthetic); generate it first"
            )
        found.append(SyntheticSet(path, manifest))
    return found


def synthetic_entry(one: SyntheticSet, out: Path) -> str:
    """Return a set's sample grid and facts; its GANs' samples over training and curves where those runs are."""
    m = one.manifest
    checkpoints = [c for c in m.get("checkpoints", []) if isinstance(c, Mapping)]
    facts = [f"{_count(m.get('n'))} images of {', '.join(str(c) for c in m.get('classes', []))}"]
    facts += [f"{m.get('size_px')}×{m.get('size_px')} px", f"seed {m.get('seed')}"]
    facts += [f"the GAN saw {len(m['trained_on']):,} real images"] if m.get("trained_on") else []
    facts += [
        f"checkpoint {Path(str(c.get('path', '?'))).name} {str(c.get('sha256', ''))[:12]}"
        for c in checkpoints
    ]
    text = html.heading(one.path.name)
    grid = _read(one.path / "grid.png")
    if grid is None:
        text += html.note("; ".join(facts) + ".")
    else:
        data = save_png(out, f"samples-{one.path.name}", _at_most(grid, WIDEST))
        text += html.picture(data, "png", "; ".join(facts) + ".", pixels=True)
    at_hand = [(folder, c) for c in checkpoints if (folder := _gan_run(one.path, c)) is not None]
    for folder, checkpoint in dict(at_hand).items():
        status = folder / "status.json"
        if status.is_file() and read_json(status).get("state") != "finished":
            steps = _count(checkpoint.get("g_steps"))
            text += html.alarm(
                "Read these images with care",
                [f"the training of {folder.name} never reached its end: {steps} steps of G"],
            )
        text += _over_training(folder, m.get("size_px"), out)
        log = folder / "metrics.csv"
        if log.is_file() and log.stat().st_size:
            curves = curve_figure({folder.name: pd.read_csv(log)})
            drawn = save_figure(out, f"training-gan-{folder.name}", curves)
            text += html.picture(drawn, "svg+xml", f"Training of the GAN {folder.name}.") if drawn else ""
        if (folder / "config.yaml").is_file():
            config = (folder / "config.yaml").read_text(encoding="utf-8")
            text += html.folded(f"Configuration of the GAN {folder.name}", config)
    return text


def _over_training(run: Path, size_px: object, out: Path) -> str:
    """Return a strip of what a GAN's generator made of the same latents at up to `EPOCHS` epochs; "" without any."""
    found = {
        int(name[1]): path
        for path in sorted((run / "figures").glob("samples-epoch-*.png"))
        if (name := re.fullmatch(r"samples-epoch-(\d+)", path.stem))
    }
    epochs = sorted(found)
    if not epochs or not isinstance(size_px, int):
        return ""
    places = np.linspace(0, len(epochs) - 1, min(EPOCHS, len(epochs))).round().astype(int)
    side = TILES * (size_px + GAP) - GAP
    shown = []
    for epoch in (epochs[i] for i in places):
        image = _read(found[epoch])
        if image is not None:
            small = _at_most(image[:side, :side], WIDEST // EPOCHS)
            shown.append((save_png(out, f"{run.name}-epoch-{epoch:04d}", small), f"epoch {epoch}"))
    caption = f"The same latents while {run.name} trained; each picture is the first images of its grid."
    return html.strip(shown, caption)


def _gan_run(synthetic: Path, checkpoint: Mapping[str, Any]) -> Path | None:
    """Return the run folder of a checkpoint runs/<name>/checkpoints/<file>; None where it is not at hand.

    A recorded path may be relative to where the set was made, or the project may have moved as a whole. The set may be
    a stranger's, so a path that climbs names nothing, and a folder counts only if it is a run of that name: what it
    holds goes into the report.
    """
    path = Path(str(checkpoint.get("path", "")))
    if len(path.parts) < 3 or ".." in path.parts:
        return None
    folder, beside = path.parent.parent, synthetic.resolve().parent.parent
    for run in (folder, beside / folder, beside / "runs" / folder.name):
        status = read_json(run / "status.json") if (run / "status.json").is_file() else None
        if isinstance(status, dict) and status.get("name") == folder.name:
            return run
    return None


def _read(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """Return a PNG as uint8 (H, W); None where there is none."""
    if not path.is_file():
        return None
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    return None if image is None else np.asarray(image, dtype=np.uint8)


def _at_most(
    image: np.ndarray[Any, np.dtype[np.uint8]], width_px: int
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Shrink an image (H, W) to a width by averaging; one that is narrower stays as it is."""
    if image.shape[1] <= width_px:
        return image
    height_px = round(image.shape[0] * width_px / image.shape[1])
    return np.asarray(cv2.resize(image, (width_px, height_px), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _count(n: object) -> str:
    return f"{n:,}" if isinstance(n, int) else str(n)
