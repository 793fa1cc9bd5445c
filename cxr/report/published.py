"""What the papers print, read from published.yaml; a value carries its table and its unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cxr.errors import UserError, did_you_mean

__all__ = ["PublishedPaper", "PublishedValue", "load_published", "published_papers"]


@dataclass(frozen=True)
class PublishedValue:
    """One cell of a paper.

    Attributes:
        text: the cell as printed, without a bound: "0.9700", "70.87±0.47".
        unit: "percent", "fraction", "seconds", "nats", "images" or "score".
        source: "Table 2".
        bound: "<" or ">" where the paper only says that a value is below or above one; else "".
    """

    text: str
    unit: str
    source: str
    bound: str = ""

    @property
    def printed(self) -> float:
        """The number as printed, in `unit`; a spread behind ± is left out."""
        return float(self.text.partition("±")[0])

    @property
    def value(self) -> float:
        """The number in the units of our records: a fraction for a percentage, else as printed."""
        return self.printed / 100 if self.unit == "percent" else self.printed

    def shown(self, percent: bool) -> str:
        """Return the text with the paper's digits, as per cent or as a fraction whatever it printed."""
        shift = {("fraction", True): 2, ("percent", False): -2}.get((self.unit, percent), 0)
        parts = [f"{Decimal(part).scaleb(shift):f}" for part in self.text.split("±")]
        return f"{self.bound} {'±'.join(parts)}".strip()


@dataclass(frozen=True)
class PublishedPaper:
    """A paper: its names of the models (in its order), its cells, its protocol.

    Attributes:
        classes: the classes of its per-class scores under the names of our data sets, and other names of each.
        tables: by source ("Table 2") the cells by (model, arm, metric).
    """

    paper: str
    title: str
    authors: str
    file: str
    protocol: str
    notes: tuple[str, ...]
    models: dict[str, str]
    classes: dict[str, list[str]]
    tables: dict[str, dict[tuple[str, str, str], PublishedValue]]
    correct: dict[str, dict[str, list[int | None]]]
    n_test: dict[str, int]
    facts: dict[str, dict[str, Any]]

    @property
    def values(self) -> dict[tuple[str, str, str], PublishedValue]:
        """All cells; of a score that two tables print, that of the table which stands first in the YAML."""
        return {key: value for cells in reversed(self.tables.values()) for key, value in cells.items()}

    def find(
        self, model: str, arm: str, metric: str, sources: Sequence[str] | None = None
    ) -> PublishedValue | None:
        """Return the printed value, or None where the paper has none.

        `sources`: look into these tables only, in this order; None takes the order of the YAML.
        """
        score, _, name = metric.partition("/")
        key = (model, arm, f"{score}/{self.class_name(name)}" if name else metric)
        for source in self.tables if sources is None else sources:
            if key in self.tables.get(source, {}):
                return self.tables[source][key]
        return None

    def class_name(self, name: str) -> str:
        """Return the name that the cells use for a class of a run."""
        return next((known for known, others in self.classes.items() if name in others), name)


@cache
def _all() -> dict[str, Any]:
    loaded = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("published.yaml")))
    assert isinstance(loaded, dict)
    return {str(paper): entry for paper, entry in loaded.items()}


def published_papers() -> list[str]:
    """Return the papers that have published values."""
    return sorted(_all())


def load_published(paper: str) -> PublishedPaper:
    """Return a paper's published values; a UserError names the papers there are."""
    if paper not in _all():
        raise UserError(f"paper={paper!r} has no published values{did_you_mean(paper, _all())}")
    entry = _all()[paper]
    tables: dict[str, dict[tuple[str, str, str], PublishedValue]] = {}
    for table in entry["tables"]:
        cells = tables.setdefault(table["source"], {})
        units = {**entry["units"], **table.get("units", {})}
        for model, metric, printed in _cells(table):
            bound = printed[0] if printed[0] in "<>" else ""
            unit = units[metric.partition("/")[0]]
            cells[model, table["arm"], metric] = PublishedValue(
                printed.removeprefix(bound), unit, table["source"], bound
            )
    return PublishedPaper(
        paper=paper,
        title=entry["title"],
        authors=entry["authors"],
        file=entry["file"],
        protocol=entry["protocol"],
        notes=tuple(entry["notes"]),
        models=dict(entry["models"]),
        classes={name: list(others) for name, others in entry["classes"].items()},
        tables=tables,
        correct=entry["correct"],
        n_test=entry["n_test"],
        facts=entry["facts"],
    )


def _cells(table: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (model, metric, cell as printed); a row by class yields "<column>/<class>"; "-" is no cell."""
    for model, row in table["rows"].items():
        by_class = row.items() if isinstance(row, dict) else [("", row)]
        for name, printed in by_class:
            for column, cell in zip(table["columns"], str(printed).split(), strict=True):
                if cell != "-":
                    yield model, f"{column}/{name}" if name else column, cell
