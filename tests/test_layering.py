"""Imports go one way; the light modules import nothing heavy; YAML-buildable things take no **kwargs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

# A module may import from levels before its own, never from a sibling on its own level.
LEVELS: list[set[str]] = [
    {"errors", "_torchvision", "_memory", "_parent", "jit"},
    {"files", "mistakes", "share"},
    {"target"},
    {"signature", "startup", "sweep", "trainer_rules"},
    {"rules"},
    {"run"},
    {"search"},
    {"config"},
    {"data", "gan", "classifier", "loss", "metric"},
    {"task"},
    {"extractor"},
    {"tracking"},
    {"callback"},
    {"trainer"},
    {"evaluation"},
    {"report"},
    {"launch"},
    {"study"},
    {"script"},
]
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}


def modules(repository: Path) -> list[Path]:
    return sorted((repository / "cxr").rglob("*.py"))


def room(path: Path, repository: Path) -> str:
    return path.relative_to(repository / "cxr").parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Return the rooms of cxr that a module imports, at its top or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("cxr.") and n.split(".")[1] in LEVEL}
    return found


def test_every_module_has_a_level(repository: Path) -> None:
    unknown = {room(p, repository) for p in modules(repository)} - set(LEVEL) - {"__init__"}
    assert not unknown


def test_imports_go_one_way(repository: Path) -> None:
    wrong = []
    for path in modules(repository):
        here = room(path, repository)
        if here == "__init__":
            continue
        wrong += [
            f"{path.relative_to(repository)} imports cxr.{there}"
            for there in imports(path)
            if there != here and LEVEL[there] >= LEVEL[here]
        ]
    assert not wrong, "\n".join(wrong)


def test_the_report_reads_files_never_models(repository: Path) -> None:
    for path in (repository / "cxr" / "report").rglob("*.py"):
        assert imports(path) <= {"report", "metric", "files", "errors", "share"}, path
        assert "import torch" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    "module",
    [
        "cxr",
        "cxr.config",
        "cxr.run",
        "cxr.script.train",
        "cxr.script.generate",
        "cxr.script.curate",
        "cxr.script.evaluate",
        "cxr.script.score",
        "cxr.script.study",
        "cxr.study",
        "cxr.launch.processes",
        "cxr.launch.search",
        "cxr.launch.slurm",
        "hydra_plugins.cxr_launch.processes",
        "hydra_plugins.cxr_launch.optuna",
        "hydra_plugins.cxr_launch.slurm",
        "hydra_plugins.cxr_launch.plan",
        "hydra_plugins.cxr_launch.grid",
        "cxr.script.status",
    ],
)
def test_light_modules_import_nothing_heavy(module: str, repository: Path) -> None:
    heavy = {"torch", "lightning", "pandas", "cv2", "matplotlib", "sklearn", "timm", "wandb", "optuna"}
    code = f"import sys, importlib; importlib.import_module({module!r}); print(*sorted(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, text=True, capture_output=True, check=True
    )
    assert not heavy & set(shown.stdout.split())


def test_nothing_built_from_yaml_swallows_keys(repository: Path) -> None:
    """A `**kwargs` in a constructor would let a misspelt key vanish."""
    for path in modules(repository):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                assert node.args.kwarg is None, f"{path}:{node.lineno}"
