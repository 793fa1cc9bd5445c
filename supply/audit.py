"""Ask a database of known vulnerabilities about every pinned version: `make audit`.

pip-audit asks PyPI's advisories, or OSV where PyPI does not answer. It exits 0 and says "no known vulnerabilities" also where the
server knew none of the packages, so what counts here is how many it was told about: none is "could not audit", with the
reason and exit code 0, as a server that is down is no fault of a change. Exit code 1: a vulnerability that supply/ignored.toml
does not pass over, or no longer does. `--record` keeps the outcome in supply/audit.json, for docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import venv
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypedDict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from lock import read  # noqa: E402

LOCKS = ("build", "packages", "torch", "audit")
DATABASES = {"pypi": "PyPI's advisories", "osv": "OSV"}
LONGEST = timedelta(days=180)


class CouldNot(Exception):
    """Why no answer was had."""


class Outcome(TypedDict):
    """What supply/audit.json holds; `known` are 'package version id', `why` says what stopped an audit."""

    date: str
    database: str
    asked: int
    audited: int
    known: list[str]
    ignored: list[str]
    why: str


def layers(folder: Path = HERE) -> list[dict[str, str]]:
    """Return `{name: version}` with every locked version in one of them, the smallest first.

    pip-audit takes one version of a name at a time and passes over markers of other Pythons.
    """
    versions: dict[str, list[str]] = {}
    for part in LOCKS:
        for pin in read(folder / f"{part}.txt"):
            if pin.version not in versions.setdefault(pin.name, []):
                versions[pin.name].append(pin.version)
    deepest = max(len(found) for found in versions.values())
    return [
        {n: found[i] for n, found in versions.items() if i < len(found)} for i in reversed(range(deepest))
    ]


def left(end: float) -> float:
    """Return the seconds until `end` (of time.monotonic); CouldNot where there are none."""
    if (seconds := end - time.monotonic()) <= 0:
        raise CouldNot("out of time")
    return seconds


def command(words: list[str], end: float) -> subprocess.CompletedProcess[str]:
    """Run `words` until `end`; CouldNot where it takes longer."""
    try:
        return subprocess.run(words, text=True, capture_output=True, check=False, timeout=left(end))
    except subprocess.TimeoutExpired:
        raise CouldNot("out of time") from None


def install(place: Path, end: float) -> Path:
    """Return the Python of an environment with the pip-audit that is locked, made where it is missing."""
    python, stamp = place / "bin" / "python", place / ".installed"
    wanted = (HERE / "audit.txt").read_text(encoding="utf-8")
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        venv.create(place, clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        done = command([*pip, "--require-hashes", "--no-deps", "-r", str(HERE / "audit.txt")], end)
        if done.returncode:
            raise CouldNot(
                f"pip-audit cannot be installed: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
            )
        stamp.write_text(wanted, encoding="utf-8")
    return python


def ask(python: Path, pins: dict[str, str], database: str, end: float) -> list[dict[str, Any]]:
    """Return pip-audit's answer for each of `pins`; CouldNot, with its last line, where it has none."""
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder, "asked.txt")
        asked.write_text("".join(f"{n}=={v}\n" for n, v in pins.items()), encoding="utf-8")
        words = [
            "-m",
            "pip_audit",
            "-r",
            str(asked),
            "--no-deps",
            "--disable-pip",
            "-s",
            database,
            "-f",
            "json",
        ]
        done = command([str(python), *words, "--timeout", "10", "--progress-spinner", "off"], end)
    try:
        answers: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise CouldNot(re.sub(r"HTTPS?ConnectionPool.*", "no connection", last)[:300]) from None
    if all("skip_reason" in answer for answer in answers):
        raise CouldNot(f"it knows none of {len(answers)} packages; {answers[0]['skip_reason']}")
    return answers


def audit(python: Path, pins: list[dict[str, str]], end: float) -> tuple[str, list[dict[str, Any]]]:
    """Return the first database that answers, and its answers; CouldNot with what each said."""
    said = []
    for database, name in DATABASES.items():
        try:
            return name, [answer for part in pins for answer in ask(python, part, database, end)]
        except CouldNot as why:
            said.append(f"{name}: {why}")
    raise CouldNot("; ".join(said))


def ignored(today: date, path: Path = HERE / "ignored.toml") -> dict[tuple[str, str], str]:
    """Return `{(package, id): reason}` of what is passed over today."""
    found = {}
    for row in tomllib.loads(path.read_text(encoding="utf-8")).get("ignored", []):
        if today <= row["until"] <= today + LONGEST:
            found[row["package"], row["id"]] = f"{row['reason']} (until {row['until']})"
    return found


def judge(
    answers: list[dict[str, Any]], passed_over: dict[tuple[str, str], str]
) -> tuple[list[str], list[str]]:
    """Return the vulnerabilities that count and those passed over, each as a line; an id's aliases count as it."""
    known, ignoring = [], []
    for answer in answers:
        for one in answer.get("vulns", []):
            names = [one["id"], *one.get("aliases", [])]
            reason = next((r for n in names if (r := passed_over.get((answer["name"], n)))), None)
            line = f"{answer['name']} {answer['version']} {one['id']}"
            if reason:
                ignoring.append(f"{line}: {reason}")
            else:
                known.append(f"{line}: fixed in {', '.join(one.get('fix_versions', [])) or 'no release yet'}")
    return known, ignoring


def run(place: Path, seconds: float, today: date) -> Outcome:
    """Audit every locked package within `seconds`."""
    end, pins = time.monotonic() + seconds, layers()
    asked = sum(map(len, pins))
    try:
        database, answers = audit(install(place, end), pins, end)
    except CouldNot as why:
        return Outcome(
            date=str(today), database="", asked=asked, audited=0, known=[], ignored=[], why=str(why)
        )
    known, ignoring = judge(answers, ignored(today))
    silent = [f"{answer['name']}: {answer['skip_reason']}" for answer in answers if "skip_reason" in answer]
    return Outcome(
        date=str(today),
        database=database,
        asked=asked,
        audited=len(answers) - len(silent),
        known=known,
        ignored=ignoring,
        why="; ".join(silent),
    )


def tell(outcome: Outcome) -> str:
    """Return the outcome as lines."""
    if not outcome["audited"]:
        return f"audit: could not audit {outcome['asked']} pinned versions: {outcome['why']}"
    of = f"{outcome['audited']} of {outcome['asked']} pinned versions by {outcome['database']} on {outcome['date']}"
    lines = [
        f"audit: {of}: {len(outcome['known'])} known vulnerabilities, {len(outcome['ignored'])} passed over",
        *(f"audit: {line}" for line in outcome["known"]),
        *(f"audit: passed over: {line}" for line in outcome["ignored"]),
    ]
    return "\n".join([*lines, *([f"audit: not audited: {outcome['why']}"] if outcome["why"] else [])])


def main() -> int:
    """Audit, tell and, when asked, record."""
    parser = argparse.ArgumentParser(description="audit the pinned versions")
    parser.add_argument("--seconds", type=float, default=60.0, help="give up after so many")
    parser.add_argument("--record", action="store_true", help="write supply/audit.json")
    asked = parser.parse_args()
    outcome = run(HERE.parent / ".venv" / "audit", asked.seconds, date.today())
    print(tell(outcome))
    if asked.record:
        (HERE / "audit.json").write_text(json.dumps(outcome, indent=2) + "\n", encoding="utf-8")
    return 1 if outcome["known"] else 0


if __name__ == "__main__":
    sys.exit(main())
