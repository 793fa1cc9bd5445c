"""`make bench`: every letter in a process of its own, one table. `ARGS='only=E1,D'`: some; `ARGS=write=true`: the page."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import ONE_THREAD, ROUNDS, Row
from cxr.files import write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table: written by make bench ARGS=write=true -->", "<!-- table: end -->"
LETTERS = {  # each with the seconds it may take: all of them below four minutes
    "D": ("d_data", 26),
    "M": ("m_models", 43),
    "G": ("g_gan", 41),
    "E": ("e_metrics", 87),
    "S": ("s_start", 40),
}
PACKAGES = [
    "torch",
    "numpy",
    "scipy",
    "numba",
    "isal",
    "opencv-python-headless",
    "torchmetrics",
    "torch-fidelity",
    "scikit-learn",
    "lightning",
    "hydra-core",
    "albumentations",
    "litdata",
    "kornia",
    "torchvision",
    "pillow",
]


def letter(name: str, only: str) -> tuple[list[Row], str]:
    """Run one letter; return its rows, and what is to be said of it ("" where nothing is)."""
    module, budget = LETTERS[name]
    if importlib.util.find_spec(f"benchmarks.{module}") is None:
        return [], f"{name}: benchmarks/{module}.py is not there"
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "rows.jsonl"
        words = [sys.executable, "-m", "benchmarks.harness", f"benchmarks.{module}", str(out), only]
        done = subprocess.run(
            words, cwd=ROOT, env={**os.environ, **ONE_THREAD}, text=True, capture_output=True
        )
        written = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    rows = [Row(**{**row, "ratios": tuple(row["ratios"])}) for row in map(json.loads, written)]
    took = time.perf_counter() - began
    if done.returncode:
        return rows, f"{name}: failed\n{done.stderr[-2000:]}"
    return rows, f"{name}: took {took:.0f} s, expected {budget} s at most" if took > budget else ""


def cells(row: Row) -> list[str]:
    """Return a row of the table."""
    if row.ratio is None:
        ratio, spread = (row.problem or "peer not installed"), ""
    else:
        low, high = min(row.ratios), max(row.ratios)
        ratio, spread = f"{_short(row.ratio)} ×", f"{_short(low)}–{_short(high)}"
    goal = f"{'≥' if row.direction == '>=' else '≤'} {row.goal:g} ×"
    verdict = {True: "reached", False: "missed", None: "–"}[row.reached]
    figures = [_figure(value, row) for value in (row.ours, row.theirs)]
    return [
        row.id,
        row.what,
        goal,
        figures[0],
        row.peer,
        figures[1],
        ratio,
        spread,
        str(len(row.ratios)),
        verdict,
    ]


HEAD = ["", "what", "goal", "ours", "peer", "peer's", "ratio", "spread", "n", ""]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _figure(value: float | None, row: Row) -> str:
    if value is None:
        return "–"
    if row.clock == "own" and row.unit != "s":
        return f"{_short(value)} {row.unit}"
    scale, unit = next(
        (s, u) for s, u in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")) if value * s >= 1 or u == "µs"
    )
    return f"{_short(value * scale)} {unit}{' wall' if row.clock == 'wall' else ''}"


def protocol() -> str:
    """Return what was measured with what, in a sentence or two."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        named = [one for one in information.read_text().splitlines() if one.startswith("model name")]
        cpu = named[0].partition(": ")[2] if named else cpu
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    return (
        f"{datetime.date.today().isoformat()}, {cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the "
        f"start; Python {platform.python_version()}, {', '.join(versions)}. One thread; ours and peer in turns, n rounds "
        f"(at least {ROUNDS}); medians of CPU time, unless wall is said; ratio: the median of the rounds' ratios, spread: "
        "their least and greatest."
    )


def markdown(rows: Sequence[Row], about: str) -> str:
    """Return the table as the page holds it, each check below it."""
    words = [HEAD, ["---"] * len(HEAD), *map(cells, rows)]
    table = "\n".join("| " + " | ".join(one) + " |" for one in words)
    checks = dict.fromkeys(f"- {row.id}: {row.checked}" for row in rows if row.checked)
    return f"{about}\n\n{table}\n\nChecked before timing:\n\n" + "\n".join(checks)


def main() -> None:
    """Run, print, write if asked; the exit status is 1 where a goal is missed or a letter failed."""
    asked = dict(word.partition("=")[::2] for word in sys.argv[1:])
    if (unknown := set(asked) - {"only", "write"}) or asked.get("write", "false") not in ("true", "false"):
        sys.exit(f"benchmarks: {' '.join(sorted(unknown)) or 'write'}: expected only=E1,D and write=true")
    only, write = asked.get("only", ""), asked.get("write") == "true"
    words = [
        word[0].upper() + word[1:].lower() for word in filter(None, only.split(","))
    ]  # E4b, as lines are called
    wanted = {word[0]: "" if word[0] in words else ",".join(words) for word in words}
    if write and wanted:
        sys.exit("benchmarks: the page holds one run of every line; give write=true without only=…")
    if strange := set(wanted) - set(LETTERS):
        sys.exit(f"benchmarks: only={only}: no {', '.join(sorted(strange))}; expected {', '.join(LETTERS)}")
    about, began = protocol(), time.perf_counter()
    rows, said = [], []
    for name in LETTERS:
        if wanted and name not in wanted:
            continue
        found, remark = letter(name, wanted.get(name, ""))
        rows += found
        said += [remark] if remark else []
    table = Table(*HEAD, title="make bench", caption=about, caption_justify="left")
    for row in rows:
        style = {True: "", False: "bold red", None: "dim"}[row.reached]
        table.add_row(*cells(row), style=style)
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    for check in dict.fromkeys(f"{row.id}: {row.checked}" for row in rows if row.checked):
        console.print(check, highlight=False)
    for remark in said:
        console.print(remark, style="red", highlight=False)
    console.print(f"{time.perf_counter() - began:.0f} s")
    if write:
        before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            sys.exit(f"{PAGE}: the marks of the table are gone; put back {BEGIN} and {END}")
        write_text(PAGE, f"{before}{BEGIN}\n{markdown(rows, about)}\n{END}{after}")
    sys.exit(any(row.reached is False for row in rows) or any("failed" in one for one in said))


if __name__ == "__main__":
    main()
