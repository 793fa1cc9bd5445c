"""`import cxr` first, and lightning and timm import beside a torchvision whose operators cannot load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def fresh(repository: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )


def test_lightning_and_timm_import_after_cxr(repository: Path) -> None:
    code = (
        "import cxr, sys; assert 'torch' not in sys.modules; import lightning, timm, torchvision.transforms"
    )
    done = fresh(repository, code)
    assert done.returncode == 0, done.stderr


def test_without_cxr_torchvision_fails_here(repository: Path) -> None:
    """The trap is real on this machine: else the test above would pass without our finder."""
    done = fresh(repository, "import torchvision")
    if done.returncode == 0:
        pytest.skip("torchvision's own operators load here: nothing to mend")
    assert "operator torchvision::nms does not exist" in done.stderr
