"""Read supply/*.txt, the SHA-256 of every file of every pinned package, and write them anew: `make lock`.

build.txt      what runs while others are installed: pip, setuptools, hatchling and what they need
packages.txt   everything else of constraints.txt but torch and torchvision
torch.txt      those two and the CUDA libraries that they ask for: checked after installing (supply/verify.py says why)
audit.txt      pip-audit, in an environment of its own
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TORCH = ("torch", "torchvision")
HEAD = "# Written by `make lock` from constraints.txt: SHA-256 of every file of each release on PyPI.\n"


@dataclass(frozen=True)
class Pin:
    """One `name==version ; marker` with the SHA-256, as hex, of each of its files."""

    name: str
    version: str
    marker: str
    hashes: frozenset[str]


def read(path: Path) -> list[Pin]:
    """Return the pins of a lock or of constraints.txt (there without hashes); ValueError on any other line."""
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    pins = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        found = re.fullmatch(
            r"([A-Za-z0-9._-]+)==([^\s;]+)\s*(?:;\s*(.*?))?((?:\s+--hash=sha256:[0-9a-f]{64})*)\s*", line
        )
        if not found:
            raise ValueError(f"{path.name}: {line[:80]!r} is no pin")
        name = re.sub(r"[-_.]+", "-", found[1]).lower()
        pins.append(Pin(name, found[2], found[3] or "", frozenset(re.findall(r"[0-9a-f]{64}", found[4]))))
    return pins


def resolve(wanted: list[str], constraints: Path, *, dependencies: bool) -> str:
    """Return uv's lock of `wanted` for Python 3.10 and newer on every platform."""
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder, "asked.txt")
        asked.write_text("\n".join(wanted), encoding="utf-8")
        extra = [] if dependencies else ["--no-deps"]
        done = subprocess.run(
            [
                *(
                    "uv",
                    "pip",
                    "compile",
                    "--quiet",
                    "--no-config",
                    "--universal",
                    "--python-version",
                    "3.10",
                ),
                *("--generate-hashes", "--no-header", "--no-annotate", "--constraint", str(constraints)),
                *extra,
                str(asked),
            ],
            text=True,
            stdout=subprocess.PIPE,
            check=True,
        )
    return done.stdout


def blocks(lock: str) -> dict[str, list[str]]:
    """Split a lock's text by package: `{name: [one text for each version]}`."""
    found: dict[str, list[str]] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", lock.strip()):
        found.setdefault(re.sub(r"[-_.]+", "-", block.split("==")[0]).lower(), []).append(block)
    return found


def main() -> None:
    """Write the four locks."""
    constraints = HERE.parent / "constraints.txt"
    lines = [line for line in constraints.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    pinned = blocks(resolve(lines, constraints, dependencies=False))
    build = blocks(resolve(["pip", "setuptools", "hatchling"], constraints, dependencies=True))
    torch = blocks(resolve(list(TORCH), constraints, dependencies=True))
    if missing := sorted(set(build) - set(pinned)):
        sys.exit(f"lock: pin {', '.join(missing)} in constraints.txt: the build asks for them")
    parts = {
        "build": {name: pinned[name] for name in build},
        "packages": {n: texts for n, texts in pinned.items() if n not in build and n not in TORCH},
        "torch": {n: texts for n, texts in torch.items() if n in TORCH or n not in pinned},
        "audit": blocks(resolve(["pip-audit"], constraints, dependencies=True)),
    }
    for part, packages in parts.items():
        text = HEAD + "".join(f"{block}\n" for name in sorted(packages) for block in packages[name])
        (HERE / f"{part}.txt").write_text(text, encoding="utf-8")
        print(f"supply/{part}.txt: {len(packages)} packages, {text.count('--hash')} hashes")


if __name__ == "__main__":
    main()
