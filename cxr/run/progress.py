"""progress.json of a run: how far its training is, for whoever watches from outside (a launcher, `status`).

It is a by-product: written at most every few seconds, renamed when whole but not flushed to the disk, never read by the
training itself. What a run *is* (finished, interrupted, …) stands in its status.json alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_type_hints

from cxr.run.headline import find_score
from cxr.signature import check_value

__all__ = ["PROGRESS", "Progress", "read_progress", "write_progress"]

PROGRESS = "progress.json"
_SCHEMA = 1


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        stage: what it does now.
        epochs_done: whole epochs behind it, those of earlier attempts too.
        epochs: how many it is to have.
        batches_done: of the epoch under way, by each process.
        batches: of an epoch; 0: not known.
        images_seen: training images shown so far, over all processes and attempts; None where the task does not count.
        scores: the last value of each that was logged; NaN and infinity as None.
        began: Unix time at which this attempt began to train; before it lie imports and the cache.
        began_at: the share of the training, 0 to 1, that was done then.
        updated: Unix time of this record.
        pid: the process that wrote it.
    """

    stage: Literal["training", "validation"]
    epochs_done: int
    epochs: int
    batches_done: int
    batches: int
    images_seen: int | None
    scores: Mapping[str, float | None]
    began: float
    began_at: float
    updated: float
    pid: int

    @property
    def done(self) -> float:
        """The share of the training that is done, 0 to 1; an early stop or `max_time` may end it before 1."""
        within = self.batches_done / self.batches if self.batches else 0.0
        return min(1.0, (self.epochs_done + within) / self.epochs) if self.epochs > 0 else 0.0

    @property
    def epoch(self) -> int:
        """The epoch under way, from 1, or the last where all are done."""
        return min(self.epochs_done + 1, self.epochs)

    def left_s(self, now: float) -> float | None:
        """Return the seconds until the end at this attempt's mean speed; None before there is one.

        Args:
            now: Unix time.
        """
        if self.done <= self.began_at or self.updated <= self.began:
            return None
        speed = (self.done - self.began_at) / (self.updated - self.began)  # validations included
        return max(0.0, (1.0 - self.done) / speed - (now - self.updated))

    def headline(self) -> tuple[str, float | None] | None:
        """Return the score that stands for the run, else the first there is, else None."""
        name = find_score(self.scores, None) or next(iter(self.scores), None)
        return None if name is None else (name, self.scores[name])


_KINDS = get_type_hints(Progress)


def write_progress(run_dir: Path, progress: Progress) -> None:
    """Write progress.json, whole; the one writer is the process that holds the run (rank 0).

    Not `cxr.files.write_json`: that waits for the disk (milliseconds, on a busy one seconds), and what is lost here at
    a power cut is worth nothing. A full disk is not told here: the next checkpoint tells it.
    """
    scores = {k: v if v is not None and math.isfinite(v) else None for k, v in progress.scores.items()}
    text = json.dumps({"schema": _SCHEMA, **asdict(replace(progress, scores=scores))}, allow_nan=False)
    temporary = run_dir / f".{PROGRESS}"
    with suppress(OSError):
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(run_dir / PROGRESS)


def read_progress(run_dir: Path) -> Progress | None:
    """Return what the run last wrote; None where it wrote nothing that this version understands."""
    try:
        found = json.loads((run_dir / PROGRESS).read_text(encoding="utf-8"))
        if found.pop("schema") != _SCHEMA or any(
            check_value(found[name], kind) for name, kind in _KINDS.items()
        ):
            return None
        return Progress(**found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
