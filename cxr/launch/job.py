"""One job of a sweep: what was asked, how it went, and the table of them all."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from hydra.core.utils import filter_overrides
from omegaconf import DictConfig

from cxr.files import read_json
from cxr.run import read_status

__all__ = ["Job", "common", "importable", "near", "print_table", "shown"]


@dataclass
class Job:
    """One job: what was asked (`overrides`), where its output goes, and how it went."""

    number: int
    overrides: list[str]
    config: DictConfig
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    wall_s: float = 0.0
    state: str = "not started"
    run: Path | None = None
    metric: dict[str, float | None] = field(default_factory=dict)
    error: str = ""

    def read_outcome(self) -> None:
        """Fill in state, metric, run and error from the run that the job opened, else from its exit code."""
        assert self.process is not None
        self.wall_s = time.monotonic() - self.began
        code = self.process.returncode
        opened = read_json(self.folder / "run.json") if (self.folder / "run.json").is_file() else {}
        self.run = Path(opened["run"]) if opened else None
        status: dict[str, Any] = {}
        if self.run is not None and (self.run / "status.json").is_file():
            status = read_status(self.run)
        if code == 0:
            self.state = "skipped" if opened.get("state") == "finished" else status.get("state", "finished")
            headline = status.get("headline")
            self.metric = {headline: status["metric"][headline]} if headline else {}
            return
        ended = {2: "refused", -signal.SIGINT: "interrupted"}.get(code, "failed")
        if code < 0 and code != -signal.SIGINT:
            ended = f"killed ({signal.Signals(-code).name})"
        elif status.get("state") in ("failed", "interrupted"):
            ended = status["state"]
        self.state = ended
        self.error = status.get("error") or _error_line(self.folder / "output.log")

    @property
    def failed(self) -> bool:
        """Whether it ran and ended otherwise than well."""
        return self.process is not None and self.process.returncode != 0


def _error_line(log: Path) -> str:
    """Return the line that tells the error: the last `error: …`, else a traceback's last, else the last."""
    lines = [
        line.strip()
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    told = [line for line in lines if line.startswith("error: ")]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)(: |$)", line)]
    return (told or raised or lines or ["(no output)"])[-1]


def shown(overrides: Sequence[str], but: Collection[str] = ()) -> str:
    """Return overrides as they would be typed, Hydra's own and those in `but` left out."""
    return shlex.join(o for o in filter_overrides(overrides) if o not in but) or "no overrides"


def importable(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a new interpreter finds this cxr: that of a checkout may not be installed."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "pyproject.toml").is_file():
        return dict(environment)
    path = os.pathsep.join(filter(None, [str(checkout), environment.get("PYTHONPATH")]))
    return {**environment, "PYTHONPATH": path}


def common(jobs: Sequence[Job]) -> set[str]:
    """Return the overrides that all jobs share; none where there is one job."""
    return set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()


def near(path: Path) -> str:
    """Return a path as seen from here."""
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else str(path)


def print_table(jobs: Sequence[Job]) -> None:
    """Print the table of all jobs; overrides that all jobs share are left out."""
    from rich.console import Console
    from rich.table import Table

    shared = common(jobs)
    table = Table(title=f"{len(jobs)} jobs", title_justify="left")
    for column in ("job", "overrides", "state", "metric", "time", "run", "error"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        metric = ", ".join(f"{k} {v:.4g}" if v is not None else f"{k} –" for k, v in job.metric.items())
        took = str(timedelta(seconds=round(job.wall_s)))
        cells = [
            str(job.number),
            shown(job.overrides, shared),
            job.state,
            metric,
            took,
        ]
        table.add_row(
            *cells, near(job.run) if job.run else "", job.error, style="red" if job.failed else None
        )
    console = Console(markup=False, highlight=False)
    console = (
        console
        if console.is_terminal
        else Console(markup=False, highlight=False, width=max(160, console.width))
    )
    console.print(table)
