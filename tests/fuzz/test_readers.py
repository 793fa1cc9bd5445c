"""Readers of files, fed with edited good files in a process of their own: a value or `UserError`, and nothing else.

The ordinary suite tries the inputs that once failed (`FOUND`) and a few of hypothesis's, the same each time. With
CXR_FUZZ_EXAMPLES=N the slow test tries N new ones of each reader, and writes the table in docs/reliability.md:

    CXR_FUZZ_EXAMPLES=2000 CXR_RENEW=1 python -m pytest -q -s -m slow tests/fuzz/test_readers.py
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import os
import platform
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
SILENT_S = (
    300.0  # a child that says nothing for so long hangs; a busy machine may take a minute to import torch
)
DOZEN = 12
CPU_S = 2.0  # of one input
MIB = 1024.0  # of one input, above what the process has
EDITS = {  # what is edited of each reader's files, for the table
    "table.csv": "bytes",
    "table.parquet": "bytes",
    "a published set's table": "bytes, plain and gzipped",
    "list of test images": "bytes",
    "image": "bytes and headers of PNG, JPEG, TIFF, BMP, WEBP, PGM; PNG checksums mended",
    "cache: manifest.json": "bytes; values and keys",
    "cache: images.checked.json": "bytes; values and keys",
    "cache: images.npy": "bytes",
    "cache: index.parquet": "bytes",
    "half a cache: parameters.json": "bytes; values and keys",
    "half a cache: pixels.npy": "bytes",
    "synthetic set: manifest.json": "bytes; values and keys; seal mended",
    "synthetic set: images.npy": "bytes; hash and seal mended",
    "synthetic set: index.parquet": "bytes; hash and seal mended",
    "run: status.json": "bytes; values and keys",
    "run: config.yaml": "bytes; values and keys",
    "run: progress.json": "bytes; values and keys",
    "run: predictions.parquet": "bytes",
    "checkpoint": "bytes of the file, its pickle, its tensors; zip and old format",
    "checkpoint that is a program": "bytes of the file, its pickle; zip, old format, bare pickle",
    "checkpoint of a GAN": "bytes of the file, its pickle, its tensors",
    "file of weights": "bytes of .pth and .safetensors, the pickle, the tensors",
}
CHEAP = {
    "image": 12,
    "checkpoint": 6,
    "checkpoint that is a program": 6,
    "a published set's table": 4,
    "checkpoint of a GAN": 3,
    "file of weights": 3,
    "run: progress.json": 2,
    "synthetic set: manifest.json": 2,
}
"""Of these so many times as many inputs are tried: they take a millisecond, where a cache that is made again takes ten."""

EXTREMES = [
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    (1 << 64) - 1,
]
WORDS = [
    "\n",
    "\r",
    '"',
    ";",
    ",",
    "\0",
    "\ufeff",
    "../",
    "/etc/passwd",
    "1e999",
    "nan",
    "${a}",
    "&a *a",
    "_target_: ",
    "\u2028",
    "!!python/name:os.system ",
    "[" * 3000,
    "{" * 3000,
    "9" * 5000,
    "\x85",
    "\ud800",
    "é",
    "\\",
    "'",
    "#",
    "x" * 300,
]
SCALARS: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    3,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "~",
    "..",
    "/",
    "a\nb",
    "running",
    "finished",
    "failed",
    "synthetic",
    "cache",
    "uint8",
    "0" * 64,
    "\ud800",
    "x" * 300,
]
KEYS = ["", "a", "_target_", "_args_", "state", "identity", "classes"]

# Positions near the beginning are headers; a parquet file's is at its end.
AT = st.one_of(st.integers(0, 64), st.integers(-200, -1), st.integers(0, 1 << 20))
BYTES = st.one_of(
    st.tuples(st.just("flip"), AT, st.integers(0, 7)),
    st.tuples(st.just("byte"), AT, st.integers(0, 255)),
    st.tuples(st.just("cut"), AT),
    st.tuples(st.just("drop"), AT, st.integers(1, 64)),
    st.tuples(st.just("copy"), AT, AT, st.integers(1, 64)),
    st.tuples(
        st.just("int"), AT, st.sampled_from([2, 4, 8]), st.sampled_from(EXTREMES), st.sampled_from("<>")
    ),
    st.tuples(st.just("text"), AT, st.sampled_from(WORDS) | st.text(max_size=8)),
    st.tuples(st.just("splice"), AT, st.integers(0, 40)),
)
VALUE = st.recursive(
    st.sampled_from(SCALARS) | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)
WITHIN = st.one_of(
    st.tuples(st.just("json"), st.integers(0, 60), VALUE), st.tuples(st.just("lose"), st.integers(0, 60))
)


def at_random(rng: random.Random, document: bool) -> list[Any]:
    """Draw one edit as BYTES and WITHIN do, a hundred times as fast: most of a long run would else be spent in drawing."""
    if document:
        which = rng.randrange(61)
        return ["lose", which] if rng.random() < 0.2 else ["json", which, value_at_random(rng, 3)]
    at = rng.choice([rng.randint(0, 64), rng.randint(-200, -1), rng.randint(0, 1 << 20)])
    return rng.choice(
        [
            ["flip", at, rng.randrange(8)],
            ["byte", at, rng.randrange(256)],
            ["cut", at],
            ["drop", at, rng.randint(1, 64)],
            ["copy", at, rng.randint(0, 1 << 20), rng.randint(1, 64)],
            ["int", at, rng.choice([2, 4, 8]), rng.choice(EXTREMES), rng.choice("<>")],
            ["text", at, rng.choice(WORDS)],
            ["splice", at, rng.randrange(41)],
        ]
    )


def value_at_random(rng: random.Random, depth: int) -> Any:
    """Draw a value that JSON and YAML can hold."""
    kind = rng.random() if depth else 0.0
    if kind < 0.6:
        return rng.choice(SCALARS)
    if kind < 0.8:
        return [value_at_random(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS): value_at_random(rng, depth - 1) for _ in range(rng.randrange(4))}


# Inputs that once ended in a traceback, other data or worse: (reader, seed, inside, edits), or the very bytes.
LONG = base64.b64encode(b"path,label,patient,part,a,b\n" + b"9" * 5000 + b",sick,q,train,1,0\n").decode()
FOUND: list[tuple[str, dict[str, Any]]] = [
    ("table.csv", {"raw": LONG}),
    ("cache: images.npy", {"seed": 0, "inside": "whole", "edits": [["cut", 0]]}),
    ("cache: images.npy", {"seed": 0, "inside": "whole", "edits": [["drop", 55, 8]]}),
    (
        "cache: manifest.json",
        {"seed": 0, "inside": "json", "edits": [["json", 11, 1]]},
    ),  # another row is left out
    ("half a cache: pixels.npy", {"seed": 0, "inside": "whole", "edits": [["copy", 0, 0, 27]]}),
    ("synthetic set: manifest.json", {"seed": 0, "inside": "json", "edits": [["json", 54, None]]}),
    ("synthetic set: manifest.json", {"seed": 0, "inside": "whole", "edits": [["text", 1250, "9" * 5000]]}),
    ("synthetic set: images.npy", {"seed": 0, "inside": "whole", "edits": [["drop", 32, 32]]}),
    ("synthetic set: images.npy", {"seed": 0, "inside": "whole", "edits": [["cut", 0]]}),
    ("run: status.json", {"seed": 0, "inside": "json", "edits": [["lose", 0], ["lose", 59]]}),
    ("run: status.json", {"seed": 0, "inside": "json", "edits": [["json", 46, 3], ["json", 40, None]]}),
    ("run: config.yaml", {"seed": 0, "inside": "yaml", "edits": [["json", 6, []], ["json", 7, 0]]}),
    ("run: config.yaml", {"seed": 0, "inside": "yaml", "edits": [["json", 11, "0" * 64]]}),
    (
        "checkpoint of a GAN",
        {"seed": 1, "inside": "pickle", "edits": [["drop", 89326, 60], ["byte", 157579, 170]]},
    ),
    ("file of weights", {"seed": 0, "inside": "pickle", "edits": [["cut", 43]]}),
    ("run: progress.json", {"seed": 0, "inside": "json", "edits": [["json", 49, None]]}),
    ("run: progress.json", {"seed": 0, "inside": "json", "edits": [["json", 59, []], ["json", 52, []]]}),
    ("run: predictions.parquet", {"seed": 0, "inside": "whole", "edits": [["byte", 50, 1]]}),
]


@dataclass
class Tally:
    """What became of the inputs of one reader."""

    ends: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu_s: float = 0.0
    mib: float = 0.0
    problems: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)

    def note(self, problem: str, asked: dict[str, Any]) -> None:
        """Keep the shortest input of each problem."""
        size = len(json.dumps(asked))
        if problem not in self.problems or size < self.problems[problem][0]:
            self.problems[problem] = (size, asked)


class Child:
    """The process that reads (child.py), started again where an input has ended it."""

    def __init__(self, folder: Path, images: list[Path]) -> None:
        self.folder, self.number = folder, 0
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(HERE.parents[1]),
            "CXR_FUZZ_IMAGES": os.pathsep.join(map(str, images)),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.rest = b""

    def start(self) -> subprocess.Popen[bytes]:
        """Start it where it does not run."""
        if self.process is None:
            self.number += 1
            self.here = self.folder / str(self.number)
            self.here.mkdir()
            with (self.here / "said.txt").open("wb") as said:
                self.process = subprocess.Popen(
                    [sys.executable, str(HERE / "child.py"), str(self.here)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    env=self.environment,
                )
        return self.process

    def ask(self, *asked: dict[str, Any]) -> list[dict[str, Any]]:
        """Return its answers; the last one's `end` is `crash` or `hang` where it gave none, and what came after it is not tried.

        Many at once: on a busy machine, to wait for each other's turn takes longer than to read a file.
        """
        process = self.start()
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(b"".join(json.dumps(one).encode() + b"\n" for one in asked))
            process.stdin.flush()
        answers: list[dict[str, Any]] = []
        for _ in asked:
            answered = self.rest or select.select([process.stdout], [], [], SILENT_S)[0]
            while answered and b"\n" not in self.rest:
                more = os.read(process.stdout.fileno(), 1 << 16)
                if not more:
                    break
                self.rest += more
            line, _, self.rest = self.rest.partition(b"\n")
            if line:
                answers.append(json.loads(line))
                continue
            told = f"silent for {SILENT_S:g} s"
            if answered:
                how = process.wait(timeout=60)
                said = (self.here / "said.txt").read_text(encoding="utf-8", errors="replace")[-2000:]
                told = signal.Signals(-how).name if how < 0 else f"exit code {how}: {said}"
            self.stop()
            nothing = {"cpu_s": 0.0, "wall_s": 0.0, "mib": 0.0, "did": []}
            answers.append({"end": "crash" if answered else "hang", "told": told, **nothing})
            break
        return answers

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process, self.rest = None, b""


@pytest.fixture(scope="session")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """One process for all readers: what it imports takes longer than a hundred inputs."""
    images: list[Path] = []
    data = Path(os.environ.get("CXR_TEST_DATA", HERE.parents[2] / "shared" / "data"))
    if os.environ.get("CXR_FUZZ_EXAMPLES"):  # real ones, where they are
        for pattern in (
            "chest-xray-pneumonia-224/**/*.jp*g",
            "nih-chestxray14-64/**/*.png",
            "covid19-radiography-like/**/*.png",
        ):
            images += sorted(data.glob(pattern))[:2]
    made = Child(tmp_path_factory.mktemp("fuzz"), images)
    yield made
    made.stop()


def judge(tally: Tally, answer: dict[str, Any], asked: dict[str, Any]) -> None:
    """Count an answer and keep what breaks the contract."""
    tally.ends[answer["end"]] += 1
    tally.cpu_s, tally.mib = max(tally.cpu_s, answer["cpu_s"]), max(tally.mib, answer["mib"])
    if answer["end"] not in ("value", "refused"):
        tally.note(f"{answer['end']}: {answer['told'].partition(': ')[0]}", {**asked, "told": answer["told"]})
    if answer["end"] == "refused" and not answer["told"].strip():
        tally.note("refused without a word", asked)
    if answer["cpu_s"] > CPU_S:
        tally.note(f"more than {CPU_S:g} s", {**asked, "cpu_s": answer["cpu_s"]})
    if answer["mib"] > MIB:
        tally.note(f"more than {MIB:g} MiB", {**asked, "mib": answer["mib"]})
    if answer["did"]:
        tally.note("did what no reader does", {**asked, "did": answer["did"]})


def attack(child: Child, name: str, examples: int) -> Tally:
    """Feed a reader with that many edited files, by dozens; the same each time."""
    about = child.ask({"reader": name})[0]
    assert "seeds" in about, about
    tally, began = Tally(), time.monotonic()

    def edited(part: str) -> st.SearchStrategy[dict[str, Any]]:
        edits = (
            st.lists(WITHIN, min_size=1, max_size=2)
            if part in ("json", "yaml")
            else st.lists(BYTES, min_size=1, max_size=4)
        )
        seed = st.integers(0, about["seeds"] - 1)
        return st.fixed_dictionaries(
            {"reader": st.just(name), "seed": seed, "inside": st.just(part), "edits": edits}
        )

    @settings(
        max_examples=max(1, examples // DOZEN),
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(asked=st.lists(st.sampled_from(about["insides"]).flatmap(edited), min_size=DOZEN, max_size=DOZEN))
    def once(asked: list[dict[str, Any]]) -> None:
        for answer, one in zip(child.ask(*asked), asked, strict=False):
            judge(tally, answer, one)

    once()
    tally.seconds = time.monotonic() - began
    return tally


def attack_at_random(child: Child, name: str, examples: int) -> Tally:
    """Feed a reader with that many files edited anew."""
    about = child.ask({"reader": name})[0]
    assert "seeds" in about, about
    tally, began, rng = Tally(), time.monotonic(), random.Random()
    while (left := examples - sum(tally.ends.values())) > 0:
        asked = []
        for _ in range(min(left, 50)):
            part = rng.choice(about["insides"])
            document = part in ("json", "yaml")
            edits = [at_random(rng, document) for _ in range(rng.randint(1, 2 if document else 4))]
            asked.append(
                {"reader": name, "seed": rng.randrange(about["seeds"]), "inside": part, "edits": edits}
            )
        for answer, one in zip(child.ask(*asked), asked, strict=False):
            judge(tally, answer, one)
    tally.seconds = time.monotonic() - began
    return tally


def test_every_reader_is_in_the_table(child: Child, written: Callable[[str], Any]) -> None:
    """A reader that is not tried, or of which docs/reliability.md says nothing, would pass unseen."""
    assert child.ask({"reader": ""})[0]["readers"] == list(EDITS)
    text = written("fuzz").read()
    assert all(f"| {name} |" in text for name in EDITS), (
        "renew with CXR_RENEW=1 and the slow test of this file"
    )


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_file_is_read_or_refused(child: Child, name: str) -> None:
    tally = attack(child, name, DOZEN * (1 if name not in CHEAP else 2))
    assert not tally.problems, json.dumps(tally.problems, indent=1)


@pytest.mark.parametrize(("name", "asked"), FOUND)
def test_what_once_failed_does_no_more(child: Child, name: str, asked: dict[str, Any]) -> None:
    tally = Tally()
    judge(tally, child.ask({"reader": name, **asked})[0], asked)
    assert not tally.problems, json.dumps(tally.problems, indent=1)


@pytest.mark.slow
def test_thousands_of_fresh_inputs(child: Child, written: Callable[[str], Any]) -> None:
    """Try CXR_FUZZ_EXAMPLES inputs (2,000 unless told) of each reader, or of those that CXR_FUZZ_READERS names."""
    examples = int(os.environ.get("CXR_FUZZ_EXAMPLES", "2000"))
    chosen = [name for name in EDITS if name in os.environ.get("CXR_FUZZ_READERS", "").split(";")] or list(
        EDITS
    )
    tallies = {}
    for name in chosen:
        tallies[name] = tally = attack_at_random(child, name, examples * CHEAP.get(name, 1))
        print(
            f"{name}: {sum(tally.ends.values())} inputs, {dict(tally.ends)}, {tally.seconds:.0f} s, "
            f"at most {tally.cpu_s:.2f} s and {tally.mib:.0f} MiB",
            flush=True,
        )
        rows = {
            row.split("|")[1].strip(): row for row in written("fuzz").read().splitlines() if row[:2] == "| "
        }
        rows[name] = row_of(name, tally)
        written("fuzz").write(page([rows[one] for one in EDITS if one in rows]))
        for problem, (_, asked) in tally.problems.items():
            print(f"  {problem}\n    {json.dumps(asked)[:1500]}", flush=True)
    assert not any(tally.problems for tally in tallies.values())


def row_of(name: str, tally: Tally) -> str:
    """Return the row of docs/reliability.md for one reader."""
    bad = sum(n for end, n in tally.ends.items() if end not in ("value", "refused"))
    counts = f"{sum(tally.ends.values())} | {tally.ends['value']} | {tally.ends['refused']} | {bad}"
    return (
        f"| {name} | {EDITS[name]} | {counts} | {tally.seconds:.0f} | {tally.cpu_s:.2f} | {tally.mib:.0f} |"
    )


def page(rows: list[str]) -> str:
    """Return what docs/reliability.md says."""
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    tried, bad = (sum(int(row[column]) for row in cells) for column in (2, 5))
    used = (
        "numpy",
        "opencv-python-headless",
        "pillow",
        "pyarrow",
        "torch",
        "safetensors",
        "omegaconf",
        "hypothesis",
    )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in used)
    return "\n".join(
        [
            (
                f"{tried:,} inputs, {bad} crashes or other errors. Each is a good file with 1 to 4 edits (bits, bytes, "
                "numbers, cuts, copies, pieces of another file, words that parsers trip over) or 1 to 2 of a document's "
                "values and keys, drawn anew for this table. It may be taken, or refused by `UserError`; anything else is "
                "an error: another exception, the end of the interpreter, more than "
                f"{CPU_S:g} s of CPU or {MIB:g} MiB for one input, a file written outside the folder, a process, a "
                "connection or code from the file (an audit hook looks). A cache's file that is refused is made again, "
                "which counts as taken: its pixels are compared."
            ),
            "",
            "| reader | what is edited | inputs | taken | refused | crashes, errors | s | most CPU s | most MiB |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"Python {platform.python_version()}, {versions}.",
        ]
    )
