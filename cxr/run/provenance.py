"""Where a result came from: the manifest that every stage leaves beside what it made.

It holds no environment variable, no home folder and no user name: manifests get published.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cxr.files import file_sha256
from cxr.share import homes

__all__ = ["git_state", "library_versions", "manifest"]

PACKAGES = (
    "albucore",
    "albumentations",
    "cxr",
    "hydra-core",
    "lightning",
    "matplotlib",
    "numpy",
    "omegaconf",
    "opencv-python-headless",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "timm",
    "torch",
    "torchmetrics",
    "torchvision",
    "wandb",
)


def manifest(
    *,
    inputs: Mapping[str, Path | str],
    split_fingerprint: str | None,
    seed: int | None,
    device: str,
    wall_s: float | None,
) -> dict[str, Any]:
    """Describe how something was made, as plain containers for `write_json`.

    Args:
        inputs: by role; a Path is a file to be hashed (`checkpoint`), a str is a hash or key that
            the caller already has (`cache`, `synthetic/<name>`).
        device: in words (`cpu`, `NVIDIA A100`); asked of torch by the caller.
        wall_s: seconds it took, all attempts together.
    """
    return {
        "schema": 1,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "inputs": {
            role: {"file": _shown(value), "sha256": file_sha256(value)}
            if isinstance(value, Path)
            else {"hash": value}
            for role, value in inputs.items()
        },
        "split_fingerprint": split_fingerprint,
        "seed": seed,
        "git": git_state(),
        "versions": library_versions(),
        "device": device,
        "wall_s": wall_s,
    }


def _shown(path: Path) -> str:
    """Return a path below the working directory as such, any other by its last three parts."""
    absolute, here = path.resolve(), Path.cwd()
    if absolute.is_relative_to(here):
        return absolute.relative_to(here).as_posix()
    below = (absolute.relative_to(home) for home in homes() if absolute.is_relative_to(home))
    return Path(*next(below, absolute).parts[-3:]).as_posix()


def library_versions() -> dict[str, str | None]:
    """Return the installed versions of Python and what a result depends on, without importing any."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_state(package: Path | None = None) -> dict[str, Any] | None:
    """Return `{"revision", "dirty"}` of the checkout that holds `package` (cxr), or None outside one.

    A wheel inside an environment inside somebody's repository is not that repository's code:
    only a checkout whose top folder holds the package counts.
    """
    top = (package or Path(__file__).resolve().parents[1]).parent
    shown = _git(top, "rev-parse", "--show-toplevel", "HEAD")
    if shown is None or len(shown.split("\n")) != 2 or Path(shown.split("\n")[0]).resolve() != top.resolve():
        return None
    changes = _git(top, "status", "--porcelain")
    return {"revision": shown.split("\n")[1], "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    # GIT_DIR and its like, set inside hooks, would answer for another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
