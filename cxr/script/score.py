"""score: judge synthetic images by a trained classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from cxr.config import plain, run_app
from cxr.errors import UserError

__all__ = ["main", "score"]


def score(
    *,
    synthetic: list[str],
    run: str,
    name: str | None,
    checkpoint: Literal["last", "best"],
    against: Literal["test", "val", "train"],
    real_classes: Literal["same", "all"],
    splits: int,
    n_resamples: int,
    n_halves: int,
    seed: int,
    accelerator: Literal["auto", "cpu", "gpu"],
    data_root: Path | None,
    runs_dir: Path,
    synthetic_dir: Path,
) -> None:
    """The schema of conf/score.yaml; see there for what each key means."""


def job(config: DictConfig) -> float:
    """Score the sets, print the scores. Returns the FID on probabilities."""
    values = plain(config)
    for key in ("splits", "n_halves"):
        if values[key] < 1:
            raise UserError(f"{key}: got {values[key]}, expected at least 1; set {key}=…")
    from cxr.script.evaluate import find_runs

    runs = find_runs(Path(values["runs_dir"]), [values["run"]], "run")
    if len(runs) > 1:
        raise UserError(
            f"run: '{values['run']}' means {len(runs)} runs, expected one; set run={runs[0].name}"
        )
    from cxr.metric.score_record import score_names
    from cxr.script.judge import judge

    target, record = judge(
        runs[0],
        values["synthetic"],
        synthetic_dir=Path(values["synthetic_dir"]),
        data_root=Path(values["data_root"]) if values["data_root"] else None,
        **{k: values[k] for k in ("name", "checkpoint", "against", "real_classes", "splits", "n_resamples",
                                  "n_halves", "seed", "accelerator")},
    )  # fmt: skip
    names = score_names(record["protocol"], record["settings"]["splits"])
    for line in _lines(record, names):
        print(line)
    print(target)
    return float(record["metrics"][names["fid"]]["value"])


def _lines(record: dict[str, Any], names: dict[str, str]) -> list[str]:
    """Return the scores, one per line, then what a reader must know."""
    found = record["metrics"][names["is"]]
    made = " + ".join(f"{one['n']} of {one['name']}" for one in record["sets"])
    lines = [
        f"{made}; {found['real']['n']} real {record['against']} images of {', '.join(record['classes'])}"
    ]
    told = ", ".join(f"{kind} {_shown(found[kind])}" for kind in ("real", "synthetic"))
    lines.append(f"{names['is']}: {told}")
    for key in ("fid", "fid_logits"):
        one = record["metrics"][names[key]]
        line = f"{names[key]}: {_shown(one)}"
        if one["null"] is not None:
            line += (f"; at n = {one['null']['n_first']:.0f} and {one['null']['n_second']:.0f}: real to real "
                     f"{one['null']['value']:.4f}, synthetic to real {one['same_n']['value']:.4f}")  # fmt: skip
        lines.append(line)
    if record["leakage"]:
        lines.append(f"warning: leak: {record['leakage']}")
    return lines + [f"warning: {warning}" for warning in record["warnings"]]


def _shown(one: dict[str, Any]) -> str:
    if one["low"] is None or one["high"] is None:
        return f"{one['value']:.4f}"
    return f"{one['value']:.4f} [{one['low']:.4f}, {one['high']:.4f}]"


def main() -> None:
    """Console script `cxr-score`."""
    run_app("score", job)


if __name__ == "__main__":
    main()
