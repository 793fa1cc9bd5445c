"""How a trial of a search went, as the study keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cxr.files import read_json
from cxr.launch.job import Job
from cxr.run import read_status
from cxr.run.headline import find_score

__all__ = ["ATTRIBUTE", "Outcome", "from_attributes", "outcome_of"]

ATTRIBUTE = "cxr outcome"  # of a trial in the study


@dataclass(frozen=True)
class Outcome:
    """One trial.

    Attributes:
        overrides: all of its run.
        state: `cut off`: its process was killed or is not there yet; the same command goes on with it.
        value: of `metric`, from the run's last validation; None where it has none.
        n_images: validation images behind the value; None where the run does not say.
        repeat_of: the trial of the same overrides whose result this is: it was not run again.
    """

    number: int
    overrides: tuple[str, ...]
    state: Literal["finished", "pruned", "failed", "cut off"]
    metric: str | None = None
    value: float | None = None
    n_images: int | None = None
    run: str | None = None
    wall_s: float = 0.0
    error: str = ""
    repeat_of: int | None = None

    def again(self, number: int) -> Outcome:
        """Return this outcome as that of another trial with the same overrides."""
        first = self.number if self.repeat_of is None else self.repeat_of
        return replace(self, number=number, repeat_of=first, wall_s=0.0)

    def attributes(self) -> dict[str, Any]:
        """Return what the study keeps, less what it has anyway."""
        return {k: v for k, v in asdict(self).items() if k not in ("number", "overrides")}

    def job(self, folder: Path) -> Job:
        """Return it as a job of the sweep in `folder`, for the sweep's record."""
        return Job(
            self.number,
            list(self.overrides),
            folder / str(self.number),
            state={"cut off": "not started"}.get(self.state, self.state),
            run=None if self.run is None else Path(self.run),
            metric={} if self.metric is None else {self.metric: self.value},
            error=self.error,
            wall_s=self.wall_s,
        )


def from_attributes(number: int, overrides: list[str], attributes: Mapping[str, Any]) -> Outcome:
    """Return the outcome that a study keeps; a trial without one was cut off."""
    kept = attributes.get(ATTRIBUTE) or {"state": "cut off"}
    return Outcome(number=number, overrides=tuple(overrides), **kept)


def outcome_of(job: Job, pattern: str | None) -> Outcome:
    """Read the outcome of a job that was run.

    A run that was interrupted or killed is cut off, not failed: it is nobody's fault and can go on. A run that ended
    without the score, or with one that is no number, has failed.

    Args:
        pattern: of the score that is searched for; None: the headline.
    """
    plain = Outcome(
        job.number,
        tuple(job.overrides),
        "failed",
        run=None if job.run is None else str(job.run.resolve()),
        wall_s=round(job.wall_s, 3),
        error=job.error,
    )
    if job.before == "running" and job.exit_code is None:
        return replace(plain, state="cut off", error="its run is still at work in another process")
    if job.exit_code is None or job.state.startswith(("interrupted", "killed", "not started")):
        return replace(plain, state="cut off")
    if job.state == "pruned":
        return replace(plain, state="pruned")
    if job.failed:
        return plain
    scores: dict[str, float | None] = (read_status(job.run).get("metric") or {}) if job.run else {}
    name = find_score(scores, pattern)
    value = None if name is None else scores[name]
    if value is None or not math.isfinite(value):
        known = ", ".join(sorted(scores)) or "none"
        what = (
            f"{name} is no number" if name else f"it has no score {pattern or 'of validation'} (has: {known})"
        )
        return replace(plain, metric=name, error=what)
    return replace(plain, state="finished", metric=name, value=value, n_images=_images(job.run))


def _images(run: Path | None) -> int | None:
    file = None if run is None else run / "manifest.json"
    found = read_json(file).get("n_validation_images") if file is not None and file.is_file() else None
    return None if found is None else int(found)
