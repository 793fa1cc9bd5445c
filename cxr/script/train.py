"""train: fit a GAN or a classifier, in a run folder that can be skipped, resumed or retried."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from cxr.config import plain, run_app

__all__ = ["PRELOAD", "main", "train"]

# What a job imports after its checks: a launcher that starts many imports it once, and forks them (cxr/launch/warm.py).
PRELOAD = ("cxr.script.fit",)


def train(
    *,
    name: str | None,
    paper: str | None,
    arm: str | None,
    seed: int,
    runs_dir: Path,
    synthetic_dir: Path,
    synthetic: list[str],
    train_classes: list[str] | None,
    leakage: Literal["refuse", "allow"],
    near_duplicates: Literal["report", "refuse", "group", "off"],
    features: Literal["auto", "off"] | int,
) -> None:
    """The schema of conf/train.yaml beside its groups; see there for what each key means."""


def job(config: DictConfig) -> float | None:
    """Open the run of a checked configuration; skip it when finished, else fit. Returns its headline metric."""
    from hydra.core.hydra_config import HydraConfig

    from cxr.run import open_run, planned_run

    hydra = HydraConfig.get()
    exclude = hydra.job.config.override_dirname.exclude_keys
    plan = planned_run(plain(config), hydra.runtime.choices, list(hydra.overrides.task), exclude)
    assert plan is not None
    with open_run(plan.runs_dir, plan.name, plan.config, plan.identity) as run:
        if run.state == "finished":
            print(f"{run.path}: finished before; nothing to do")
        else:
            from cxr.script.fit import fit

            fit(run)
        return next(iter(run.metric.values()), None)


def main() -> None:
    """Console script `cxr-train`."""
    run_app("train", job)


if __name__ == "__main__":
    main()
