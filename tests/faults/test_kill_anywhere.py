"""SIGKILL at 50 random moments of the five stages: the same command again ends well, and leaves what it always leaves.

A moment is a share of the processor time that the stage takes undisturbed, so that a busy machine kills no later. The
slow tests, one for each moment, find the numbers of docs/reliability.md; renew them, at once or in pieces, with
`CXR_RENEW=1 python -m pytest -n 4 --dist loadgroup -m slow tests/faults/test_kill_anywhere.py`. The commands run in
processes forked from one that has imported the libraries (forked.py); tests/test_kill.py starts fresh ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import re
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from cxr.callback.atomic_checkpoint import load_checkpoint
from cxr.files import write_json

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
Forked: Any = runpy.run_path(str(HERE.with_name("forked.py")))["Forked"]
SEED = 6
QUICK = ["trainer.progress=none", "trainer.log_every_n_steps=1", "loader.batch_size=8",
         "callback.checkpoints.every_n_minutes=0.001"]  # fmt: skip
CNN = ["data.n_patients=60", "cache.size_px=32", "trainer.max_epochs=3", *QUICK]
GAN = ["task=gan", "data.n_patients=60", "train_classes=[normal]", "cache.size_px=64", "trainer.max_epochs=3",
       "gan.generator.widths=[16,16,16,8]", "gan.discriminator.widths=[8,8,8]", *QUICK,
       "callback.generative_score.every_n_images=50", "callback.generative_score.n_images=16"]  # fmt: skip
EVALUATE = ["runs=[c]", "heatmaps=4", "n_resamples=200"]


@dataclass(frozen=True)
class Stage:
    """A command, what must have been before it, and how often it is killed. Workers: every second moment leaves them."""

    script: str
    words: list[str]
    moments: int
    after: str | None = None
    workers: bool = False


STAGES = {
    "cache": Stage("train", ["data.n_patients=300", "cache.size_px=32", "trainer.max_epochs=1", *QUICK[:-1],
                             "trainer.limit_train_batches=1", "name=k"], 8),
    "train, classifier": Stage("train", [*CNN, "name=c"], 5),
    "train, classifier, 2 workers": Stage("train", [*CNN, "name=c", "loader.num_workers=2"], 6, workers=True),
    "train, GAN": Stage("train", [*GAN, "name=g"], 8),
    "generate": Stage("generate", ["run=g", "n=400", "block=8"], 8, "train, GAN"),
    "evaluate": Stage("evaluate", EVALUATE, 8, "train, classifier"),
    "report": Stage("evaluate", [*EVALUATE, "report=phantom"], 7, "evaluate"),
}  # fmt: skip
ORDINARY = {  # what the ordinary suite kills once each
    "train, GAN": Stage(
        "train", [*GAN, "name=g", "trainer.limit_train_batches=1", "trainer.max_epochs=1"], 0
    ),
    "generate": Stage("generate", ["run=g", "n=200", "block=8"], 1, "train, GAN"),
    "train, classifier": Stage(
        "train", [*CNN, "name=c", "trainer.limit_train_batches=1", "trainer.max_epochs=1"], 0
    ),
    "evaluate and report": Stage(
        "evaluate", ["runs=[c]", "heatmaps=1", "n_resamples=50", "report=phantom"], 1, "train, classifier"
    ),
}

# What differs between two undisturbed runs: when, how long, by which process, after how many attempts; and the
# revision of the code, where somebody commits meanwhile.
VARYING = {"pid", "started", "ended", "updated", "created", "began", "began_at", "wall_s", "attempts", "git"}
RECORDS = {"status.json", "progress.json", "manifest.json"}


@dataclass
class Row:
    """What was found at the moments of one stage."""

    moments: int = 0
    alone: int = 0
    twice: int = 0
    recovered: int = 0
    equal: int = 0
    orphans: int = 0
    shm: int = 0
    files: int = 0
    bytes: int = 0


def without_times(value: Any) -> Any:
    """Drop the VARYING keys at any depth."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in VARYING}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def content(file: Path) -> Any:
    """Return what must be equal in a file: all of it, less times and process ids."""
    if file.name in RECORDS:
        return without_times(json.loads(file.read_text()))
    if file.name == "images.checked.json":  # hash, size, time of change
        return json.loads(file.read_text())[:2]
    if file.suffix == ".ckpt":
        return load_checkpoint(file)
    return None if file.name.endswith(".lock") else file.read_bytes()  # a lock names a process


def same(a: Any, b: Any) -> bool:
    """Say whether two trees of tensors and plain containers are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def tree(folder: Path) -> set[str]:
    """Return the paths of all files below a folder."""
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def different(a: Path, b: Path) -> list[str]:
    """Return the files that only one of two folders has (so anything half-written), or whose content differs."""
    both = tree(a) & tree(b)
    return sorted(
        (tree(a) ^ tree(b)) | {name for name in both if not same(content(a / name), content(b / name))}
    )


def used(process: int) -> tuple[float, bool]:
    """Return the seconds of processor time of a process that nobody has waited for, and whether it still lives."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), fields[0] != "Z"


def alive(session: int, folder: Path) -> list[int]:
    """Return the live processes of a session, or of any that works in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, leader = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if state != "Z" and (int(leader) == session or (entry / "cwd").resolve() == folder):
                found.append(int(entry.name))
        except OSError:  # it has just ended
            continue
    return found


def shared_memory(before: set[str], processes: set[int]) -> list[str]:
    """Return what is new in /dev/shm: by these processes where its name says by which (torch), else by anybody.

    Shared memory and semaphores are files there; folders are somebody's who takes it for a disk.
    """
    left = []
    for name in {entry.name for entry in Path("/dev/shm").iterdir() if entry.is_file()} - before:
        maker = re.match(r"torch_(\d+)_", name)
        if maker is None or int(maker[1]) in processes:
            left.append(name)
    return left


class Chain:
    """The stages, undisturbed, each once, in folders of their own; and what a kill does to one."""

    def __init__(self, stages: dict[str, Stage], place: Path) -> None:
        self.stages, self.place, self.forked = stages, place, Forked()
        self.done: dict[str, tuple[Path, float]] = {}

    def new(self, name: str) -> Path:
        """Return a new folder with what a stage begins with."""
        after = self.stages[name].after
        folder = Path(tempfile.mkdtemp(dir=self.place))
        if after is not None:
            shutil.copytree(self.calm(after)[0], folder, dirs_exist_ok=True)
        (folder / "runs").mkdir(exist_ok=True)
        key = folder / "runs/.share_key"  # drawn anew by each report that finds none
        key.write_bytes(bytes(32))
        key.chmod(0o600)
        return folder

    def calm(self, name: str) -> tuple[Path, float]:
        """Return the folder that an undisturbed stage left, and the processor time that it took."""
        if name not in self.done:
            folder = self.new(name)
            self.done[name] = folder, self.run(name, folder)
        return self.done[name]

    def start(self, name: str, folder: Path) -> int:
        """Start a stage; return its process."""
        stage = self.stages[name]
        process: int = self.forked.start(
            ROOT / f"{stage.script}.py", stage.words, folder, folder.with_suffix(".err")
        )
        return process

    def run(self, name: str, folder: Path) -> float:
        """Run a stage to its end; return its processor time."""
        process = self.start(name, folder)
        while used(process)[1]:
            time.sleep(0.01)
        seconds = used(process)[0]
        error = folder.with_suffix(".err")
        assert self.forked.wait(process) == 0, f"{name}: {error.read_text()[-3000:]}"
        return seconds

    def kill(self, name: str, folder: Path, after: float, row: Row, *, alone: bool = False) -> bool:
        """Run a stage until it has used `after` seconds and kill it; False: it had ended by itself, well.

        The whole session is killed, or the main process `alone`; what lives 20 seconds later is an orphan.
        """
        before = {entry.name for entry in Path("/dev/shm").iterdir()}
        process = self.start(name, folder)
        while (now := used(process))[0] < after and now[1]:
            time.sleep(0.002)
        known = {process, *alive(process, folder)}
        if now[1]:
            (os.kill if alone else os.killpg)(process, signal.SIGKILL)
        code = self.forked.wait(process)
        assert code in (0, -signal.SIGKILL), folder.with_suffix(".err").read_text()[-3000:]
        until = time.monotonic() + 20
        while (left := alive(process, folder)) and time.monotonic() < until:
            time.sleep(0.02)
        row.orphans += len(left)
        row.shm += len(shared_memory(before, known))
        return bool(code)

    def close(self) -> None:
        """End the process that forks."""
        self.forked.close()


def disturb(chain: Chain, name: str, moment: int) -> Row:
    """Kill a stage at one of its moments, twice at every third, and run it again; return what was found, and print it."""
    stage, row = chain.stages[name], Row(moments=1)
    chance = random.Random(f"{SEED} {name} {moment}")
    calm, seconds = chain.calm(name)
    share, again = chance.random(), chance.random()
    alone = stage.workers and moment % 2 == 0
    while not chain.kill(name, folder := chain.new(name), share * seconds, row, alone=alone):
        shutil.rmtree(folder)  # it took less time than undisturbed, and had ended
        share *= 0.9
    row.alone = int(alone)
    print(f"{name}, moment {moment}: killed at {share:.3f} of {seconds:.2f} s{', alone' * alone}", flush=True)
    if moment % 3 == 2 and chain.kill(name, folder, again * seconds, row, alone=alone):
        row.twice = 1
        print(f"{name}, moment {moment}: killed again at {again:.3f}", flush=True)
    chain.run(name, folder)
    row.recovered = 1
    found = different(calm, folder)
    assert not found, f"not as undisturbed: {', '.join(found)}"
    row.equal = 1
    begun = chain.new(name)
    wrote = {file for file in tree(calm) if file not in tree(begun) or not same_bytes(calm, begun, file)}
    row.files, row.bytes = len(wrote), sum((calm / file).stat().st_size for file in wrote)
    assert (row.orphans, row.shm) == (0, 0)
    for done in (folder, begun):
        shutil.rmtree(done)
    return row


def same_bytes(a: Path, b: Path, name: str) -> bool:
    """Say whether a file is the same in two folders."""
    return (a / name).read_bytes() == (b / name).read_bytes()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    made = Chain(STAGES, tmp_path_factory.mktemp("chain"))
    yield made
    made.close()


def grouped(name: str, *more: int) -> Any:
    """Return a case for the process of pytest-xdist (`--dist loadgroup`) that has what comes before the stage."""
    first = name
    while (after := STAGES[first].after) is not None:
        first = after
    return pytest.param(name, *more, marks=pytest.mark.xdist_group(first))


@pytest.mark.slow
@pytest.mark.parametrize("name", [grouped(name) for name in STAGES])
def test_undisturbed_runs_are_equal(name: str, chain: Chain) -> None:
    second = chain.new(name)
    chain.run(name, second)
    assert not different(chain.calm(name)[0], second)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "moment"), [grouped(name, n) for name, stage in STAGES.items() for n in range(stage.moments)]
)
def test_killed_at_a_random_moment_equals_undisturbed(
    name: str, moment: int, chain: Chain, written: Callable[[str], Any]
) -> None:
    collect(name, moment, disturb(chain, name, moment), written("faults"))


def collect(name: str, moment: int, row: Row, page: Any) -> None:
    """Keep what one moment found where the others' is, of the same test and versions; write the page from all of them.

    So the 50 can be run in pieces, one after the other or at once.
    """
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, lightning {lightning.__version__}, {sys.platform}"
    key = hashlib.sha256(HERE.read_bytes() + versions.encode()).hexdigest()[:16]
    place = Path(tempfile.gettempdir()) / f"cxr-kill-anywhere-{os.getuid()}-{key}"
    place.mkdir(exist_ok=True)
    write_json(place / f"{list(STAGES).index(name)}-{moment}.json", asdict(row))
    rows = {stage: Row() for stage in STAGES}
    for position, stage in enumerate(STAGES):
        for file in place.glob(f"{position}-*.json"):
            for field, number in json.loads(file.read_text()).items():
                setattr(rows[stage], field, getattr(rows[stage], field) + number)
    page.write(table(rows, versions))


def table(rows: dict[str, Row], versions: str) -> str:
    """Return the rows as a table in Markdown, with a line of sums, n and protocol."""
    heads = ("Stage", "Moments", "killed alone, its workers alive", "killed again while recovering", "Recovered", "Equal",
             "Orphans", "Left in /dev/shm", "Files compared", "Bytes compared")  # fmt: skip
    total = Row()
    for row in rows.values():
        for field, number in asdict(row).items():
            setattr(total, field, getattr(total, field) + number)
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    lines += [
        f"| {name} | " + " | ".join(f"{number:,}" for number in asdict(row).values()) + " |"
        for name, row in [*rows.items(), ("all", total)]
    ]
    wanted = sum(stage.moments for stage in STAGES.values())
    said = f"n = {total.moments} of {wanted} moments, uniform over the processor time of the undisturbed stage, seed {SEED}"
    return "\n".join([*lines, "", f"{said}; phantom images, CPU. {versions}."])


def test_the_page_names_today_s_stages(written: Callable[[str], Any]) -> None:
    page = written("faults").read()
    assert sum(stage.moments for stage in STAGES.values()) == 50
    for name in STAGES:
        assert f"\n| {name} | " in page
    assert f"n = {page.split('| all | ')[1].split(' |')[0]} of 50 moments" in page


@pytest.mark.parametrize("name", ["generate", "evaluate and report"])
def test_killed_once_equals_undisturbed(name: str, tmp_path: Path) -> None:
    chain = Chain(ORDINARY, tmp_path)
    assert disturb(chain, name, 0).equal == 1
    chain.close()
