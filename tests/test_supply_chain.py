"""What is installed is what was locked, no refused version can be, and an audit never says more than it was told."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SUPPLY = Path(__file__).resolve().parents[1] / "supply"
PARTS = ("build", "packages", "torch", "audit")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input")


@pytest.fixture(scope="module")
def tools() -> Any:
    """The three programs of supply/, which is no package: `make` runs them before anything is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SUPPLY))
        import audit  # type: ignore[import-not-found]
        import lock  # type: ignore[import-not-found]
        import verify  # type: ignore[import-not-found]

        class Tools:
            ask: ModuleType = audit
            locks: ModuleType = lock
            check: ModuleType = verify

        yield Tools


def refused() -> list[dict[str, str]]:
    rows: list[dict[str, str]] = tomllib.loads((SUPPLY / "refused.toml").read_text("utf-8"))["refused"]
    return rows


def ranges(repository: Path) -> list[Requirement]:
    """Everything that pyproject.toml asks for, extras included."""
    table = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [text for found in table["optional-dependencies"].values() for text in found]
    return [Requirement(text) for text in [*table["dependencies"], *extras]]


def catches(row: dict[str, str], version: str) -> bool:
    return row["versions"] == "*" or SpecifierSet(row["versions"]).contains(version, prereleases=True)


# --- what is locked


@pytest.mark.parametrize("python", PYTHONS)
def test_the_locks_hold_every_pin_and_nothing_else(repository: Path, tools: Any, python: str) -> None:
    """`make lock` was run after constraints.txt had changed; only what torch's CUDA build asks for is added."""
    here = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}

    def held(path: Path) -> dict[str, str]:
        pins = [p for p in tools.locks.read(path) if not p.marker or Marker(p.marker).evaluate(here)]
        assert len({p.name for p in pins}) == len(pins), f"{path.name}: a name twice for Python {python}"
        return {p.name: p.version for p in pins}

    wanted = held(repository / "constraints.txt")
    build, packages, torch, audit = (held(SUPPLY / f"{part}.txt") for part in PARTS)
    assert not build.keys() & packages.keys() and not torch.keys() & packages.keys()
    cuda = {name for name in torch if name.startswith(("nvidia-", "cuda-", "triton"))}
    locked = build | packages | {name: version for name, version in torch.items() if name not in cuda}
    assert locked == wanted, "make lock"
    assert {n: v for n, v in audit.items() if n in wanted} == {n: v for n, v in wanted.items() if n in audit}


def test_every_locked_version_has_the_hashes_of_its_files(tools: Any) -> None:
    for part in PARTS:
        for pin in tools.locks.read(SUPPLY / f"{part}.txt"):
            assert pin.hashes, f"{part}.txt: {pin.name} has none"


def test_a_line_that_is_no_pin_is_no_lock(tools: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    for line in ("numpy>=2", "numpy==2.4.6 --hash=md5:00", "-i elsewhere", "https://host/numpy.whl"):
        file.write_text(line)
        with pytest.raises(ValueError, match="is no pin"):
            tools.locks.read(file)


# --- what is refused


@pytest.mark.parametrize("row", refused(), ids=lambda row: f"{row['package']}{row['versions']}")
def test_a_refused_version_cannot_be_resolved(repository: Path, tools: Any, row: dict[str, str]) -> None:
    assert catches(row, row["example"]) and row["reason"] and row["source"]
    for wanted in ranges(repository):
        if canonicalize_name(wanted.name) == row["package"]:
            assert row["versions"] != "*" and not wanted.specifier.contains(row["example"]), str(wanted)
    for part in PARTS:
        for pin in tools.locks.read(SUPPLY / f"{part}.txt"):
            assert pin.name != row["package"] or not catches(row, pin.version), (part, pin.version)


def test_the_refusal_can_fail(repository: Path) -> None:
    """The tested versions lie in the ranges, which the rows would not notice if they caught everything."""
    lightning = next(r for r in ranges(repository) if r.name == "lightning")
    assert lightning.specifier.contains("2.6.6")
    assert not any(catches(row, "2.6.6") for row in refused() if row["package"] == "lightning")


# --- what is installed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of one line."""
    path = tmp_path_factory.mktemp("index") / "innocent-1.0-py3-none-any.whl"
    info = "innocent-1.0.dist-info"
    files = {
        "innocent.py": "X = 1\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: innocent\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}"
        for name, text in files.items()
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": "\n".join([*record, f"{info}/RECORD,,"])}.items():
            archive.writestr(name, text)
    return path


@pytest.mark.parametrize("tampered", [False, True])
def test_a_file_with_another_hash_is_not_installed(wheel: Path, tmp_path: Path, tampered: bool) -> None:
    """With the options of the Makefile: an index that serves other bytes under a pinned version."""
    options = re.findall(
        r"\$\(PIP\) (--require-hashes .*) -r supply/build.txt",
        (SUPPLY.parent / "Makefile").read_text("utf-8"),
    )
    sha256 = hashlib.sha256(wheel.read_bytes() + (b"!" if tampered else b"")).hexdigest()
    (tmp_path / "lock.txt").write_text(f"innocent==1.0 --hash=sha256:{sha256}\n")
    target = tmp_path / "site"
    done = subprocess.run(
        [*PIP, *options[0].split(), "-r", str(tmp_path / "lock.txt"), "--target", str(target),
         "--isolated", "--no-index", "--find-links", str(wheel.parent)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode != 0) == tampered, done.stderr
    assert ("THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr) == tampered
    assert (target / "innocent.py").is_file() != tampered


def installed(name: str, version: str, sha256: str) -> dict[str, Any]:
    archive = {"archive_info": {"hashes": {"sha256": sha256}}, "url": f"file:///{name}"}
    return {"metadata": {"name": name, "version": version}, "download_info": archive}


SELF = {"metadata": {"name": "cxr", "version": "0.1.0"}, "download_info": {"dir_info": {"editable": True}}}


def test_torch_is_looked_at_before_it_is_imported(tools: Any, tmp_path: Path) -> None:
    lock = [tools.locks.Pin("torch", "2.13.0", "", frozenset({"a" * 64}))]
    lock.append(tools.locks.Pin("nvidia-cublas", "13.1.1.3", "", frozenset({"b" * 64})))
    of_pypi = [SELF, installed("torch", "2.13.0", "a" * 64), installed("nvidia_cublas", "13.1.1.3", "b" * 64)]
    pinned, told, wrong = tools.check.judge({"install": of_pypi}, lock)
    assert (len(pinned), told, wrong) == (2, [], [])
    for item in (
        installed("torch", "2.13.0", "c" * 64),  # other bytes
        installed("torch", "2.12.0", "a" * 64),
        installed("nvidia-cublas", "13.1.1.3", "c" * 64),
        installed("nvidia-surprise", "1.0", "c" * 64),  # torch is PyPI's: what it asks for is known
        installed("numpy", "2.4.6", "c" * 64),  # should have come from packages.txt, by hash
        installed("numpy", "2.4.6+cpu", "c" * 64),
    ):
        assert len(tools.check.judge({"install": [SELF, item]}, lock)[2]) == 1, item
    local = [installed("torch", "2.13.0+cpu", "d" * 64), installed("nvidia-cublas-cu12", "12", "e" * 64)]
    pinned, told, wrong = tools.check.judge({"install": local}, lock)
    assert (pinned, len(told), wrong) == ([], 2, [])

    report = tmp_path / "torch.json"
    report.write_text(json.dumps({"install": [installed("torch", "2.13.0", "c" * 64)]}))
    program = [sys.executable, "-I", "-S", str(SUPPLY / "verify.py"), str(report)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "torch 2.13.0 (sha256 ccc" in done.stderr and "make HASHES=no" in done.stderr


# --- what an audit says

FOUND = [
    {"name": "numpy", "version": "2.4.6", "vulns": []},
    {
        "name": "pillow",
        "version": "9.0.0",
        "vulns": [{"id": "PYSEC-2022-10", "aliases": ["CVE-2022-22817"], "fix_versions": ["9.0.1"]}],
    },
]
UNKNOWN = [{"name": "numpy", "skip_reason": "Dependency not found on PyPI"}]


def test_a_known_vulnerability_counts_until_it_is_passed_over_and_again_later(
    tools: Any, tmp_path: Path
) -> None:
    row = '[[ignored]]\nid = "CVE-2022-22817"\npackage = "pillow"\nreason = "a test"\nuntil = 2027-01-31\n'
    file = tmp_path / "ignored.toml"
    file.write_text(row)
    passed = tools.ask.ignored(date(2027, 1, 31), file)
    assert tools.ask.judge(FOUND, {})[0] == ["pillow 9.0.0 PYSEC-2022-10: fixed in 9.0.1"]
    known, ignoring = tools.ask.judge(FOUND, passed)  # by its alias
    assert (known, ignoring) == ([], ["pillow 9.0.0 PYSEC-2022-10: a test (until 2027-01-31)"])
    assert tools.ask.ignored(date(2027, 2, 1), file) == {}  # over
    assert tools.ask.ignored(date(2026, 1, 1), file) == {}  # more than 180 days ahead is for ever
    assert tools.ask.judge(FOUND, {("numpy", "PYSEC-2022-10"): "x"})[0]  # another package's


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ({"dependencies": FOUND}, "audit: 2 of 5 pinned versions by PyPI's advisories on"),
        ({"dependencies": UNKNOWN}, "could not audit 5 pinned versions: PyPI's advisories: it knows none of"),
        (
            "Connection refused",
            "could not audit 5 pinned versions: PyPI's advisories: Connection refused; OSV: ",
        ),
    ],
)
def test_an_audit_that_was_told_nothing_says_so(
    tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Any, told: str
) -> None:
    """pip-audit calls both of the latter a success or a traceback; in the place of it, what it prints."""
    fake = tmp_path / "python"
    stream = "stdout" if isinstance(printed, dict) else "stderr"
    text = json.dumps(printed) if isinstance(printed, dict) else f"Traceback\n{printed}"
    fake.write_text(f"#!{sys.executable}\nimport sys\nsys.{stream}.write({text!r})\n")
    fake.chmod(0o755)
    monkeypatch.setattr(tools.ask, "install", lambda place, end: fake)
    monkeypatch.setattr(tools.ask, "layers", lambda: [dict.fromkeys("abcde", "1")])
    outcome = tools.ask.run(tmp_path, 30, date(2026, 1, 1))
    assert told in tools.ask.tell(outcome)
    assert len(outcome["known"]) == (1 if printed == {"dependencies": FOUND} else 0)


def test_an_audit_ends_in_time(tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexec sleep 30\n")
    fake.chmod(0o755)
    monkeypatch.setattr(tools.ask, "install", lambda place, end: fake)
    assert "out of time" in tools.ask.run(tmp_path, 0.2, date(2026, 1, 1))["why"]


def test_every_locked_version_is_asked_about_once(tools: Any) -> None:
    layers = tools.ask.layers()
    asked = [(name, version) for layer in layers for name, version in layer.items()]
    locked = {(pin.name, pin.version) for part in PARTS for pin in tools.locks.read(SUPPLY / f"{part}.txt")}
    assert len(asked) == len(locked) and set(asked) == locked
    assert len(layers[0]) < len(layers[-1])  # the smallest first: one answer tells that none will come


def test_what_is_passed_over_has_a_reason_and_an_end() -> None:
    for row in tomllib.loads((SUPPLY / "ignored.toml").read_text("utf-8")).get("ignored", []):
        assert row["reason"] and row["id"] and row["package"]
        assert row["until"] <= date.today() + timedelta(days=180)


# --- docs/reliability.md


def test_the_page_says_what_is_pinned_refused_and_audited(tools: Any, written: Callable[[str], Any]) -> None:
    lines = ["| Lock | Packages | Versions | SHA-256 | Installed |", "|---|---|---|---|---|"]
    how = {
        "build": "by hash, first: pip itself and what builds the others",
        "packages": "by hash",
        "torch": "PyPI's build: compared by hash before it is imported; a local build (`+cpu`): told, not compared",
        "audit": "by hash, in an environment of its own",
    }
    for part in PARTS:
        pins = tools.locks.read(SUPPLY / f"{part}.txt")
        n_hashes = sum(len(pin.hashes) for pin in pins)
        lines.append(
            f"| `supply/{part}.txt` | {len({p.name for p in pins})} | {len(pins)} | {n_hashes} | {how[part]} |"
        )
    outcome = json.loads((SUPPLY / "audit.json").read_text("utf-8"))
    lines += [
        "",
        f"Last recorded audit ({outcome['date']}):",
        "",
        "```text",
        tools.ask.tell(outcome),
        "```",
        "",
    ]
    lines += ["| Refused | Versions | Why | Source |", "|---|---|---|---|"]
    lines += [
        f"| {r['package']} | {'all' if r['versions'] == '*' else r['versions']} | {r['reason']} | {r['source']} |"
        for r in refused()
    ]
    written("supply").agree("\n".join(lines))
