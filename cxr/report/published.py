"""What the papers print, read from published.yaml; a value carries its table and its unit."""

from __future__ import annotations

from dataclasses import dataclass
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
        printed: the number as printed, in `unit`.
        unit: "percent", "fraction", "seconds" or "nats".
        value: the number in our units: a fraction for a percentage, else as printed.
        source: "Table 2".
    """

    printed: float
    unit: str
    source: str

    @property
    def value(self) -> float:
        """The number in the units of our records."""
        return self.printed / 100 if self.unit == "percent" else self.printed


@dataclass(frozen=True)
class PublishedPaper:
    """A paper: its names of the models (in its order), the cells by (model, arm, metric), its protocol."""

    paper: str
    title: str
    authors: str
    file: str
    protocol: str
    notes: tuple[str, ...]
    models: dict[str, str]
    values: dict[tuple[str, str, str], PublishedValue]
    correct: dict[str, dict[str, list[int | None]]]
    n_test: dict[str, int]
    facts: dict[str, dict[str, Any]]

    def find(self, model: str, arm: str, metric: str) -> PublishedValue | None:
        """Return the printed value, or None where the paper has none."""
        return self.values.get((model, arm, metric))


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
    values = {}
    for table in entry["tables"]:
        for model, row in table["rows"].items():
            for metric, printed in zip(table["columns"], row, strict=True):
                value = PublishedValue(float(printed), entry["units"][metric], table["source"])
                values[model, table["arm"], metric] = value
    return PublishedPaper(
        paper=paper,
        title=entry["title"],
        authors=entry["authors"],
        file=entry["file"],
        protocol=entry["protocol"],
        notes=tuple(entry["notes"]),
        models=dict(entry["models"]),
        values=values,
        correct=entry["correct"],
        n_test=entry["n_test"],
        facts=entry["facts"],
    )
