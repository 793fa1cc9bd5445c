"""S. Start-up: how long a user waits for `--help`, for `--cfg job`, and for the next job of a sweep to begin.

The peer is what a textbook Lightning + Hydra script imports at its top, whatever it is asked: `TEXTBOOK` below, in a new
interpreter. (`import cxr` comes first: it lets torchvision be imported beside a CPU-only torch, and costs 0.02 s.)

S2's job is a program with these imports and nothing else, so the same peer is its cold start. The `processes` launcher's
warm parent, which has imported them, forks it; counted are the fork, the job to its exit and the parent's part, over 5
jobs. What the parent's own start costs, once a sweep, is one cold start.

Each round measures everything once, in turns; the lines share the rounds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.harness import ROUNDS, Line, Rounds
from cxr.launch.warm import Forked, WarmParent

ROOT = Path(__file__).resolve().parents[1]
MODULES = (
    "torch",
    "lightning",
    "torchvision",
    "timm",
    "torchmetrics",
    "albumentations",
    "wandb",
    "pandas",
    "hydra",
)
TEXTBOOK = "import cxr, " + ", ".join(MODULES)
JOBS = 5
# What answers must not have loaded
LEFT_OUT = """
import atexit, sys
atexit.register(lambda: print("loaded", *({"torch", "lightning", "pandas"} & set(sys.modules)), file=sys.stderr))
sys.argv = ["train.py", *sys.argv[1:]]
from cxr.script.train import main
main()
"""


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_ALBUMENTATIONS_UPDATE": "1"}


def seconds(*words: str) -> float:
    """Return the CPU seconds of a command in a new interpreter; it must succeed."""
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit code {process.returncode}")
    return used.ru_utime + used.ru_stime


class Warm:
    """A warm parent for a program with the textbook's imports."""

    def __init__(self, folder: Path) -> None:
        """Start it, and wait until it has imported everything."""
        self.script, self.folder = folder / "job.py", folder
        self.script.write_text(f"{TEXTBOOK}\nimport os, sys\nprint(os.getpid(), 'torch' in sys.modules)\n")
        words = [sys.executable, str(self.script)]
        self.parent = WarmParent(words, MODULES, _environment(), str(folder), folder / "warm.log")
        while not self.parent.settled():
            time.sleep(0.01)
        assert not self.parent.problem, self.parent.problem

    def run(self, jobs: int) -> list[int]:
        """Run jobs one after the other; return their process ids."""
        pids = []
        for _ in range(jobs):
            words = [sys.executable, str(self.script)]
            job: Forked = self.parent.fork(
                words, _environment(), str(self.folder), self.folder / "output.log"
            )
            while (code := job.poll()) is None:
                time.sleep(0.001)
            assert code == 0, (self.folder / "output.log").read_text()
            pids.append(job.pid)
        return pids

    def used(self) -> float:
        """Return the CPU seconds of the parent and of the jobs that it has waited for: proc(5), fields 14 to 17."""
        fields = Path(f"/proc/{self.parent.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def seconds(self) -> float:
        """Return the CPU seconds of one job's start and end."""
        before = self.used()
        self.run(JOBS)
        return (self.used() - before) / JOBS


def lines() -> Iterator[Line]:
    """Yield S1's two answers and S2."""
    with tempfile.TemporaryDirectory() as scratch:
        warm = Warm(Path(scratch))
        rounds = Rounds({
            "eager": partial(seconds, "-c", TEXTBOOK),
            "help": partial(seconds, "train.py", "--help"),
            "cfg": partial(seconds, "train.py", "--cfg", "job"),
            "warm": warm.seconds,
        })  # fmt: skip

        def no_torch(*words: str) -> str:
            done = subprocess.run([sys.executable, "-c", LEFT_OUT, *words], cwd=ROOT, env=_environment(),
                                  text=True, capture_output=True)  # fmt: skip
            assert done.stderr == "loaded\n", done.stderr
            return "no torch, Lightning or pandas loaded"

        def fresh() -> str:
            pids = warm.run(3)
            assert len(set(pids)) == 3
            assert (warm.folder / "output.log").read_text() == f"{pids[-1]} True\n"
            return "each job a process of its own"

        eager = "textbook imports"
        yield Line("S1a", "train.py --help", "<=", 0.16, rounds.figure("help"), {eager: rounds.figure("eager")},
                   check=lambda: no_torch("--help"), clock="own", most=ROUNDS)  # fmt: skip
        yield Line("S1b", "train.py --cfg job", "<=", 0.07, rounds.figure("cfg"), {eager: rounds.figure("eager")},
                   check=lambda: no_torch("--cfg", "job"), clock="own", most=ROUNDS)  # fmt: skip
        yield Line("S2", "a sweep's next job, with the textbook's imports", "<=", 0.02, rounds.figure("warm"),
                   {eager: rounds.figure("eager")}, check=fresh, clock="own", most=ROUNDS)  # fmt: skip
        warm.parent.close()
