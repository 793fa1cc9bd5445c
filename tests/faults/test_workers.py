"""A data worker that dies, that fails, or that cannot send its batch ends the job, with the reason, and leaves nobody.

A main process that dies takes its workers with it: tests/faults/test_kill_anywhere.py. A rank that dies: tests/test_ddp.py.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from lightning.pytorch.utilities.combined_loader import _shutdown_workers_and_reset_iterator

from cxr.data.dataset import Augment, EpochLoader, ImageDataset
from cxr.data.sampler import EpochSampler
from cxr.mistakes import explain

ROOT = Path(__file__).resolve().parents[2]
Pixels = npt.NDArray[np.uint8]


def loader(augment: Augment | None = None) -> EpochLoader:
    """Return 400 batches of one image, read by two workers."""
    images, labels = np.zeros((400, 8, 8), np.uint8), np.zeros((400, 1), np.float32)
    dataset = ImageDataset(images, labels, np.arange(400), augment=augment)
    return EpochLoader(dataset, EpochSampler(400, 1, 0, shuffle=False, drop_last=False), 2)


def divide(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    raise ZeroDivisionError("a picture that cannot be changed")


def no_workers_left(made: EpochLoader) -> bool:
    """End a pass as Lightning does after an error, and say whether its workers have gone."""
    _shutdown_workers_and_reset_iterator(made)
    until = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.02)
    return not multiprocessing.active_children()


def test_a_worker_that_is_killed_is_told_in_one_line() -> None:
    made = loader()
    batches = iter(made)
    next(batches)
    began = time.monotonic()
    worker = multiprocessing.active_children()[0].pid
    assert worker is not None
    # torch raises it in its answer to SIGCHLD, wherever the main process is
    with pytest.raises(RuntimeError) as caught:
        os.kill(worker, signal.SIGKILL)
        list(batches)
    assert time.monotonic() - began < 30
    told = explain(caught.value)
    assert told is not None and "\n" not in told
    assert "a data worker was ended by a signal: Killed (SIGKILL: often for want of memory)" in told
    assert "loader.num_workers=0" in told and "--shm-size" in told
    assert no_workers_left(made)


def test_a_bus_error_names_shared_memory_and_another_error_is_not_taken_for_it() -> None:
    bus = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of …"
    assert "SIGBUS: /dev/shm is full" in (explain(RuntimeError(bus)) or "")
    assert explain(RuntimeError("a defect")) is None


def test_a_picture_that_a_worker_cannot_read_ends_the_epoch_with_its_error() -> None:
    made = loader(divide)
    with pytest.raises(ZeroDivisionError, match="a picture that cannot be changed"):
        list(made)
    assert no_workers_left(made)


def train(folder: Path, *overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), "data.n_patients=60", "cache.size_px=32", "name=c", "trainer.progress=none",
            "loader.num_workers=2", *overrides]  # fmt: skip


def refused(process: subprocess.Popen[str], folder: Path) -> str:
    """Return the last line that a command says; it ends soon, with 2, and the run says why."""
    _, said = process.communicate(timeout=240)
    assert process.returncode == 2, said
    assert "Traceback" not in said
    assert json.loads((folder / "runs/c/status.json").read_text())["state"] == "failed"
    assert not [entry for entry in Path("/proc").glob("[0-9]*/cwd") if leads(entry, folder)], "orphans"
    return said.splitlines()[-1]


def leads(link: Path, folder: Path) -> bool:
    """Say whether a link of /proc leads to a folder."""
    try:
        return link.resolve() == folder.resolve()
    except OSError:  # the process has just ended
        return False


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
def test_training_ends_when_a_worker_is_killed(tmp_path: Path) -> None:
    process = start(train(tmp_path, "trainer.max_epochs=10000"), tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(found := children.read_text().split()) < 2:
        time.sleep(0.02)
        assert process.poll() is None
    os.kill(int(found[0]), signal.SIGKILL)
    assert refused(process, tmp_path).startswith("error: loader.num_workers: a data worker ")


@pytest.mark.slow
def test_shared_memory_that_is_too_small_is_named(tmp_path: Path) -> None:
    """As in a container: 64 kB here. Left alone, the parent waits for ever for a batch that was not sent."""
    small = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-m", "sh", "-c", small], check=False).returncode
    ):
        pytest.skip("no /dev/shm of its own can be mounted here")
    command = train(tmp_path, "loader.batch_size=84")
    process = start(["unshare", "-m", "sh", "-c", f'{small} && exec "$@"', "sh", *command], tmp_path)
    told = refused(process, tmp_path)
    assert "a data worker" in told and "--shm-size=1g" in told and "loader.num_workers=0" in told
