"""docs/extending.md is true: its files, written where it says, pass their tests, train, and are refused as it says."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
COPIED = ("cxr", "conf", "hydra_plugins", "train.py", "generate.py", "evaluate.py", "pyproject.toml")
COPIED_TESTS = ("conftest.py", "test_config.py", "gan/conftest.py")
FILE = re.compile(r"(?:# @package _global_\n)?# ([\w/]+\.(?:py|yaml))\n")

# All commands in one process, as each fresh one would import torch for seconds. Leaves what happened on stdout.
DRIVER = """
import contextlib, io, json, runpy, sys
from hydra.core.global_hydra import GlobalHydra
import cxr
told = []
for program, *arguments in json.loads(sys.argv[1]):
    sys.argv, code, out, err = [program, *arguments], 0, io.StringIO(), io.StringIO()
    GlobalHydra.instance().clear()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as ended:
            code = ended.code or 0
        except Exception as error:
            code, _ = 1, print(repr(error), file=err)
    told.append([code, out.getvalue(), err.getvalue()])
print(json.dumps({"cxr": cxr.__file__, "told": told}))
"""


def readme_helpers() -> ModuleType:
    """Return tests/test_readme.py, which reads the blocks of a page; tests are no package to import from."""
    spec = importlib.util.spec_from_file_location("readme_helpers", PAGE.parents[1] / "tests/test_readme.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


BLOCKS = readme_helpers().blocks(PAGE)


def lines(*marks: str) -> list[str]:
    found = [line for block in BLOCKS if block.mark in marks for line in block.lines]
    assert found, f"the page has no block marked {marks}"
    return found


def files() -> dict[str, str]:
    """Return path → text of every file that the page gives whole."""
    given = [(FILE.match(block.text), block) for block in BLOCKS if block.language in ("python", "yaml")]
    return {match[1]: block.text for match, block in given if match}


def words(line: str) -> list[str]:
    python, *rest = shlex.split(line)
    assert python == "python", line
    return rest


@dataclass(frozen=True)
class Ended:
    line: str
    code: int
    out: str
    err: str


def type_in(folder: Path, *typed: str) -> list[Ended]:
    """Run `python SCRIPT …` lines in a copy of the checkout, and make sure that the copy is what ran."""
    done = python(folder, "-c", DRIVER, json.dumps([words(line) for line in typed]))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert Path(answer["cxr"]).is_relative_to(folder), "another cxr was imported than the page's"
    return [Ended(line, *told) for line, told in zip(typed, answer["told"], strict=True)]


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder), "COLUMNS": "200"},
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with the page's files in it, nothing else changed."""
    root, copy = PAGE.parents[1], tmp_path_factory.mktemp("extending")
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, copy / name)
    for name in COPIED_TESTS:
        (copy / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "tests" / name, copy / "tests" / name)
    for name, text in files().items():
        assert not (copy / name).exists(), f"{name} is in the checkout already"
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text, encoding="utf-8")
    (entry,) = lines("NEEDS")
    door, begin = copy / "tests/test_config.py", "NEEDS: dict[str, list[str]] = {\n"
    before, found, after = door.read_text("utf-8").partition(begin)
    assert found, "tests/test_config.py has no NEEDS any more"
    door.write_text(f"{before}{begin}{entry}\n{after}", encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def typed(checkout: Path) -> Iterator[dict[str, Ended]]:
    """What became of every command of the page, in order, the refused ones among them."""
    asked = [line.removeprefix("$ ") for line in lines("run", "error") if not line.startswith("error: ")]
    yield {ended.line: ended for ended in type_in(checkout, *asked)}


def answers(mark: str) -> list[tuple[str, str]]:
    pairs = lines(mark)
    return [(asked.removeprefix("$ "), told) for asked, told in zip(pairs[::2], pairs[1::2], strict=True)]


def test_the_page_gives_a_module_a_yaml_and_a_test_of_each_kind() -> None:
    assert set(files()) == {
        *("cxr/gan/tiny.py", "conf/gan/tiny.yaml", "tests/gan/test_tiny.py"),
        *("cxr/classifier/three_conv.py", "conf/classifier/three_conv.yaml"),
        "tests/classifier/test_three_conv.py",
        *("cxr/data/ward.py", "conf/data/ward.yaml", "tests/data/test_ward.py", "make_ward.py"),
        *(f"conf/experiment/ward/{name}.yaml" for name in ("gan", "cnn", "cnn_synthetic")),
    }


def test_no_block_goes_unchecked() -> None:
    for block in BLOCKS:
        shown = block.language == "text"  # a layout
        assert shown or block.mark or FILE.match(block.text), block.text


def test_every_command_runs(typed: dict[str, Ended]) -> None:
    for line in lines("run"):
        assert typed[line].code == 0, f"{line}\n{typed[line].out}{typed[line].err}"


def test_the_recipe_ends_in_a_report_with_both_arms(checkout: Path, typed: dict[str, Ended]) -> None:
    results = [
        json.loads((checkout / f"runs/ward-{name}/result.json").read_text())
        for name in ("cnn", "cnn_synthetic")
    ]
    assert [result["arm"] for result in results] == ["real_only", "synthetic"]
    assert {result["model"] for result in results} == {"three_conv"}
    assert results[1]["counts"]["train"]["opacity"]["synthetic"] == 20
    assert "ward-cnn_synthetic" in (checkout / "reports/ward/report.html").read_text("utf-8")


@pytest.mark.parametrize(("line", "answer"), answers("error"), ids=lambda text: text[:70])
def test_what_is_forgotten_is_told(line: str, answer: str, typed: dict[str, Ended]) -> None:
    assert (typed[line].code, typed[line].err.strip(), typed[line].out) == (2, answer, "")


def test_a_recipe_without_its_first_line_is_told(checkout: Path, typed: dict[str, Ended]) -> None:
    ((line, answer),) = answers("unpackaged")
    recipe = checkout / "conf/experiment/ward/gan.yaml"
    text = recipe.read_text("utf-8")
    try:
        recipe.write_text(text.partition("\n")[2], encoding="utf-8")
        (ended,) = type_in(checkout, line)
    finally:
        recipe.write_text(text, encoding="utf-8")
    assert (ended.code, ended.err.strip()) == (2, answer)


def test_its_tests_pass(checkout: Path) -> None:
    (line,) = lines("pytest")
    named = {word for word in words(line) if word.endswith(".py")}
    assert named == {name for name in files() if name.startswith("tests/")} | {"tests/test_config.py"}
    done = python(checkout, *words(line), "-rA")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = set(re.findall(r"^PASSED (\S+::\S+)", done.stdout, re.MULTILINE))
    built = {
        f"tests/test_config.py::test_every_yaml_passes_the_door_and_builds[{name}]" for name in choices()
    }
    assert built <= passed
    assert {name.partition("::")[0] for name in passed} == named


def choices() -> set[str]:
    return {name[len("conf/") : -len(".yaml")] for name in files() if name.startswith("conf/")}


def test_its_code_is_in_the_style_of_the_house(checkout: Path) -> None:
    modules = [name for name in files() if name.endswith(".py")]
    for arguments in (["check"], ["format", "--check"]):
        done = python(checkout, "-m", "ruff", *arguments, "--no-cache", *modules)
        assert done.returncode == 0, done.stdout + done.stderr


def test_links_and_paths_of_the_page_exist() -> None:
    text = PAGE.read_text("utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (PAGE.parent / link).exists(), link
    for path in re.findall(r"`((?:conf|cxr|tests|docs)/[\w/.]+)`", text):
        assert (PAGE.parents[1] / path).exists(), path
