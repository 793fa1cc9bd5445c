"""pyproject.toml and constraints.txt agree: each Python gets one tested version of everything we ask for.

What may never be asked for is in tests/test_supply_chain.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def pins(repository: Path, python: str) -> dict[str, str]:
    """Return `{name: version}` of constraints.txt for one Python; a name pinned twice fails."""
    found: dict[str, str] = {}
    for line in (repository / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate(
            {"python_version": python, "python_full_version": f"{python}.1"}
        ):
            name, version = canonicalize_name(pin.name), str(pin.specifier)
            assert name not in found, f"{name} is pinned twice for Python {python}"
            assert re.fullmatch(r"==[^*,]+", version), line
            found[name] = version.removeprefix("==")
    return found


def project(repository: Path) -> dict[str, object]:
    """Return the [project] table."""
    table: dict[str, object] = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    return table


def requirements(repository: Path) -> list[Requirement]:
    table = project(repository)
    asked, extras = table["dependencies"], table["optional-dependencies"]
    assert isinstance(asked, list)
    assert isinstance(extras, dict)
    return [Requirement(text) for text in [*asked, *extras["dev"]]]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_a_tested_version_within_its_range(repository: Path, python: str) -> None:
    tested = pins(repository, python)
    for wanted in requirements(repository):
        version = tested[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), f"{wanted} does not admit the tested {version}"


def test_the_constraints_serve_cpu_and_cuda_machines(repository: Path) -> None:
    """A CUDA wheel of torch names its own libraries; pinning those, or `+cpu`, would break one of the two."""
    tested = pins(repository, "3.11")
    assert not [name for name in tested if name.startswith(("nvidia-", "cuda-", "triton"))]
    assert not [name for name, version in tested.items() if "+" in version]


def test_every_console_script_exists(repository: Path) -> None:
    scripts = project(repository)["scripts"]
    assert isinstance(scripts, dict)
    assert set(scripts) == {
        f"cxr-{name}" for name in ("train", "generate", "curate", "score", "evaluate", "study", "status")
    }
    for target in scripts.values():
        module, _, function = str(target).partition(":")
        source = repository / Path(*module.split(".")).with_suffix(".py")
        assert f"def {function}(" in source.read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", ["cache", "runs", "synthetic", "reports", "demo", "studies"])
def test_what_stages_leave_is_no_changed_file(folder: str, repository: Path) -> None:
    """Else every run's manifest would call its revision changed."""
    if not (repository / ".git").exists():
        pytest.skip("not a checkout")
    told = subprocess.run(["git", "check-ignore", f"{folder}/x/y.json"], cwd=repository, check=False)
    assert told.returncode == 0
