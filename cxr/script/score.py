"""score: hold synthetic images against real ones by the features of an extractor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from cxr.config import plain, run_app
from cxr.errors import UserError

__all__ = ["main", "score"]

SETTINGS = ("splits", "n_subsets", "k_precision", "k_density", "n_resamples", "n_halves", "seed")
SHOWN = ("kid", "fid", "fid_logits", "precision", "recall", "density", "coverage")
RUN_EXTRACTOR = "cxr.extractor.run.RunExtractor"


def score(
    *,
    synthetic: list[str],
    run: str,
    name: str | None,
    checkpoint: Literal["last", "best"],
    against: Literal["test", "val", "train"],
    real_classes: Literal["same", "all"],
    splits: int,
    n_subsets: int,
    k_precision: int,
    k_density: int,
    n_resamples: int,
    n_halves: int,
    seed: int,
    memorisation: bool,
    share_ids: Literal["hashed", "plain"],
    batch_size: int,
    accelerator: Literal["auto", "cpu", "gpu"],
    data_root: Path | None,
    runs_dir: Path,
    synthetic_dir: Path,
) -> None:
    """The schema of conf/score.yaml beside its extractor; see there for what each key means."""


def job(config: DictConfig) -> float:
    """Score the sets, print the scores. Returns the FID on the extractor's features."""
    values = plain(config)
    for key in (*SETTINGS[:-1], "batch_size"):
        if values[key] < 1:
            raise UserError(f"{key}: got {values[key]}, expected at least 1; set {key}=…")
    if values["memorisation"] and values["against"] == "train":
        raise UserError(
            "memorisation=true: against=train, expected real images that the GAN has not seen; set against=test or val"
        )
    runs_dir = Path(values["runs_dir"])
    run = _one_run(runs_dir, values["run"], "run")
    extractor = dict(values["extractor"])
    if extractor["_target_"] == RUN_EXTRACTOR:
        other = extractor["run"]
        found = run if other is None else _one_run(Path(extractor["runs_dir"]), other, "extractor.run")
        extractor["run"] = found.name
    from cxr.script.judge import judge

    target, record = judge(
        run,
        values["synthetic"],
        extractor,
        settings={key: values[key] for key in SETTINGS},
        synthetic_dir=Path(values["synthetic_dir"]),
        data_root=Path(values["data_root"]) if values["data_root"] else None,
        **{
            k: values[k]
            for k in (
                "name",
                "checkpoint",
                "against",
                "real_classes",
                "memorisation",
                "share_ids",
                "batch_size",
                "accelerator",
            )
        },
    )
    for line in _lines(record):
        print(line)
    print(target)
    return float(record["metrics"][record["names"]["fid"]]["value"])


def _one_run(runs_dir: Path, name: str, key: str) -> Path:
    """Return the folder of the one run that a name or pattern means."""
    from cxr.script.evaluate import find_runs

    runs = find_runs(runs_dir, [name], key)
    if len(runs) > 1:
        raise UserError(f"{key}: '{name}' means {len(runs)} runs, expected one; set {key}={runs[0].name}")
    return runs[0]


def _lines(record: dict[str, Any]) -> list[str]:
    """Return the scores, one per line, then what a reader must know."""
    names, metrics = record["names"], record["metrics"]
    made = " + ".join(f"{one['n']} of {one['name']}" for one in record["sets"])
    n_real = metrics[names["fid"]]["n_real"]
    lines = [f"{made}; {n_real} real {record['against']} images of {', '.join(record['classes'])}"]
    for key in SHOWN:
        if key not in names:
            continue
        one = metrics[names[key]]
        line = f"{names[key]}: {_shown(one)}"
        if one["null"] is not None:
            line += (f"; at n = {one['null']['n_first']:.0f} and {one['null']['n_second']:.0f}: real to real "
                     f"{one['null']['value']:.4f}, synthetic to real {one['same_n']['value']:.4f}")  # fmt: skip
        lines.append(line)
    if "is" in names:
        found = metrics[names["is"]]
        told = ", ".join(f"{kind} {_shown(found[kind])}" for kind in ("real", "synthetic"))
        lines.append(f"{names['is']} (legacy): {told}")
    if record["leakage"]:
        lines.append(f"warning: leak: {record['leakage']}")
    copied = record.get("memorisation") or {"warnings": []}
    lines += [copied["told"]] if "told" in copied else []
    return lines + [f"warning: {warning}" for warning in (*record["warnings"], *copied["warnings"])]


def _shown(one: dict[str, Any]) -> str:
    if one["low"] is None or one["high"] is None:
        return f"{one['value']:.4f}"
    return f"{one['value']:.4f} [{one['low']:.4f}, {one['high']:.4f}]"


def main() -> None:
    """Console script `cxr-score`."""
    run_app("score", job)


if __name__ == "__main__":
    main()
