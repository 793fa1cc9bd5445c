"""Where the numbers come from: runs with their configurations, training images per arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import yaml

from cxr.report import html
from cxr.report.mark import in_words
from cxr.report.published import PublishedPaper
from cxr.report.runs import Arm, ReportRun
from cxr.report.spec import arm_name

__all__ = [
    "ORIGINS",
    "counts_grid",
    "protocol_lines",
    "run_entry",
    "runs_grid",
    "training_counts",
]

PARTS, ORIGINS = ("val", "test"), ("real", "synthetic", "duplicated")
SHOWN = 12  # changes of an experiment that are told in full
LIBRARIES = ("python", "torch", "lightning", "numpy")


def counts_grid(arms: Sequence[Arm], published: PublishedPaper | None) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: images of each class per model and arm, by part and origin.

    With folds, training and validation are the mean over the folds, rounded, and test is all of them together.
    There is no validation column where no run has validation images.
    """
    validated = any(
        n for arm in arms for run in arm.runs for n in run.result["counts"].get("val", {}).values()
    )
    head = ["Model", "Arm", "Class", "Training, real", "synthetic", "repeated"]
    head += [*(["Validation"] if validated else []), "Test"]
    body = []
    for arm in arms:
        for name in arm.classes:
            train = training_counts(arm, name)
            parts = {p: [run.result["counts"].get(p, {}).get(name, 0) for run in arm.one_seed] for p in PARTS}
            test, val = sum(parts["test"]), round(fmean(parts["val"]))
            row = [
                published.models.get(arm.model, arm.model) if published else arm.model,
                arm_name(arm.arm),
                name,
            ]
            row += [_count(round(train[origin])) for origin in ORIGINS]
            body.append([*row, *([_count(val)] if validated else []), _count(test)])
    return head, body


def training_counts(arm: Arm, class_name: str) -> dict[str, float]:
    """Return an arm's training images of a class by origin; the mean over folds, where they differ."""
    counts = [run.result["counts"].get("train", {}).get(class_name, {}) for run in arm.one_seed]
    return {origin: fmean(of_run.get(origin, 0) for of_run in counts) for origin in ORIGINS}


def protocol_lines(arms: Sequence[tuple[Arm, str]]) -> list[str]:
    """Return on what and for how long the runs of arms (with their model's name) trained and were tested.

    Arms that share all of it share a line.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for arm, model_name in arms:
        found.setdefault(_protocol(arm), []).append((model_name, arm_name(arm.arm)))
    return [f"Ours, {in_words(dict.fromkeys(pairs))}: {said}." for said, pairs in found.items()]


def _protocol(arm: Arm) -> str:
    facts = [run.result["training"] for run in arm.runs]
    said = [f"{arm.protocol['size_px']} px"] if "size_px" in arm.protocol else []
    if any(f.get("epochs") for f in facts):
        wanted = _range([f.get("max_epochs") for f in facts])
        said.append(f"{_range([f.get('epochs') for f in facts])} of {wanted} epochs")
    if any(f.get("images") for f in facts):
        said.append(f"{_range([f.get('images') for f in facts])} training images")
    limits = {f["limit_train_batches"] for f in facts if f.get("limit_train_batches") is not None}
    said += [f"at most {limit} batches an epoch" for limit in sorted(limits)]
    folds = f" in {len(arm.folds)} of {arm.runs[0].result['kfold']['folds']} folds" if arm.folds else ""
    of = f"of {arm.n_patients:,} patients" if arm.knows_patients else "(patients unknown)"
    said.append(f"{arm.n_images:,} test images {of}{folds}")
    said += [f"split {arm.split[0]}", f"seeds {', '.join(str(s) for s in arm.seeds)}"]
    changed = arm.departures
    more = f", and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    said += [f"changed from the experiment: {', '.join(changed[:SHOWN])}{more}"] if changed else []
    return "; ".join(said)


def _range(values: Sequence[int | None]) -> str:
    known = sorted({v for v in values if v is not None})
    return "?" if not known else f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"


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
    hashes += [f"git {revision}"] if (revision := _revision(run)) else []
    lines = [" · ".join(what), " · ".join(hashes)]
    versions = m.get("versions")
    if isinstance(versions, Mapping):
        lines.append(" · ".join(f"{k} {versions[k]}" for k in LIBRARIES if versions.get(k)))
    warnings = [*map(str, r["warnings"]), *([f"leakage allowed: {r['leakage']}"] if r["leakage"] else [])]
    return html.run(run.name, lines, warnings, _configuration(run))


def _configuration(run: ReportRun) -> str:
    """Return the resolved configuration, the library versions and the inputs of a run, folded away."""
    path, told = run.path / "config.yaml", []
    versions, inputs = run.manifest.get("versions"), run.manifest.get("inputs")
    if isinstance(versions, Mapping):
        told.append("# libraries\n" + "\n".join(f"{k} {v}" for k, v in sorted(versions.items())))
    if isinstance(inputs, Mapping):
        told.append(yaml.safe_dump({"inputs": dict(inputs)}, sort_keys=True))
    text = html.folded("Configuration", path.read_text(encoding="utf-8")) if path.is_file() else ""
    return text + (html.folded("Libraries and inputs", "\n\n".join(told)) if told else "")


def runs_grid(runs: Sequence[ReportRun]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of what does not depend on the machine: configuration, split, git revision."""
    body = [
        [
            run.name,
            str(run.result["config_hash"]),
            f"{run.result['split_name']} {str(run.result['split_fingerprint'])[:16]}",
            _revision(run) or "—",
        ]
        for run in sorted(runs, key=lambda one: one.name)
    ]
    return ["Run", "Config", "Split", "Git revision"], body


def _revision(run: ReportRun) -> str:
    git = run.manifest.get("git")
    if not isinstance(git, Mapping) or not git.get("revision"):
        return ""
    return str(git["revision"])[:12] + (" with changed files" if git.get("dirty") else "")


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
