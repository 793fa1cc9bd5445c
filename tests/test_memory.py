"""Freed memory is used again instead of being mapped and zeroed anew."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = """
import resource, sys
import torch
from cxr._memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    for _ in range(4):
        torch.ones(2**24)  # 64 MiB
for _ in range(6):
    step()  # until the heap is as large as it will be
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


JOB = """
import sys
import cxr._memory
from cxr.config import run_app
cxr._memory.keep_freed_memory = lambda: print("asked")
def job(config):
    print("job")
sys.argv = ["train.py", *sys.argv[1:]]
run_app("train", job)
"""


@pytest.mark.parametrize(("words", "expected"), [((), "asked job"), (("--cfg", "job"), "")])
def test_every_program_asks_for_it_before_its_job(
    words: tuple[str, ...], expected: str, repository: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-c",
        JOB,
        "data=phantom",
        f"runs_dir={tmp_path}",
        f"hydra.run.dir={tmp_path}",
        *words,
    ]
    done = subprocess.run(command, cwd=repository, text=True, capture_output=True, check=True)
    said = [line for line in done.stdout.splitlines() if line.startswith(("asked", "job"))]
    assert " ".join(said) == expected


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_a_second_step_faults_in_next_to_no_pages(repository: Path) -> None:
    faults = {}
    for how in ("keep", "leave"):
        done = subprocess.run(
            [sys.executable, "-c", COUNT, how], cwd=repository, text=True, capture_output=True, check=True
        )
        faults[how] = int(done.stdout)
    assert faults["keep"] < 100
    assert faults["leave"] > 100, "torch or glibc keeps it by itself now: cxr/_memory.py can go"
