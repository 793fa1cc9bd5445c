"""A run is held by one process at a time, survives kill -9, and is never taken for another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cxr.errors import UserError
from cxr.run import POINTER, open_run, read_status

CONFIG: dict[str, Any] = {"seed": 0, "task": {"lr": 0.1, "betas": (0.5, 0.9)}, "data": {"root": Path("x")}}
REPOSITORY = Path(__file__).resolve().parents[2]

# Another process: opens the run, says what it found, starts it, lives until killed or told to end.
OTHER = """
import json, os, sys
from pathlib import Path
from cxr.run import open_run
if sys.argv[2] == "fork":  # as a data-loading worker would: it outlives the process that holds the lock
    reader, writer = os.pipe()
run = open_run(Path(sys.argv[1]), "r", {"seed": 0}, {"seed": 0})
run.start()
if sys.argv[2] == "fork" and (child := os.fork()) == 0:
    os.close(writer)
    sys.stdin.close(); os.close(0); os.close(1)
    os.read(reader, 1)
    import time; time.sleep(5)
    os._exit(0)
print(json.dumps({"state": run.state, "attempts": run.status["attempts"]}), flush=True)
sys.stdin.readline()
run.finish({"loss": 0.5})
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that holds the run `r` below tmp_path."""
    started: list[subprocess.Popen[str]] = []

    def start(mode: str = "plain") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(tmp_path), mode],
            cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["state"] == "running"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_new_then_finished_then_skipped(tmp_path: Path) -> None:
    with open_run(tmp_path, "r", CONFIG, CONFIG) as run:
        assert (run.state, run.metric, run.last_checkpoint) == ("new", {}, None)
        run.start()
        assert read_status(run.path)["state"] == "running"
        run.finish({"f1": 0.5, "auroc": 0.25, "kid": float("nan")})
    assert (tmp_path / "r" / "config.yaml").read_text().startswith("seed: 0\n")

    again = open_run(tmp_path, "r", CONFIG, CONFIG)
    assert again.state == "finished"
    assert list(again.metric.items()) == [("f1", 0.5), ("auroc", 0.25), ("kid", None)]
    assert open_run(tmp_path, "r", CONFIG, CONFIG).state == "finished"  # skipping holds no lock


def test_failure_is_recorded_and_retried(tmp_path: Path) -> None:
    with pytest.raises(ValueError), open_run(tmp_path, "r", CONFIG, CONFIG) as run:
        run.start()
        raise ValueError(f"no such thing below {Path.home()}\nsecond line")
    status = read_status(tmp_path / "r")
    assert (status["state"], status["error"]) == ("failed", "ValueError: no such thing below ~")

    with open_run(tmp_path, "r", CONFIG, CONFIG) as run:
        assert run.state == "failed"
        (run.checkpoints).mkdir()
        (run.checkpoints / "last.ckpt").touch()
        assert run.last_checkpoint == run.checkpoints / "last.ckpt"
        run.start()
        assert (run.status["attempts"], run.status["error"]) == (2, None)
        run.finish({})
    assert read_status(tmp_path / "r")["wall_s"] >= status["wall_s"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_is_an_interruption(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), open_run(tmp_path, "r", CONFIG, CONFIG) as run:
        run.start()
        raise error
    assert read_status(tmp_path / "r")["state"] == "interrupted"
    assert open_run(tmp_path, "r", CONFIG, CONFIG).state == "interrupted"


def test_another_configuration_is_refused_key_by_key(tmp_path: Path) -> None:
    with open_run(tmp_path, "r", CONFIG, CONFIG) as run:
        run.start()
        run.finish({})
    changed = {"seed": 1, "task": {"lr": 0.1, "decay": 0.0, "betas": [0.5, 0.9]}, "data": {"root": "x"}}
    with pytest.raises(UserError) as refused:
        open_run(tmp_path, "r", changed, changed)
    assert "(seed: 0 → 1; task.decay: absent → 0.0); set another name=" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_two_live_processes_cannot_share_a_run(
    tmp_path: Path, other: Callable[..., subprocess.Popen[str]]
) -> None:
    process = other()
    assert read_status(tmp_path / "r")["state"] == "running"
    with pytest.raises(UserError, match=rf"in use by process {process.pid} on .* since 20.*name="):
        open_run(tmp_path, "r", {"seed": 0}, {"seed": 0})
    process.communicate("\n")
    assert open_run(tmp_path, "r", {"seed": 0}, {"seed": 0}).state == "finished"


def test_one_process_cannot_open_a_run_twice(tmp_path: Path) -> None:
    with open_run(tmp_path, "r", CONFIG, CONFIG), pytest.raises(UserError, match="this very process"):
        open_run(tmp_path, "r", CONFIG, CONFIG)
    open_run(tmp_path, "r", CONFIG, CONFIG).close()


@pytest.mark.parametrize("mode", ["plain", "fork"])
def test_a_killed_run_is_interrupted_at_once(
    tmp_path: Path, other: Callable[..., subprocess.Popen[str]], mode: str
) -> None:
    """Also when a forked worker of the dead process is still alive."""
    process = other(mode)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((tmp_path / "r" / "status.json").read_text())["state"] == "running"
    assert read_status(tmp_path / "r")["state"] == "interrupted"
    with open_run(tmp_path, "r", {"seed": 0}, {"seed": 0}) as run:
        assert run.state == "interrupted"
        run.start()
        assert run.status["attempts"] == 2


def test_a_race_has_one_winner(tmp_path: Path) -> None:
    """Of four processes that open one run at the same moment, exactly one gets it."""
    code = """
import sys, time
from pathlib import Path
from cxr.errors import UserError
from cxr.run import open_run
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
try:
    open_run(Path(sys.argv[1]), "r", {}, {}).start()
except UserError:
    sys.exit(3)
print("won", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(tmp_path), str(time.time() + 2)]
    racers = [
        subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    deadline = time.monotonic() + 30
    while sum(r.poll() is not None for r in racers) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [r.returncode for r in racers].count(3) == 3
    assert [r.communicate()[0] for r in racers].count("won\n") == 1


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_run(tmp_path, "r", CONFIG, CONFIG) as run:
        run.start()
        before = (tmp_path / "r" / "status.json").read_bytes()
        monkeypatch.setenv("LOCAL_RANK", "1")
        second = open_run(tmp_path, "r", CONFIG, CONFIG)
        second.start()
        second.finish({"f1": 0.0})
        assert (tmp_path / "r" / "status.json").read_bytes() == before


def test_a_launcher_is_told_which_run_its_job_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POINTER, str(tmp_path / "pointer.json"))
    open_run(tmp_path, "r", CONFIG, CONFIG).close()
    open_run(tmp_path, "second", CONFIG, CONFIG).close()
    assert json.loads((tmp_path / "pointer.json").read_text()) == {"run": str(tmp_path / "r"), "state": "new"}


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "seed=1"])
def test_names_that_need_quotes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="set name="):
        open_run(tmp_path, name, {}, {})


def test_reading_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run"):
        read_status(tmp_path / "r")


def test_a_run_that_ended_before_its_first_checkpoint_can_be_corrected(tmp_path: Path) -> None:
    """Refused for its data, say: the corrected command may keep the name; one with a checkpoint may not."""
    with pytest.raises(UserError), open_run(tmp_path, "r", {"lr": 1}, {"lr": 1}) as run:
        run.start()
        raise UserError("no patient ids; set split=stratified")
    with open_run(tmp_path, "r", {"lr": 2}, {"lr": 2}) as run:
        assert run.state == "new"
        run.start()
        run.checkpoints.mkdir()
        (run.checkpoints / "last.ckpt").touch()
    with pytest.raises(UserError, match="lr: 2 → 3"):
        open_run(tmp_path, "r", {"lr": 3}, {"lr": 3})


def test_what_a_killed_writer_left_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    """`kill -9` between a temporary file and its renaming; a checkpoint's is large."""
    script = """
import os, sys
from pathlib import Path
from cxr.files import atomic_path
from cxr.run import open_run
run = open_run(Path(sys.argv[1]), "r", {"seed": 0}, {"seed": 0})
run.start()
writing = [atomic_path(target) for target in (run.checkpoints / "last.ckpt", run.path / "status.json")]
for one in writing:
    one.__enter__()
(run.path / ".notes.txt").touch()
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=REPOSITORY, check=False)
    left = {"checkpoints/last.ckpt", "status.json"}

    def temporaries() -> set[str]:
        found = [
            p.relative_to(tmp_path / "r") for p in (tmp_path / "r").rglob(".*") if p.name.count(".") == 4
        ]
        return {(p.parent / ".".join(p.name.split(".")[1:3])).as_posix() for p in found}

    assert temporaries() == left
    with open_run(tmp_path, "r", {"seed": 0}, {"seed": 0}) as run:
        run.start()
        assert temporaries() == set()
        assert (tmp_path / "r/.notes.txt").exists(), "somebody's own"
        run.finish({})
