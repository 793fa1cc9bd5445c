"""Real SLURM clusters on loopback, private to the tests: see supervise.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

REQUIRED = "CXR_REQUIRE_SLURM"  # set by .ci/run where SLURM could be installed: then nothing here skips
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")


@dataclass(frozen=True)
class Cluster:
    """A running cluster; `environment` is that of a shell on its login node."""

    folder: Path
    environment: dict[str, str]

    def ask(self, *words: str) -> str:
        """Run a SLURM command."""
        shown = subprocess.run(words, env=self.environment, text=True, capture_output=True, check=True)
        return shown.stdout

    def states(self) -> dict[str, str]:
        """Return the states of the jobs in its queue by id."""
        lines = self.ask("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def wait_for(self, done: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        """Wait until `done()`; fail with what SLURM wrote."""
        until = time.monotonic() + seconds
        while not done():
            if time.monotonic() > until:
                logs = "\n".join(p.read_text()[-2000:] for p in sorted(self.folder.glob("*.log")))
                pytest.fail(f"{what}: not within {seconds:.0f} s\n{self.states()}\n{logs}")
            time.sleep(0.1)


@contextmanager
def started(nodes: int, cpus: int) -> Iterator[Cluster]:
    """Keep a cluster; skip, with the reason, where there can be none."""
    programs = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=programs) is None]
    reason = ""
    if sys.platform != "linux" or os.geteuid() != 0:
        reason = "only root on Linux can start a SLURM cluster"
    elif missing:
        reason = f"no {', '.join(missing)} here (Debian: apt-get install slurm-wlm munge)"
    if reason and os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED}=1, and {reason}")
    if reason:
        pytest.skip(reason)
    # Not below tmp_path: munge wants every folder above its socket and key closed to other writers, /tmp's kind aside.
    folder = Path(tempfile.mkdtemp(prefix="cxr-slurm-"))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "PYTEST_"))}
    environment = {**inherited, "PATH": programs, "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    supervisor = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("supervise.py")), str(folder), str(nodes), str(cpus)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert supervisor.stdin is not None
    assert supervisor.stdout is not None
    try:
        answer = supervisor.stdout.readline().strip()
        if answer != "ready":
            pytest.fail(f"SLURM: {answer or 'no answer'}")
        yield Cluster(folder, {**environment, "SLURM_CONF": str(folder / "slurm.conf")})
    finally:
        supervisor.stdin.close()
        supervisor.wait(timeout=30)
        supervisor.stdout.close()


@pytest.fixture(scope="session")
def cluster_of() -> Callable[..., AbstractContextManager[Cluster]]:
    """Start a cluster of its own for a test that breaks it."""
    return started


@pytest.fixture(scope="session")
def one_node() -> Iterator[Cluster]:
    """A cluster of one node."""
    with started(nodes=1, cpus=4) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[Cluster]:
    """A cluster of two nodes, both on this machine."""
    with started(nodes=2, cpus=2) as cluster:
        yield cluster
