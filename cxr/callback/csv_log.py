"""metrics.csv of a run: one row per step, equal after `kill -9` and resume to that of a run never stopped.

Lightning's CSVLogger deletes what it finds and starts again. Here the text of the log travels in the
checkpoint (`cxr.callback.checkpoints` puts it there): a resumed run takes the rows up to its checkpoint,
whatever a killed process had still written after it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger

from cxr.files import write_text

__all__ = ["CSVLog"]


class CSVLog(Logger):
    """Rows keyed by step in `save_dir`/metrics.csv; values of one step share a row."""

    def __init__(self, *, save_dir: Path) -> None:
        """Open nothing yet; the first write replaces a file that an earlier attempt left."""
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self._settled: list[str] = []  # rows that get no more values, as text: a run of weeks has many
        self._row: dict[str, str] = {}  # the last one; {}: none yet
        self._columns: list[str] = ["step"]
        self._on_disk = -1  # rows of the file that are as in memory; -1: the file must be rewritten
        self.last: dict[str, float] = {}  # the last value of each, this attempt's

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run's config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of `step` (the last row's when None)."""
        key = str(step) if step is not None else self._row.get("step", "0")
        if self._row.get("step") != key:
            if self._row:
                self._settled.append(self._line(self._row))
            self._row = {"step": key}
        for name, value in metrics.items():
            cell = _cell(value)
            if name != "epoch":  # Lightning adds it to every row
                self.last[name] = float(value)
            if self._row.get(name) == cell:
                continue
            self._row[name] = cell
            if self._on_disk > len(self._settled):
                self._on_disk = -1
            if name not in self._columns:
                self._columns.append(name)
                self._settled = [f"{line}," for line in self._settled]
                self._on_disk = -1

    @rank_zero_only
    def save(self) -> None:
        """Write the rows that are complete: all but the last, which may still get values."""
        self._write(self._settled)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write every row."""
        self._write(self._all())

    def text(self) -> str:
        """Return the whole log as CSV and bring the file up to it."""
        self.finalize("checkpoint")
        return self._text(self._all())

    def restore(self, text: str) -> None:
        """Go on from the log that a checkpoint holds."""
        columns, *rows = [*csv.reader(io.StringIO(text, newline=""))] or [["step"]]
        self._columns, self._row = columns, {}
        self._settled = [",".join(row) for row in rows[:-1]]
        if rows:
            self._row = {name: cell for name, cell in zip(columns, rows[-1], strict=True) if cell != ""}
        self._on_disk = -1

    def _all(self) -> list[str]:
        return [*self._settled, self._line(self._row)] if self._row else self._settled

    def _line(self, row: Mapping[str, str]) -> str:
        return ",".join(row.get(name, "") for name in self._columns)  # numbers: nothing to quote

    def _write(self, lines: Sequence[str]) -> None:
        if self._on_disk < 0:
            write_text(self.path, self._text(lines))
        elif len(lines) > self._on_disk:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.writelines(f"{line}\n" for line in lines[self._on_disk :])
        else:
            return
        self._on_disk = len(lines)

    def _text(self, lines: Sequence[str]) -> str:
        out = io.StringIO(newline="")
        csv.writer(out, lineterminator="\n").writerow(self._columns)
        out.writelines(f"{line}\n" for line in lines)
        return out.getvalue()


def _cell(value: float) -> str:
    """Return the shortest text that reads back as the same number; whole numbers without a point."""
    number = float(value)
    whole = math.isfinite(number) and number.is_integer() and abs(number) < 2**53
    return str(int(number)) if whole else repr(number)
