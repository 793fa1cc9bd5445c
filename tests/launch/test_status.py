"""Where a sweep stands: from its runs, not from what a launcher last wrote."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cxr.errors import UserError
from cxr.launch.job import Job
from cxr.launch.record import write_record
from cxr.launch.status import left_over, newest_sweep, summary, sweep_status
from cxr.run import open_run
from cxr.run.progress import Progress, write_progress

# Holds a sweep and the run of its job 1, as a launcher and its job do, until its input ends.
HOLDER = """
import sys
from pathlib import Path
from cxr.launch.record import hold
from cxr.run import open_run
with hold(Path("sweeps/one")), open_run(Path("runs"), "b", {}, {}) as run:
    run.start()
    print("held", flush=True)
    sys.stdin.read()
    run.finish({"kid": 0.1})
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep of five jobs, as its launcher last saw it: two run, one ended badly, two wait."""
    folder, runs = tmp_path / "sweeps" / "one", tmp_path / "runs"
    states = {"a": "running", "b": "running", "c": "failed", "d": "not started", "e": "not started"}
    jobs = []
    for number, (name, state) in enumerate(states.items()):
        job = Job(number, [f"seed={number}", "x=1"], folder / str(number), state=state, run=runs / name)
        jobs.append(job)
    jobs[2].error = "as the launcher saw it"
    write_record(folder, "processes", jobs)
    with open_run(runs, "a", {}, {}) as run:
        run.start()
        run.finish({"val/accuracy": 0.75, "val/loss": 1.0})
    with pytest.raises(ValueError), open_run(runs, "c", {}, {}) as run:
        run.start()
        raise ValueError("the loss is not a number")
    return folder


@pytest.fixture
def holder(sweep: Path, repository: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        cwd=sweep.parents[1],
        env={"PYTHONPATH": str(repository)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def progress(**changed: Any) -> Progress:
    now = time.time()
    values: dict[str, Any] = {
        "stage": "training",
        "epochs_done": 2,
        "epochs": 8,
        "batches_done": 0,
        "batches": 4,
        "images_seen": 9,
    }
    values |= {
        "scores": {"kid": 0.5},
        "began": now - 20,
        "began_at": 0.0,
        "updated": now,
        "pid": 1,
        **changed,
    }
    return Progress(**values)


def test_a_live_sweep(sweep: Path, holder: subprocess.Popen[str]) -> None:
    write_progress(sweep.parents[1] / "runs" / "b", progress())
    seen = sweep_status(sweep)
    assert [job.state for job in seen.jobs] == ["finished", "running", "failed", "not started", "not started"]
    assert seen.jobs[0].score == {"val/accuracy": 0.75}
    assert seen.jobs[2].error == "ValueError: the loss is not a number"
    running = seen.jobs[1]
    assert (running.epoch, running.epochs, running.score) == (3, 8, {"kid": 0.5})
    assert running.left_s == pytest.approx(60, abs=2)  # a quarter took 20 s
    assert running.wall_s == pytest.approx(20, abs=2)
    assert seen.alive and seen.is_at_work and not seen.ended
    assert summary(seen).startswith(
        "5 jobs: 1 finished, 1 running, 1 failed, 2 not started; processes launcher: "
    )

    holder.kill()
    holder.wait()
    seen = sweep_status(sweep)
    assert [job.state for job in seen.jobs][:2] == ["finished", "interrupted"]
    assert seen.jobs[1].left_s is None
    assert not seen.is_at_work and "the launcher was killed" in summary(seen)
    assert left_over(seen.jobs) == 4


def test_a_job_that_has_not_opened_its_run_yet(sweep: Path, holder: subprocess.Popen[str]) -> None:
    record = json.loads((sweep / "sweep.json").read_text())
    record["jobs"][2]["state"] = record["jobs"][3]["state"] = "running"
    record["jobs"][4] |= {"state": "pending", "slurm_id": "12_4"}
    (sweep / "sweep.json").write_text(json.dumps(record))
    assert [job.state for job in sweep_status(sweep).jobs[2:]] == ["starting", "starting", "pending"]
    holder.communicate("")
    seen = sweep_status(sweep)
    assert [job.state for job in seen.jobs] == ["finished", "finished", "failed", "interrupted", "pending"]
    assert seen.is_at_work  # in SLURM's queue, whoever watches


def test_the_newest_sweep_and_none(sweep: Path, tmp_path: Path) -> None:
    assert newest_sweep(sweep.parent) == sweep
    with pytest.raises(UserError, match="no sweep here"):
        newest_sweep(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no sweep here \(it has no sweep.json\)"):
        sweep_status(tmp_path)
    (sweep / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="another version"):
        sweep_status(sweep)


def test_as_a_command(
    sweep: Path, tmp_path: Path, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    shown = cli("status", "sweeps/one")
    assert shown.returncode == 0, shown.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.stdout.splitlines()]
    rows = [row for row in rows if row]
    assert rows[0][:3] == ["0", "seed=0", "finished"] and rows[0][5] == "val/accuracy 0.75"
    assert rows[2][2] == "failed" and rows[2][8] == "ValueError: the loss is not a number"
    assert "goes on by: " in shown.stdout
    watched = cli("status", "sweeps/one", "--json", "--watch", "0.1")  # nobody works on it: ends
    told = json.loads(watched.stdout)
    assert told["counts"] == {"finished": 1, "interrupted": 1, "failed": 1, "not started": 2}
    missing = cli("status")
    assert missing.returncode == 2
    assert (
        missing.stderr
        == "error: runs/sweeps: no sweep here; give the folder of one, below its runs_dir: runs/sweeps/NAME\n"
    )
    assert "Traceback" not in cli("status", "sweeps/one", "--watch", "0").stderr
