"""Where the numbers come from: runs, training images per arm, synthetic sets and the GANs behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cxr.errors import UserError
from cxr.files import read_json
from cxr.report import html
from cxr.report.figure import curve_figure
from cxr.report.published import PublishedPaper
from cxr.report.runs import Arm, ReportRun
from cxr.report.spec import arm_name

__all__ = ["SyntheticSet", "counts_grid", "run_entry", "synthetic_entry", "synthetic_sets"]

LIBRARIES = ("python", "torch", "lightning", "numpy")


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
    """Return a set's sample grid, its facts, and its GAN's training curves where that run is still there."""
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
    grid = one.path / "grid.png"
    if grid.is_file():
        text += html.picture(grid.read_bytes(), "png", "; ".join(facts) + ".", pixels=True)
    else:
        text += html.note("; ".join(facts) + ".")
    for folder in dict.fromkeys(f for c in checkpoints if (f := _gan_run(one.path, c)) is not None):
        curves = curve_figure({folder.name: pd.read_csv(folder / "metrics.csv")})
        if curves is not None:
            (out / "figures").mkdir(parents=True, exist_ok=True)
            text += html.picture(curves, "svg+xml", f"Training of the GAN {folder.name}.")
    return text


def counts_grid(arms: Sequence[Arm], published: PublishedPaper | None) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: images of each class per model and arm, by part and origin."""
    head = ["Model", "Arm", "Class", "Training, real", "synthetic", "repeated", "Validation", "Test"]
    body = []
    for arm in arms:
        counts = arm.runs[0].result["counts"]
        for name in arm.classes:
            train = counts.get("train", {}).get(name, {})
            row = [
                published.models.get(arm.model, arm.model) if published else arm.model,
                arm_name(arm.arm),
                name,
            ]
            row += [_count(train.get(origin, 0)) for origin in ("real", "synthetic", "duplicated")]
            body.append([*row, *(_count(counts.get(part, {}).get(name, 0)) for part in ("val", "test"))])
    return head, body


def run_entry(run: ReportRun) -> str:
    """Return a run's hashes, device, wall time and warnings."""
    r, m = run.result, run.manifest
    checkpoint = r["checkpoint"]
    what = [r["model"], arm_name(r["arm"]), f"seed {r['seed']}"]
    what += [f"fold {r['fold']}"] if r["fold"] is not None else []
    what.append(f"training took {_duration(float(r['wall_s']))}")
    what += [_device(m["device"])] if m.get("device") else []
    hashes = [f"config {r['config_hash']}", f"split {r['split_name']} {r['split_fingerprint'][:16]}"]
    hashes.append(f"checkpoint {checkpoint.get('file')} {str(checkpoint.get('sha256'))[:16]}")
    git = m.get("git")
    if isinstance(git, Mapping) and git.get("revision"):
        hashes.append(
            f"git {str(git['revision'])[:12]}" + (" with changed files" if git.get("dirty") else "")
        )
    lines = [" · ".join(what), " · ".join(hashes)]
    versions = m.get("versions")
    if isinstance(versions, Mapping):
        lines.append(" · ".join(f"{k} {versions[k]}" for k in LIBRARIES if versions.get(k)))
    warnings = [*map(str, r["warnings"]), *([f"leakage allowed: {r['leakage']}"] if r["leakage"] else [])]
    return html.run(run.name, lines, warnings)


def _gan_run(synthetic: Path, checkpoint: Mapping[str, Any]) -> Path | None:
    """Return the run folder of a checkpoint runs/<name>/checkpoints/<file>, when it has curves."""
    path = Path(str(checkpoint.get("path", "")))
    for root in (Path(), synthetic.resolve().parent.parent):
        folder = (root / path).parent.parent
        if (folder / "metrics.csv").is_file() and (folder / "metrics.csv").stat().st_size:
            return folder
    return None


def _device(device: object) -> str:
    return ", ".join(f"{v}" for v in device.values()) if isinstance(device, Mapping) else str(device)


def _count(n: object) -> str:
    return f"{n:,}" if isinstance(n, int) else str(n)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
