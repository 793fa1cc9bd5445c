"""Compare what pip installed with the SHA-256 in supply/torch.txt: `verify.py REPORT`, a file of `pip install --report`.

torch and torchvision cannot be asked for by hash beforehand: where pip is shown another build of the same version (the CPU's,
2.13.0+cpu, or that of another CUDA), hashes would make it take PyPI's, with gigabytes of CUDA. So pip chooses, and its
report is read before anything of it is imported: run this with `python -I -S`, which skips the .pth files of site-packages.
A build with a local version (`+cpu`) has no entry on PyPI: it is told, with its hash, and not refused.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # -I leaves the script's own folder out

from lock import TORCH, Pin, read  # noqa: E402


def judge(report: dict[str, Any], lock: list[Pin]) -> tuple[list[str], list[str], list[str]]:
    """Return which of the installed are in `lock`, which have no entry there by right, and which differ from it.

    Where torch itself is a local build, the CUDA libraries it brings are its own, too.
    """
    known = {(pin.name, pin.version): pin.hashes for pin in lock}
    installed = [item for item in report["install"] if "dir_info" not in item["download_info"]]
    local = any(i["metadata"]["name"] == "torch" and "+" in i["metadata"]["version"] for i in installed)
    pinned, told, wrong = [], [], []
    for item in installed:
        name = item["metadata"]["name"].lower().replace("_", "-").replace(".", "-")
        version = item["metadata"]["version"]
        sha256 = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256", "unknown")
        line = f"{name} {version} (sha256 {sha256})"
        if sha256 in known.get((name, version), ()):
            pinned.append(line)
        elif (name in TORCH and "+" in version) or (
            local and name.startswith(("nvidia-", "cuda-", "triton"))
        ):
            told.append(line)
        else:
            wrong.append(line)
    return pinned, told, wrong


def main(report: Path) -> int:
    """Print what was found; 2 where a file is not the one that was locked."""
    _, told, wrong = judge(json.loads(report.read_text(encoding="utf-8")), read(HERE / "torch.txt"))
    for line in told:
        print(f"make: not pinned by hash, as PyPI has no such build: {line}")
    for line in wrong:
        print(
            f"make: {line} is not the file in supply/torch.txt; expected PyPI's, or a package of constraints.txt; "
            "remove .venv and look where pip takes it from (pip config list), or run make HASHES=no to go by versions",
            file=sys.stderr,
        )
    return 2 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
