"""`kill -9`, then the same command: it goes on, and the result equals an undisturbed run bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cxr.callback.atomic_checkpoint import load_checkpoint
from cxr.run import read_status

GAN = [
    "train", "task=gan", "data.n_patients=60", "train_classes=[normal]", "cache.size_px=64", "name=r",
    "loader.batch_size=4", "trainer.max_epochs=4", "trainer.progress=none", "trainer.log_every_n_steps=1",
    "gan.generator.widths=[16,16,16,8]", "gan.discriminator.widths=[8,8,8]",
    "callback.generative_score.every_n_images=50", "callback.generative_score.n_images=16",
    "callback.checkpoints.every_n_minutes=0.001",
]  # fmt: skip
CNN = [
    "train", "data.n_patients=60", "cache.size_px=64", "name=r", "loader.batch_size=4", "trainer.max_epochs=4",
    "trainer.progress=none", "trainer.log_every_n_steps=1", "callback.checkpoints.every_n_minutes=0.001",
]  # fmt: skip
SAMPLE = ["generate", "run=r", "n=2000", "block=8"]


def start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    script = Path(__file__).resolve().parents[1] / f"{command[0]}.py"
    return subprocess.Popen(
        [sys.executable, str(script), *command[1:]],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(command: list[str], folder: Path) -> None:
    process = start(command, folder)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()


def killed_when(
    command: list[str],
    folder: Path,
    condition: Callable[[], bool],
    number: signal.Signals = signal.SIGKILL,
    *,
    group: bool = False,
) -> int:
    """Start a command and send it a signal once `condition` holds; return its exit code.

    It must not have ended by itself, and nothing it started may outlive it. With `group` the signal goes to its data
    workers too, as a terminal's or a scheduler's does.
    """
    process = start(command, folder)
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[1].decode()
    (os.killpg if group else os.kill)(process.pid, number)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 3
    while in_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not in_session(process.pid), "workers without a parent"
    return process.returncode


def in_session(leader: int) -> list[int]:
    """Return the live processes of a session (Linux: none elsewhere)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if int(session) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def same(a: Any, b: Any) -> bool:
    """Say whether two checkpoint trees are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def rows(folder: Path) -> int:
    path = folder / "runs/r/metrics.csv"
    return len(path.read_text().splitlines()) if path.is_file() else 0


@pytest.mark.parametrize(("command", "more"), [(GAN, 8), (CNN, 1)], ids=["gan", "classifier"])
def test_killed_training_equals_undisturbed(command: list[str], more: int, tmp_path: Path) -> None:
    """Killed twice, each time `more` rows of metrics.csv further on, within an epoch."""
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    finish(command, calm)
    last = rough / "runs/r/checkpoints/last.ckpt"
    killed_when(command, rough, lambda: last.is_file() and rows(rough) > more)
    assert read_status(rough / "runs/r")["state"] == "interrupted"
    before = rows(rough)
    killed_when(command, rough, lambda: rows(rough) > before + more - 1)
    finish(command, rough)
    status = read_status(rough / "runs/r")
    assert status["state"] == "finished"
    assert status["attempts"] == 3
    assert (calm / "runs/r/metrics.csv").read_bytes() == (rough / "runs/r/metrics.csv").read_bytes()
    for name in ("last.ckpt", "best.ckpt"):
        a, b = (load_checkpoint(folder / "runs/r/checkpoints" / name) for folder in (calm, rough))
        assert same(a["state_dict"], b["state_dict"]), name
        assert same(a["optimizer_states"], b["optimizer_states"]), name
    assert status["metric"] == read_status(calm / "runs/r")["metric"]


@pytest.mark.slow  # tests/faults/test_kill_anywhere.py has an ordinary one
def test_killed_generation_equals_undisturbed(tmp_path: Path) -> None:
    finish([*GAN, "trainer.limit_train_batches=2", "callback.checkpoints.every_n_minutes=null"], tmp_path)
    finish([*SAMPLE, "name=calm"], tmp_path)
    progress = tmp_path / "synthetic/.rough.partial/progress.json"
    killed_when([*SAMPLE, "name=rough"], tmp_path, progress.is_file)
    assert not (tmp_path / "synthetic/rough").exists()
    finish([*SAMPLE, "name=rough"], tmp_path)
    calm, rough = (tmp_path / "synthetic" / name for name in ("calm", "rough"))
    assert np.array_equal(np.load(calm / "images.npy"), np.load(rough / "images.npy"))
    assert not progress.parent.exists()


def test_killed_while_caching(tmp_path: Path) -> None:
    """The cache is killed in the middle by way of train.py; the next run has the same bytes."""
    command = [*CNN, "data.n_patients=1500", "trainer.max_epochs=1", "trainer.limit_train_batches=1"]
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    finish(command, calm)
    killed_when(command, rough, lambda: any(rough.glob("cache/*partial*/*.npy")))
    finish(command, rough)
    a, b = (next(folder.glob("cache/phantom-*/images.npy")) for folder in (calm, rough))
    assert a.read_bytes() == b.read_bytes()
    assert not list(rough.glob("cache/*partial*"))


def test_ctrl_c_and_max_time_leave_a_run_that_goes_on(tmp_path: Path) -> None:
    long = [*CNN, "trainer.max_epochs=400"]
    process = start(long, tmp_path)
    last = tmp_path / "runs/r/checkpoints/last.ckpt"
    deadline = time.monotonic() + 120
    while not last.is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130, error
    assert "goes on from the last checkpoint" in error
    assert "Traceback" not in error
    assert read_status(tmp_path / "runs/r")["state"] == "interrupted"

    finish([*long, "trainer.max_time=00:00:00:02"], tmp_path)  # how long is no part of what a run is
    status = read_status(tmp_path / "runs/r")
    assert status["state"] == "interrupted"
    assert status["attempts"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["gan", "classifier"])
def test_stopped_at_random_times_equals_undisturbed(kind: str, workers: int, tmp_path: Path) -> None:
    """Five times each, by SIGTERM, SIGUSR2 or SIGKILL, also before training; with 2 workers and accumulated steps."""
    command = [*(GAN if kind == "gan" else CNN), f"loader.num_workers={workers}", "trainer.max_epochs=12"]
    if kind == "classifier":
        command.append("augment=covidgan")
    if workers:
        command.append("task.accumulate=2" if kind == "gan" else "trainer.accumulate_grad_batches=2")
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    finish(command, calm)
    chance = random.Random(f"{kind} {workers}")
    for attempt in range(5):
        number = chance.choice([signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL])
        further = chance.randint(1, 16 if kind == "gan" else 2)
        delay, group = chance.uniform(0, 0.3), chance.random() < 0.5
        goal = rows(rough) + further
        began = time.monotonic()

        def reached(goal: int = goal, began: float = began, early: bool = attempt == 2) -> bool:
            return rows(rough) >= goal or (early and time.monotonic() - began > 5)

        def late(delay: float = delay, reached: Callable[[], bool] = reached) -> bool:
            if not reached():
                return False
            time.sleep(delay)
            return True

        code = killed_when(command, rough, late, number, group=group)
        print(
            f"{kind}, {workers} workers: {number.name} at row {goal} + {delay:.3f} s, to the group: {group}: {code}"
        )
        assert code == (130 if rows(rough) >= goal and number != signal.SIGKILL else code)
        assert read_status(rough / "runs/r")["state"] == "interrupted"
    finish(command, rough)
    assert (calm / "runs/r/metrics.csv").read_bytes() == (rough / "runs/r/metrics.csv").read_bytes()
    for name in ("last.ckpt", "best.ckpt"):
        a, b = (load_checkpoint(folder / "runs/r/checkpoints" / name) for folder in (calm, rough))
        assert same(a, b), name
    assert read_status(rough / "runs/r")["metric"] == read_status(calm / "runs/r")["metric"]


@pytest.mark.slow
def test_a_signal_that_one_of_two_processes_hears_stops_both_at_one_step(tmp_path: Path) -> None:
    """Only the second process hears it; the run equals one of two processes that were never stopped."""
    command = [*GAN, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=12",
               "callback.checkpoints.every_n_minutes=null"]  # fmt: skip
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    finish(command, calm)
    process = start(command, rough)
    while rows(rough) < 24 and process.poll() is None:
        time.sleep(0.005)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1, children
    os.kill(int(children[0]), signal.SIGUSR2)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error.decode()
    status = read_status(rough / "runs/r")
    assert (status["state"], status["error"]) == ("interrupted", "stopped by a signal to another process")
    stopped = load_checkpoint(rough / "runs/r/checkpoints/last.ckpt")
    assert 24 <= stopped["gan"]["g_steps"] < 24 + 3 * 8, "within three exchanges of eight steps"
    finish(command, rough)
    assert (calm / "runs/r/metrics.csv").read_bytes() == (rough / "runs/r/metrics.csv").read_bytes()
    a, b = (load_checkpoint(folder / "runs/r/checkpoints/last.ckpt") for folder in (calm, rough))
    assert same(a, b)
