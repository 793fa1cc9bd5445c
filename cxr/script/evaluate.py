"""evaluate: score runs on their test images, then put them beside the published values in a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from cxr.config import build, plain, run_app
from cxr.errors import UserError, did_you_mean

__all__ = ["evaluate", "main"]


def evaluate(
    *,
    runs: list[str],
    audit: str | None,
    checkpoint: Literal["last", "best"],
    threshold: float,
    at_specificity: float,
    n_resamples: int,
    seed: int,
    accelerator: Literal["auto", "cpu", "gpu"],
    heatmaps: int,
    heatmap_layer: str | None,
    localisation: bool,
    data_root: Path | None,
    runs_dir: Path,
    synthetic_dir: Path,
    reports_dir: Path,
    share_ids: Literal["hashed", "plain"],
) -> None:
    """The schema of conf/evaluate.yaml beside its report; see there for what each key means."""


def find_runs(runs_dir: Path, patterns: list[str], key: str = "runs") -> list[Path]:
    """Return the run folders that names or patterns mean, sorted; each must match something."""
    found: set[Path] = set()
    names = sorted(p.parent.name for p in runs_dir.glob("*/status.json"))
    for pattern in patterns:
        matches = {runs_dir / name for name in names if Path(name).match(pattern)}
        if not matches:
            raise UserError(
                f"{key}: nothing below {runs_dir} is called '{pattern}'{did_you_mean(pattern, names)}"
            )
        found |= matches
    return sorted(found)


def job(config: DictConfig) -> float | None:
    """Evaluate each run; build the report. Returns the first run's accuracy. Or audit runs, see `_audit`."""
    values = plain(config)
    if values["audit"] is not None:
        _audit(values)
        return None
    if not values["runs"]:
        raise UserError(
            "runs: must be set, and is not; set runs=… (or audit=NAME, to look for leaks in a run)"
        )
    runs = find_runs(Path(values["runs_dir"]), values["runs"])
    from rich.progress import track

    from cxr.script.predict import evaluate_run

    wandb = None if values.get("logger") is None else build(values["logger"])
    records: list[dict[str, Any]] = []
    for run in track(runs, description="evaluating", transient=True, disable=not sys.stdout.isatty()):
        data_root = Path(values["data_root"]) if values["data_root"] else None
        record = evaluate_run(
            run,
            data_root=data_root,
            **{
                k: values[k]
                for k in ("checkpoint", "threshold", "at_specificity", "n_resamples", "seed", "accelerator")
            },
        )
        records.append(record)
        print(_line(record))
        for warning in record["warnings"]:
            print(f"  warning: {warning}")
        if values["heatmaps"] or values["localisation"]:
            from cxr.script.explain import describe, explain_run

            asked = {k: values[k] for k in ("localisation", "n_resamples", "seed", "accelerator")}
            layer, n = values["heatmap_layer"], values["heatmaps"]
            listing = explain_run(run, record, n=n, layer=layer, data_root=data_root, **asked)
            print("".join(f"  {line}\n" for line in describe(listing)), end="")
        if wandb is not None:
            from cxr.script.track import track_evaluation

            track_evaluation(wandb, run, record, data_root)
    if values.get("report") is not None:
        from cxr.report.build import build_report

        spec = build(values["report"])
        out = Path(values["reports_dir"]) / spec.paper
        sets = _synthetic_sets(runs, Path(values["synthetic_dir"]))
        print(build_report(runs, sets, out, spec.paper, spec, values["share_ids"]))
    first = records[0]["metrics"].get("accuracy") if records else None
    return None if first is None else first["value"]


def _audit(values: dict[str, Any]) -> None:
    """Look for leaks in each run that `audit` names; exits with 1 when one is found."""
    if values["runs"]:
        raise UserError(
            f"audit: runs={values['runs']} was set too, expected one of the two; evaluate first, then audit"
        )
    found = find_runs(Path(values["runs_dir"]), [values["audit"]], "audit")
    from cxr.script.audit import audit_run, describe

    leaks = 0
    for run in found:
        if len(found) > 1:
            print(run)
        root = Path(values["data_root"]) if values["data_root"] else None
        path, verdicts = audit_run(run, data_root=root, share_ids=values["share_ids"])
        print("\n".join(describe(path, verdicts)))
        leaks += sum(one.answer == "LEAK" for one in verdicts)
    if leaks:
        raise SystemExit(1)


def _synthetic_sets(runs: list[Path], synthetic_dir: Path) -> list[Path]:
    """Return the folders of the synthetic sets that any run trained on, those that are still there."""
    from cxr.data.synthetic import set_folder
    from cxr.run import read_config

    names = {name for run in runs for name in read_config(run).get("synthetic") or []}
    folders = [set_folder(synthetic_dir, name) for name in sorted(names)]
    return [folder for folder in folders if (folder / "manifest.json").is_file()]


def _line(record: dict[str, Any]) -> str:
    shown = []
    for name in ("accuracy", "f1_macro", f"auroc/{record['classes'][-1]}"):
        score = record["metrics"].get(name)
        if score and score["value"] is not None:
            spread = "" if score["low"] is None else f" [{score['low']:.4f}, {score['high']:.4f}]"
            shown.append(f"{name} {score['value']:.4f}{spread}")
    test = record["metrics"].get("accuracy") or next(iter(record["metrics"].values()))
    return f"{record['run']}: {'  '.join(shown)}  (n = {test['n']} images, {test['n_patients']} patients)"


def main() -> None:
    """Console script `cxr-evaluate`."""
    run_app("evaluate", job)


if __name__ == "__main__":
    main()
