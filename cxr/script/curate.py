"""curate: a synthetic set with fewer images, chosen by people, a classifier or nearness to real images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from cxr.config import build, plain, run_app
from cxr.errors import UserError

__all__ = ["curate", "main"]


def curate(
    *,
    synthetic: str,
    name: str | None,
    leakage: Literal["refuse", "allow"],
    review: bool,
    accelerator: Literal["auto", "cpu", "gpu"],
    data_root: Path | None,
    runs_dir: Path,
    synthetic_dir: Path,
) -> None:
    """The schema of conf/curate.yaml beside its filter; see there for what each key means."""


def job(config: DictConfig) -> None:
    """Write the curated set, say what is left of each class."""
    values = plain(config)
    if values.get("filter") is None:
        raise UserError("filter: nothing is chosen; set filter=review, filter=agreement or filter=realism")
    chosen = build(values["filter"])
    from cxr.data.synthetic import load_synthetic, set_folder
    from cxr.evaluation.filter import Review

    synthetic_dir = Path(values["synthetic_dir"])
    source = load_synthetic(set_folder(synthetic_dir, values["synthetic"]))
    path = set_folder(synthetic_dir, values["name"] or f"{source.path.name}-{type(chosen).__name__.lower()}")
    if path == source.path:
        raise UserError(
            f"name: {path.name} is the set to choose from; expected a name for the new one; set name=…"
        )
    if isinstance(chosen, Review):
        from cxr.evaluation.decisions import curate_by_review  # and not the other half, which imports torch

        made = curate_by_review(source, path, chosen)
    else:
        from cxr.script.sift import sift

        made = sift(
            source,
            path,
            chosen,
            leakage=values["leakage"],
            accelerator=values["accelerator"],
            data_root=Path(values["data_root"]) if values["data_root"] else None,
            runs_dir=Path(values["runs_dir"]),
            synthetic_dir=synthetic_dir,
        )
    step = made.manifest["curated"][-1]
    for warning in step["warnings"]:
        print(f"warning: {warning}")
    left = ", ".join(
        f"{n['kept']} of {n['kept'] + n['rejected']} {name}" for name, n in step["counts"].items()
    )
    print(f"{made.path}: kept {left}; look at {made.path / 'grid.png'}")
    if values["review"]:
        from cxr.evaluation.review import write_review

        write_review(made)


def main() -> None:
    """Console script `cxr-curate`."""
    run_app("curate", job)


if __name__ == "__main__":
    main()
