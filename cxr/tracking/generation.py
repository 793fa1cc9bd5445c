"""A synthetic set as a W&B run: which GAN made it, by which recipe, what it looks like."""

from __future__ import annotations

from pathlib import Path

from cxr.data.synthetic import SyntheticSet
from cxr.files import digest
from cxr.run import read_config
from cxr.tracking import artifact
from cxr.tracking.connect import begin, tracked
from cxr.tracking.identity import group_of, job_type, remembered, tags
from cxr.tracking.settings import Wandb

__all__ = ["log_set"]


def log_set(settings: Wandb, run_dir: Path, made: SyntheticSet) -> None:
    """Log the set that the GAN of `run_dir` made: its recipe, its grid, and the lineage from checkpoint to set."""
    import wandb

    config = read_config(run_dir)
    kind, recipe = job_type(config), made.manifest["recipe"]
    facts = {
        key: made.manifest[key]
        for key in ("n", "size_px", "classes", "seed", "images_sha256", "split_fingerprint")
    }
    run = begin(
        settings,
        folder=made.path,
        kind="generate",
        key=digest(recipe, 12),
        group=group_of(settings.group, config, remembered(run_dir, kind)),
        tags=tags(config),
        config={"gan": config, "recipe": recipe, "set": facts},
    )
    with tracked(run):
        artifact.use(
            run,
            artifact.checkpoint_artifact(run_dir, kind, settings.artifacts, {"classes": facts["classes"]}),
        )
        artifact.log(run, artifact.set_artifact(made.path, settings.artifacts))
        if (made.path / "grid.png").is_file():
            run.log({"grid": wandb.Image(str(made.path / "grid.png"))})
        run.summary["n"] = facts["n"]
