"""study: all stages of a paper in order, what is finished skipped; ends in the report."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from cxr.config import build, plain, run_app
from cxr.errors import UserError
from cxr.launch.command import importable
from cxr.study import Command, check, commands

__all__ = ["main", "study"]


def study(
    *,
    scale: Literal["full", "tiny"],
    data_root: Path | None,
    dir: Path,  # noqa: A002  # the key's name in YAML
    train: str | None,
    n_jobs: int,
    preview: bool,
) -> None:
    """The schema of conf/study.yaml beside its study; see there for what each key means."""


def job(config: DictConfig) -> None:
    """Check every job of every stage, then run the stages; the last line is the report's path."""
    values = plain(config)
    folder, plan = Path(values["dir"]), build(values["study"])
    data_root = Path(values["data_root"]).resolve() if values["data_root"] else None
    stages = commands(
        plan,
        values["scale"],
        folder,
        data_root=data_root,
        train=shlex.split(values["train"] or ""),
        n_jobs=values["n_jobs"],
    )
    counts = _checked(stages)
    if values["preview"]:
        for number, command in enumerate(stages, 1):
            _print_stage(number, len(stages), command, counts[number - 1])
        return
    took = _run(stages, counts)
    report = _report(folder)
    print()
    for command, seconds in zip(stages, took, strict=True):
        print(f"{timedelta(seconds=round(seconds))!s:>9}  {command.title}")
    print(
        f"{timedelta(seconds=round(sum(took)))!s:>9}  in all; the report, for a browser:\n{report.resolve()}"
    )


def _checked(stages: Sequence[Command]) -> list[int]:
    """Return how many jobs each stage has; all of them passed the door."""
    from hydra.core.global_hydra import GlobalHydra
    from rich.progress import Progress, TextColumn

    counts = [0] * len(stages)
    loader = GlobalHydra.instance().config_loader()
    with Progress(TextColumn("{task.description}"), transient=True) as progress:
        line = progress.add_task("checking")
        for number, count in check(stages, loader):
            counts[number - 1] = count
            progress.update(line, description=f"checking every job: {sum(counts)}")
    return counts


def _run(stages: Sequence[Command], counts: Sequence[int]) -> list[float]:
    """Run each stage in a process of its own; return the seconds of each. Exits with the code of one that fails."""
    took = []
    for number, command in enumerate(stages, 1):
        began = time.monotonic()
        _print_stage(number, len(stages), command, counts[number - 1])
        program = [sys.executable, "-m", f"cxr.script.{command.script}", *command.words]
        done = subprocess.run(program, env=importable(os.environ), check=False)
        if done.returncode:
            print(f"stage {number} ended with exit code {done.returncode} and nothing after it was run; "
                  "the same command goes on from here", file=sys.stderr)  # fmt: skip
            sys.exit(done.returncode if done.returncode > 0 else 128 - done.returncode)
        took.append(time.monotonic() - began)
    return took


def _report(folder: Path) -> Path:
    """Return the newest report below a study's folder."""
    return max((folder / "reports").glob("*/report.html"), key=lambda path: path.stat().st_mtime)


def _print_stage(number: int, of: int, command: Command, n_jobs: int) -> None:
    many = f" ({n_jobs} jobs)" if n_jobs > 1 else ""
    print(f"\n{number}/{of}  {command.title}{many}", flush=True)
    print(f"$ python {command.script}.py {shlex.join(command.words)}", flush=True)


def main() -> None:
    """Console script `cxr-study`."""
    if "-m" in sys.argv[1:] or "--multirun" in sys.argv[1:]:
        error = UserError("-m: a study sweeps by itself; name one with study=NAME")
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    run_app("study", job)


if __name__ == "__main__":
    main()
