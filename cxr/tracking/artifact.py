"""Checkpoints and synthetic sets as W&B artifacts, so that W&B knows which GAN a classifier's images come from.

    gan-NAME (model)  →  synthetic-NAME (dataset)  →  classifier-NAME (model)  →  evaluation

The stage that makes a file logs it, the next one says that it used it, by the same name and the same content: W&B
takes both for one version. Nobody asks the server which version that was, so the chain is also told offline.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr.files import file_sha256, read_json
from cxr.share import clean
from cxr.tracking.identity import JobType
from cxr.tracking.settings import Policy

if TYPE_CHECKING:
    from wandb import Artifact, Run

__all__ = ["checkpoint_artifact", "log", "set_artifact", "use"]

CHECKPOINTS = ("last.ckpt", "best.ckpt")
SET_FILES = ("images.npy", "index.parquet", "grid.png")  # its manifest is metadata: it may hold paths
SET_FACTS = (
    "classes",
    "n",
    "seed",
    "size_px",
    "images_sha256",
    "split_fingerprint",
    "checkpoints",
    "recipe",
    "curated",
)
LONGEST_NAME = 128  # characters, W&B's limit


def checkpoint_artifact(
    run_dir: Path, kind: JobType, policy: Policy, facts: Mapping[str, Any]
) -> Artifact | None:
    """Return the checkpoints of a run, or None where it has none or the policy is `none`."""
    files = [run_dir / "checkpoints" / name for name in CHECKPOINTS]
    return _artifact(f"{kind}-{run_dir.name}", "model", [f for f in files if f.is_file()], policy, facts)


def set_artifact(folder: Path, policy: Policy) -> Artifact | None:
    """Return the images of a synthetic set, or None where there is none or the policy is `none`."""
    if policy == "none" or not (folder / "manifest.json").is_file():
        return None
    manifest = read_json(folder / "manifest.json")
    facts = {key: manifest[key] for key in SET_FACTS if key in manifest}
    files = [folder / name for name in SET_FILES if (folder / name).is_file()]
    return _artifact(f"synthetic-{folder.name}", "dataset", files, policy, facts)


def log(run: Run, artifact: Artifact | None) -> None:
    """Say that `run` made it."""
    if artifact is not None and not run.disabled:
        run.log_artifact(artifact)


def use(run: Run, artifact: Artifact | None) -> None:
    """Say that `run` used it."""
    if artifact is None or run.disabled:
        return
    if run.offline:
        # `use_artifact` refuses to work offline only because of its form that looks a name up; what it does with an
        # artifact at hand is this call.
        run._log_artifact(artifact, aliases=[], is_user_created=True, use_after_commit=True)
    else:
        run.use_artifact(artifact)


def _artifact(
    name: str, kind: str, files: Sequence[Path], policy: Policy, facts: Mapping[str, Any]
) -> Artifact | None:
    if policy == "none" or not files:
        return None
    from wandb import Artifact

    sha256 = {file.name: file_sha256(file) for file in files}
    made = Artifact(artifact_name(name), type=kind, metadata=clean({**facts, "sha256": sha256}))
    for file in files:
        if policy == "upload":
            made.add_file(str(file), name=file.name)
        else:
            for entry in made.add_reference(file.resolve().as_uri(), name=file.name):
                entry.ref = reference(file)
    return made


def artifact_name(name: str) -> str:
    """Return a name of the characters and the length that W&B takes."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", str(clean(name)))[-LONGEST_NAME:]


def reference(file: Path) -> str:
    """Return what W&B is told about where a file lies: from the working directory where it is below that.

    From the same directory, W&B's `download` finds it again. A path under the home folder begins with `~`, which W&B
    cannot follow and no other reader can misuse.
    """
    absolute, here = file.resolve(), Path.cwd()
    below = absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
    return f"file:{clean(below.as_posix())}"
