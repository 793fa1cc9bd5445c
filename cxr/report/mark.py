"""What a reader must know before believing a row: a short tag in the row, its sentence once for all rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["LEAK", "NO_PATIENTS", "RANDOM", "Mark", "cautions", "in_words", "tags"]

LEAK = "LEAK"  # as in cxr.metric.audit_record
RANDOM = "random weights"
NO_PATIENTS = "patients unknown"


@dataclass(frozen=True)
class Mark:
    """A caution: `tag` stands in every row it holds for, `told` says what it means."""

    tag: str
    told: str

    @property
    def sentence(self) -> str:
        """The tag and what it means."""
        return f"{self.tag}: {self.told}"


def tags(marks: Iterable[Mark]) -> str:
    """Return the tags of a row in one line."""
    return " · ".join(dict.fromkeys(mark.tag for mark in marks))


def cautions(rows: Sequence[tuple[str, str, str | None, Sequence[Mark]]]) -> list[str]:
    """Return each sentence once, behind it the rows (model, arm, class, marks) that it holds for."""
    every: dict[tuple[str, str], list[str | None]] = {}
    held: dict[str, dict[tuple[str, str], list[str | None]]] = {}
    for model, arm, class_name, marks in rows:
        every.setdefault((model, arm), []).append(class_name)
        for mark in dict.fromkeys(marks):
            held.setdefault(mark.sentence, {}).setdefault((model, arm), []).append(class_name)
    return [f"{sentence} — {_holders(of, every)}." for sentence, of in held.items()]


def in_words(pairs: Iterable[tuple[str, str]]) -> str:
    """Return models with their arms: "CNN (real images only, with GAN images); VGG16 (real images only)"."""
    models: dict[str, list[str]] = {}
    for model, arm in pairs:
        models.setdefault(model, []).append(arm)
    return "; ".join(f"{model} ({', '.join(arms)})" for model, arms in models.items())


def _holders(
    held: Mapping[tuple[str, str], list[str | None]], every: Mapping[tuple[str, str], list[str | None]]
) -> str:
    """Name those that a mark holds for; the classes where it does not hold for all of a table."""
    if held == every and len(every) > 1:
        return "all models and arms"
    return in_words(
        (model, arm if classes == every[model, arm] else f"{arm}: {', '.join(str(c) for c in classes)}")
        for (model, arm), classes in held.items()
    )
