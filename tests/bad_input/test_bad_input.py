"""Bad input, a clear end: each row of the table (cases.py) through the real entry point.

A refusal is one line on stderr and exit code 2, changes no file that was there, and leaves nothing half-written:
a run that says why it failed, a cache that is whole, or the list of files that could not be used.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TABLE = runpy.run_path(str(HERE / "cases.py"))
CASES: list[Any] = TABLE["CASES"]
RESULTS = {"result.json", "predictions.parquet", "predictions_val.parquet"}

Ended = tuple[object, str, str]  # exit code (None: 0), stdout, stderr
Door = Callable[..., Ended]


ROWS: list[str] = []  # of the table in the docs, of the cases that were run
PAGE = HERE.parents[1] / "docs" / "reliability.md"
HEAD = ["| Input | Command | Exit code | What is said |", "|---|---|---|---|"]
BEGIN = "<!-- bad input: written by tests/bad_input -->"
END = "<!-- bad input: end -->"
STEADY = [  # what depends on the machine, the moment or a library's version
    (r"-[0-9a-f]{16}\.partial", "-….partial"),
    (r"folder-32-[0-9a-f]{16}", "folder-32-…"),
    (r"\(split [0-9a-f]{12}, then [0-9a-f]{12}\)", "(split …, then …)"),
    (r", all are listed in \S+;.*", "; …"),
    (r"not valid JSON \(.*?\);", "not valid JSON (…);"),
    (r"not valid JSON \(.* \(char \d+\)\)", "not valid JSON (…)"),
    (r"at step \d+", "at step N"),
    (r"(?<=this is )cxr \S+ with Lightning [\d.]+\d|cxr \S+ with Lightning [\d.]+\d(?= goes on)", "cxr …"),
    (r" with Lightning (?!99)[\d.]+\d", " with Lightning …"),
    (r"not a checkpoint of cxr \(.*?\);", "not a checkpoint of cxr (…);"),
    (r"fits another generator \(.*?\);", "fits another generator (…);"),
    (r"not a parquet file \(.*", "not a parquet file (…)"),
    (r"cannot be decoded \(.*?\)", "cannot be decoded (…)"),
    (r"truncated or damaged file \(.*?\)\)", "truncated or damaged file (…))"),
    (r"a decompression bomb \(.*?\)\)", "a decompression bomb (…))"),
    (r"cannot be read \(.*?\):", "cannot be read (…):"),
    (r"not a run's configuration \(.*?\);", "not a run's configuration (…);"),
]


def run_here(script: str, *arguments: str) -> object:
    """Run a script's main() in this process; return its exit code."""
    import importlib

    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script}.py", *arguments])
        patch.delenv("HYDRA_FULL_ERROR", raising=False)
        try:
            importlib.import_module(f"cxr.script.{script}").main()
        except SystemExit as ended:
            return ended.code
    return None


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], None]:
    """Put what a case begins with into a folder; trained once."""
    made: dict[str, Path] = {}

    def make(name: str, here: Path) -> None:
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            TABLE["good_table" if name == "table" else "good_folder"](place)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(place)
                if name in ("classifier", "gan"):
                    assert run_here("train", *TABLE[name.upper()]) is None
                if name == "gan":
                    assert run_here("generate", "run=g", "n=8", "review=false") is None
            made[name] = place
        shutil.copytree(made[name], here, dirs_exist_ok=True)

    return make


def tree(here: Path) -> dict[str, str]:
    """Return the hash of every file below a folder; of a link, where it points."""
    files = [p for p in here.rglob("*") if p.is_symlink() or p.is_file()]
    return {
        p.relative_to(here).as_posix(): str(p.readlink())
        if p.is_symlink()
        else hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
    }


def whole(here: Path, before: dict[str, str], line: str) -> list[str]:
    """Return what a refusal left, in words; fail where it changed an input or left something half-written."""
    assert not (here / "owned").exists(), "a file ran code"
    after = tree(here)
    kept = {name for name in before if not name.endswith((".lock", "status.json"))}
    assert {name: after.get(name) for name in kept} == {name: before[name] for name in kept}, (
        "an input was changed"
    )
    new = [name for name in after if name not in before and Path(name).name != ".lock"]
    left = []
    for folder in sorted({"/".join(name.split("/")[:2]) for name in new}):
        kind = folder.split("/")[0]
        place = here / folder
        inside = {name.removeprefix(folder + "/") for name in new if name.startswith(folder + "/")}
        if kind == "runs":
            status = json.loads((place / "status.json").read_text())
            if status["state"] == "finished" and inside <= RESULTS:
                json.loads((place / "result.json").read_text())
                left.append("the run's result, whole")
                continue
            assert status["state"] == "failed" and status["error"], status
            kind, _, reason = status["error"].partition(": ")
            assert kind != "UserError" or " ".join(reason.split())[:60] in line, status
            left.append("the run, failed, with the reason")
        elif kind == "cache" and folder.endswith(".partial"):
            listed = list(csv.DictReader((place / "rejected.csv").open()))
            assert listed and all(row["path"] and row["reason"] for row in listed)
            left.append("rejected.csv")
        elif kind == "cache" and place.is_dir():
            manifest = json.loads((place / "manifest.json").read_text())
            pixels = hashlib.sha256((place / "images.npy").read_bytes()).hexdigest()
            assert manifest["images_sha256"] == pixels
            left.append("the cache, whole")
        elif kind == "cache" and Path(folder).name.startswith("hashes-"):
            head, _, body = place.read_text().partition("\n")
            assert head.split()[-1] == hashlib.sha256(body.encode()).hexdigest()
            left.append("the hashes of files, whole")
        else:
            assert folder.endswith(".lock"), f"left behind: {folder} {inside}"
        assert not [name for name in inside if Path(name).name.startswith(".")], f"temporary files: {inside}"
    return left


def name_of(case: Any) -> str:
    """Return a case's name, as the table has it."""
    return f"{case.group}: {case.name}"


def in_the_docs(line: str) -> None:
    """Fail where the docs say something else of a case than it did."""
    if not os.environ.get("CXR_RENEW"):
        assert line in committed(), (
            f"docs/reliability.md lacks\n{line}\nCXR_RENEW=1 python -m pytest tests/bad_input"
        )


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_bad_input(
    case: Any,
    bases: Callable[[str, Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bases(case.base, tmp_path)
    case.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    capfd.readouterr()
    code = run_here(case.script, *case.arguments)
    out, err = capfd.readouterr()
    line = row(case, 0 if code is None else code, told_of(case, out, err))
    ROWS.append(line)
    if case.taken:
        assert code is None, out + err
        for told in case.told:
            assert re.search(told, out + err), f"{told!r} is not in:\n{out}{err}"
        in_the_docs(line)
        return
    in_the_docs(line)
    assert code == 2, out + err
    [line] = err.splitlines()
    assert line.startswith("error: "), line
    for told in case.told:
        assert re.search(told, line), f"{told!r} is not in: {line}"
    assert "Traceback" not in out and "\x1b" not in line
    whole(tmp_path, before, line)


def told_of(case: Any, out: str, err: str) -> str:
    """Return what a reader is shown of a command's output: what stays the same from run to run."""
    if case.taken:
        text = err if "decoded again" in err else "the run finishes"
        if "on_bad_image=skip" in " ".join(case.arguments):
            text = "the run finishes without it; it stands in the cache's rejected.csv"
    else:
        text = err.removeprefix("error: ")
    text = " ".join(text.split()).replace(str(Path.cwd()), "/…")
    for pattern, instead in STEADY:
        text = re.sub(pattern, instead, text)
    return text if len(text) <= 300 else text[:299] + "…"


def row(case: Any, code: object, told: str) -> str:
    """Return a case as a row of the table in the docs."""
    cell = str.maketrans({"|": "\\|", "<": "&lt;", "*": "\\*"})
    return f"| {name_of(case).translate(cell)} | {case.script} | {code} | {told.translate(cell)} |"


def summary() -> str:
    """Return the line above the table."""
    taken = sum(case.taken for case in CASES)
    return (
        f"{len(CASES)} inputs, each through the real entry point: {len(CASES) - taken} end in one line on stderr and exit "
        f"code 2 and change no file; {taken} are taken."
    )


def committed() -> list[str]:
    """Return the lines between the marks of docs/reliability.md."""
    return PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].splitlines()


def test_the_docs_have_the_table() -> None:
    """Every case, and none that is no more; `CXR_RENEW=1 python -m pytest tests/bad_input` writes it anew."""
    if os.environ.get("CXR_RENEW"):
        if len(ROWS) < len(CASES):
            pytest.skip("the table is written by a run of all cases in one process: leave out -n and -k")
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        lines = [summary(), "", *HEAD, *ROWS]
        PAGE.write_text(
            f"{before}{BEGIN}\n{chr(10).join(lines)}\n{END}{rest.split(END)[1]}", encoding="utf-8"
        )
    names = [
        re.split(r" \| ", line[2:])[0] for line in committed() if line.startswith("| ") and line not in HEAD
    ]
    expected = [row(case, 0, "").split(" | ")[0][2:] for case in CASES]
    assert names == expected, "CXR_RENEW=1 python -m pytest tests/bad_input"
    assert len(set(names)) == len(CASES) >= 60
    assert summary() in committed()
