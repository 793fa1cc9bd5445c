"""metrics.csv of a run: one row per step, equal after `kill -9` and resume to that of a run never stopped.

Lightning's CSVLogger deletes what it finds and starts again. Here the text of the log travels in the
checkpoint (`cxr.callback.checkpoints` puts it there): a resumed run takes the rows up to its checkpoint,
whatever a killed process had still written after it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
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
        self._rows: list[dict[str, str]] = []
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
        key = str(step) if step is not None else (self._rows[-1]["step"] if self._rows else "0")
        if not self._rows or self._rows[-1]["step"] != key:
            self._rows.append({"step": key})
        row, index = self._rows[-1], len(self._rows) - 1
        for name, value in metrics.items():
            cell = _cell(value)
            if name != "epoch":  # Lightning adds it to every row
                self.last[name] = float(value)
            if row.get(name) == cell:
                continue
            row[name] = cell
            if index < self._on_disk:
                self._on_disk = -1
            if name not in self._columns:
                self._columns.append(name)
                self._on_disk = -1

    @rank_zero_only
    def save(self) -> None:
        """Write the rows that are complete: all but the last, which may still get values."""
        self._write(len(self._rows) - 1)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write every row."""
        self._write(len(self._rows))

    def text(self) -> str:
        """Return the whole log as CSV and bring the file up to it."""
        self.finalize("checkpoint")
        return self._text(self._rows, header=True)

    def restore(self, text: str) -> None:
        """Go on from the log that a checkpoint holds."""
        reader = csv.DictReader(io.StringIO(text, newline=""))
        self._columns = list(reader.fieldnames or ["step"])
        self._rows = [{k: v for k, v in row.items() if v != ""} for row in reader]
        self._on_disk = -1

    def _write(self, n: int) -> None:
        if self._on_disk < 0:
            write_text(self.path, self._text(self._rows[: max(n, 0)], header=True))
        elif n > self._on_disk:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._text(self._rows[self._on_disk : n], header=False))
        else:
            return
        self._on_disk = max(n, 0)

    def _text(self, rows: list[dict[str, str]], *, header: bool) -> str:
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, self._columns, restval="", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()


def _cell(value: float) -> str:
    """Return the shortest text that reads back as the same number; whole numbers without a point."""
    number = float(value)
    whole = math.isfinite(number) and number.is_integer() and abs(number) < 2**53
    return str(int(number)) if whole else repr(number)
