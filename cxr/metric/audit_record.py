"""The form of runs/<name>/audit.json: what was asked about leaks, and what was found; writing and reading it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from cxr.errors import UserError
from cxr.files import file_sha256, read_json, write_json
from cxr.metric.result import RESULT

__all__ = ["AUDIT", "SCHEMA", "Answer", "Verdict", "read_audit", "tally", "write_audit"]

AUDIT = "audit.json"
SCHEMA = 1
KIND = "audit"
Answer = Literal["clean", "LEAK", "not known"]
WIDTH = max(len(one) for one in get_args(Answer))


@dataclass(frozen=True)
class Verdict:
    """The answer to one question about a run.

    Attributes:
        told: why, with the numbers.
        n: how many images, patients or pairs were compared; None: nothing could be.
        first: the first that offends, by names that may be shared; None: none does.
        mend: what to do; None: nothing.
    """

    question: str
    answer: Answer
    told: str
    n: int | None = None
    first: str | None = None
    mend: str | None = None

    @property
    def line(self) -> str:
        """All of it in one line."""
        rest = [f"first: {self.first}"] * bool(self.first) + [f"do: {self.mend}"] * bool(self.mend)
        return "; ".join([f"{self.answer:{WIDTH}}  {self.question}: {self.told}", *rest])


def tally(verdicts: Iterable[Verdict]) -> str:
    """Return how many verdicts there are of each kind: "12 clean, 1 LEAK, 2 not known"."""
    found = [one.answer for one in verdicts]
    return ", ".join(f"{found.count(kind)} {kind}" for kind in get_args(Answer) if kind in found)


def write_audit(run: Path, verdicts: Sequence[Verdict], facts: dict[str, Any]) -> Path:
    """Write audit.json into the folder of a run; it holds for the result.json of now, if there is one."""
    path = run / AUDIT
    record = {
        "schema": SCHEMA,
        "kind": KIND,
        "run": run.name,
        "result_sha256": _result(run),
        "leaks": sum(one.answer == "LEAK" for one in verdicts),
        "verdicts": [asdict(one) for one in verdicts],
        **facts,
    }
    write_json(path, record)
    return path


def read_audit(run: Path) -> tuple[Verdict, ...] | None:
    """Return the verdicts about a run; None where none are of its present result.json.

    Raises:
        UserError: the file is no such record.
    """
    path = run / AUDIT
    if not path.is_file():
        return None
    record = read_json(path)
    again = f"delete it and run python evaluate.py audit={run.name} again"
    if not isinstance(record, dict) or (record.get("kind"), record.get("schema")) != (KIND, SCHEMA):
        raise UserError(f"{path}: no audit of schema {SCHEMA}; {again}")
    try:
        found = tuple(Verdict(**one) for one in record["verdicts"])
        current = record["result_sha256"] == _result(run)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: is not what an audit leaves ({error}); {again}") from None
    if any(one.answer not in get_args(Answer) for one in found):
        raise UserError(f"{path}: holds a verdict that is none of {', '.join(get_args(Answer))}; {again}")
    return found if current else None


def _result(run: Path) -> str | None:
    return file_sha256(run / RESULT) if (run / RESULT).is_file() else None
