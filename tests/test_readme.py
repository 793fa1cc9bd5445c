"""README is true: its commands pass the door, its quick chain runs, its errors are those you get."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict

from cxr.config import build, check_config, conf_dir, explain, plain
from cxr.run import default_name

README = Path(__file__).resolve().parents[1] / "README.md"
ARCHITECTURE = README.parent / "docs" / "architecture.md"
COMMAND = re.compile(
    r"^(?:python (train|generate|curate|score|evaluate|study)\.py|cxr-(train|generate|curate|score|evaluate|study)) "
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the mark in the comment above it, the lines within, `\\` joined."""

    language: str
    mark: str
    text: str

    @property
    def lines(self) -> list[str]:
        joined = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [line for line in joined if line.strip() and not line.startswith("#")]


@dataclass(frozen=True)
class Command:
    """One command line: the script, and the overrides of each job it means."""

    line: str
    script: str
    jobs: Sequence[Sequence[str]]


def blocks(page: Path = README) -> list[Block]:
    """Return the fenced blocks of a page, in order; a mark is `<!-- test: NAME -->` on the line above."""
    found = re.findall(
        r"^(?:<!-- test: (\w+) -->\n)?```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return [Block(language, mark, text) for mark, language, text in found]


def marked(mark: str) -> list[Block]:
    found = [block for block in blocks() if block.mark == mark]
    assert found, f"README has no block marked {mark!r}"
    return found


def parse(line: str) -> Command:
    """Read a command line as the shell and Hydra's sweeper do."""
    match = COMMAND.match(line)
    assert match, line
    words = shlex.split(line[match.end() :], comments=True)
    overrides = [word for word in words if word != "-m"]
    jobs: Sequence[Sequence[str]] = [overrides]
    if "-m" in words:
        parsed = OverridesParser.create().parse_overrides(overrides)
        jobs = BasicSweeper.split_arguments(parsed, None)[0]
    return Command(line, match[1] or match[2], jobs)


def commands() -> list[Command]:
    lines = [line for block in blocks() if block.language == "bash" for line in block.lines]
    return [parse(line) for line in lines if COMMAND.match(line)]


def composed(script: str, overrides: Sequence[str]) -> tuple[DictConfig, str]:
    """Return a checked configuration, and the name its run gets."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose(script, list(overrides), return_hydra_config=True)
    hydra = config.hydra
    base = hydra.runtime.choices.get("experiment") or hydra.runtime.choices.get("task") or "run"
    name = config.get("name") or default_name(base.replace("/", "-"), list(hydra.overrides.task))
    with open_dict(config):
        del config["hydra"]
    check_config(config, find_data=False)
    return config, name


def run_line(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Type a command of README in `folder`."""
    match = COMMAND.match(line)
    assert match, line
    words = shlex.split(line[match.end() :], comments=True)
    return run_python([str(README.parent / f"{match[1] or match[2]}.py"), *words], folder)


def run_python(arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which every block marked `run` was run, in order."""
    folder = tmp_path_factory.mktemp("readme")
    for block in marked("run"):
        if block.language == "python":
            done = run_python(["-c", block.text], folder)
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip(), "the code of README prints nothing"
            continue
        for line in block.lines:
            done = run_line(line, folder)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return folder


def test_every_command_is_found() -> None:
    """Guards the guard: a command in another form would go unchecked."""
    assert len(commands()) >= 12
    assert {command.script for command in commands()} == {"train", "generate", "evaluate"}
    for block in blocks():
        for line in block.lines if block.language == "bash" else []:
            assert COMMAND.match(line) or line.startswith("make "), f"not a command this test knows: {line}"


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.line[:60])
def test_command_passes_the_door(command: Command) -> None:
    assert command.jobs
    for overrides in command.jobs:
        config, _ = composed(command.script, overrides)
        plain(config)


def test_each_stage_names_what_an_earlier_one_left() -> None:
    """Read in order: generate names a GAN run, a mix names synthetic sets, evaluate names classifier runs."""
    gans, classifiers, sets = set[str](), set[str](), set[str]()
    for command in commands():
        for overrides in command.jobs:
            config, name = composed(command.script, overrides)
            if command.script == "generate":
                assert config.run in gans, command.line
                sets.add(config.name or config.run)
            elif command.script == "evaluate":
                for pattern in config.runs:
                    assert any(fnmatch(run, pattern) for run in classifiers), command.line
                assert not [run for run in gans for pattern in config.runs if fnmatch(run, pattern)]
            else:
                assert set(config.synthetic) <= sets, command.line
                made = gans if "gan" in config else classifiers
                assert name not in made, f"two commands of README leave runs/{name}"
                made.add(name)
    assert "talukdar-cnn_synthetic_seed-1" in classifiers, "README names it as an example"


def test_commands_marked_run_do_run(walked: Path) -> None:
    page = (walked / "reports/phantom/report.html").read_text("utf-8")
    assert "quick-real" in page and "quick-gan-added" in page


def test_stages_leave_what_readme_says(walked: Path) -> None:
    (listing,) = [block for block in blocks() if block.text.startswith("cache/<data>")]
    for line in listing.lines:
        folder, *files = line.split()
        candidates = [
            path for path in walked.glob(re.sub(r"<\w+>", "*", folder).rstrip("/")) if path.is_dir()
        ]
        assert any(all(list(path.glob(file)) for file in files) for path in candidates), line


def test_mistakes_are_answered_as_readme_says(tmp_path: Path) -> None:
    (block,) = marked("error")
    pairs = list(zip(block.lines[::2], block.lines[1::2], strict=True))
    assert len(pairs) >= 3
    for typed, answer in pairs:  # in process, as a fresh one imports for seconds
        command = parse(typed.removeprefix("$ "))
        with pytest.raises(Exception) as caught:
            composed(command.script, command.jobs[0])
        assert f"error: {explain(caught.value)}" == answer, typed
    typed, answer = pairs[0]
    done = run_line(typed.removeprefix("$ "), tmp_path)
    assert (done.returncode, done.stderr.strip(), done.stdout) == (2, answer, "")
    assert not list(tmp_path.iterdir())


def write_images(folder: Path) -> list[Path]:
    """Write two patients' images of two classes as a user would have them."""
    paths = [
        folder / label / f"p{patient}_{view}.png"
        for label, patient in (("normal", 1), ("opacity", 2))
        for view in "ab"
    ]
    for shade, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8), shade, np.uint8))
    return paths


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_own_images_are_read_as_readme_says(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = [path.relative_to(tmp_path) for path in write_images(tmp_path / "my_images")]
    rows = [(str(f), f.parent.name, f.name[:2]) for f in files]
    pd.DataFrame(rows, columns=["file", "finding", "patient"]).to_csv("my_images.csv", index=False)
    (block,) = marked(kind)
    (line,) = block.lines
    config, name = composed("train", parse(line).jobs[0])
    check_config(config)
    index = build(plain(config)["data"]).index()
    assert name.startswith("mine")
    assert sorted(index["patient_id"]) == ["p1", "p1", "p2", "p2"]
    assert index["label:opacity"].sum() == 2


def test_config_groups_are_those_of_the_table(repository: Path) -> None:
    """Every choice of every group of conf/ is in README's table, and nothing else is."""
    table = re.findall(r"^\| `(\w+)` \| (`.+?`) \|", README.read_text("utf-8"), re.MULTILINE)
    told = {group: set(re.findall(r"`([\w/*]+)`", choices)) for group, choices in table}
    conf = repository / "conf"
    groups = {path for path in conf.iterdir() if path.is_dir() and path.name != "hydra"}
    real = {group.name: {path.stem for path in group.glob("*.yaml")} for group in groups}
    real["experiment"] = {f"{path.name}/*" for path in (conf / "experiment").iterdir() if path.is_dir()}
    assert told == real


@pytest.mark.parametrize("page", [README, ARCHITECTURE], ids=lambda page: page.name)
def test_links_and_make_targets_and_paths_exist(page: Path, repository: Path) -> None:
    text = page.read_text("utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link
    targets = set(re.findall(r"^([\w-]+):", (repository / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([\w-]+)", text, re.MULTILINE)) <= targets
    for path in re.findall(r"`((?:conf|cxr|tests|docs|hydra_plugins)/[\w/.]*)`", text):
        assert (repository / path).exists(), path


def test_architecture_shows_the_levels_of_the_layering_test(repository: Path) -> None:
    tree = ast.parse((repository / "tests/test_layering.py").read_text("utf-8"))
    values = [
        n.value for n in tree.body if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == "LEVELS"
    ]
    assert len(values) == 1 and values[0] is not None
    levels = ast.literal_eval(values[0])
    (shown,) = [block for block in blocks(ARCHITECTURE) if block.language == "text"]
    assert [set(line.split()) for line in shown.lines] == levels


def test_what_architecture_calls_ours_is_there(repository: Path) -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)` \|", ARCHITECTURE.read_text("utf-8"), re.MULTILINE)
    assert {"CheckpointFiles", "CSVLog", "EpochSampler"} <= set(rows)
    code = "".join(path.read_text("utf-8") for path in (repository / "cxr").rglob("*.py"))
    for name in rows:
        assert re.search(rf"^class {name}[(:]", code, re.MULTILINE), name


@pytest.mark.parametrize("page", [README, ARCHITECTURE], ids=lambda page: page.name)
def test_pages_name_no_machine(page: Path) -> None:
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|work|mnt|Users)\b", page.read_text("utf-8"))
