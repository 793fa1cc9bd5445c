"""Several processes: the same training as one, ended together, writing once."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxr.callback.atomic_checkpoint import load_checkpoint

REPOSITORY = Path(__file__).resolve().parents[1]
Cli = Callable[..., subprocess.CompletedProcess[str]]
Notes = dict[str, Any]
MODULE = runpy.run_path(str(REPOSITORY / "tests" / "ddp_cases.py"))
CASES: dict[str, Callable[[int], Notes]] = MODULE["CASES"]
CALLED: tuple[str, ...] = MODULE["CALLED"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Notes]]:
    """What both processes noted of a case; one pair of processes runs them all."""
    out = tmp_path_factory.mktemp("two")
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "tests" / "ddp_cases.py"), str(out)],
        env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return lambda name: [json.loads((out / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]


# The same 16-bit numbers are summed in another order: what one process rounds once, two round twice.
TOLERANCE = {"gan-half": 1e-4, "gan-bf16": 1e-2}


@pytest.mark.parametrize("name", sorted(name for name in CASES if "own-norms" not in name))
def test_two_processes_train_as_one(name: str, two: Callable[[str], list[Notes]]) -> None:
    alone, ranks = CASES[name](1), two(name)
    near = TOLERANCE.get(name, 1e-5)
    assert ranks[0]["digest"] == ranks[1]["digest"]
    assert len(alone["steps"]) == len(ranks[0]["steps"]) > 3
    for one, *each in zip(alone["steps"], *(rank["steps"] for rank in ranks), strict=True):
        for key, value in one.items():
            assert value == pytest.approx(sum(step[key] for step in each) / 2, abs=near, nan_ok=True), key
    assert (alone["counts"][-1] > 0) == name.endswith("-skip"), "steps that are left out"
    for key, values in alone["weights"].items():
        assert values == pytest.approx(ranks[0]["weights"][key], abs=near), key
    assert alone["scores"] == pytest.approx(ranks[0]["scores"], abs=near, nan_ok=True)
    assert ranks[0]["scores"] == pytest.approx(ranks[1]["scores"], abs=1e-12, nan_ok=True)
    assert (alone["counts"], alone["global_step"]) == (ranks[0]["counts"], ranks[0]["global_step"])


@pytest.mark.parametrize("name", CALLED)
def test_several_steps_a_call_train_two_processes_to_the_same_bits(
    name: str, two: Callable[[str], list[Notes]]
) -> None:
    """With accumulation, clipping, batch norms of all, a loss scale and steps left out, too."""
    for one, called in zip(two(name), two(f"{name} in calls"), strict=True):
        assert 0 < len(called["steps"]) < len(one["steps"]), "fewer calls than steps"
        for key in ("digest", "counts", "global_step", "inputs"):
            assert called[key] == one[key], key


@pytest.mark.parametrize("name", ["gan", "acgan"])
def test_each_image_has_the_latent_and_the_class_it_has_in_one_process(
    name: str, two: Callable[[str], list[Notes]]
) -> None:
    alone, ranks = CASES[name](1)["inputs"], [rank["inputs"] for rank in two(name)]
    assert len(set(alone)) == len(alone), "all distinct"
    assert not set(ranks[0]) & set(ranks[1])
    assert alone[:8] == ranks[0][:4] + ranks[1][:4]
    assert sorted(alone) == sorted(ranks[0] + ranks[1])


def test_batch_norms_of_each_process_still_end_equal(two: Callable[[str], list[Notes]]) -> None:
    """Without sync_batchnorm; 5 validation images: one process has a batch more than the other."""
    for name in ("classifier-own-norms", "gan-own-norms"):
        ranks = two(name)
        assert ranks[0]["digest"] == ranks[1]["digest"] and ranks[0]["scores"] == ranks[1]["scores"]
    assert ranks[0]["counts"] == [12, 88, 0], "44 images in steps of 2 x 4, twice"


TINY = ("data.n_patients=40", "cache.size_px=64", "trainer=ddp", "trainer.accelerator=cpu", "trainer.progress=none",
        "trainer.precision=32-true", "trainer.max_epochs=2", "loader.batch_size=8", "name=run")  # fmt: skip


def command(*overrides: str, script: str = "train.py") -> list[str]:
    return [sys.executable, str(REPOSITORY / script), "experiment=phantom/cnn", *TINY, *overrides]


def processes_of(folder: Path) -> list[int]:
    """The living processes that work in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").resolve() == folder.resolve():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


MISTAKE = "error: task: a mistake that only one process sees; set task=gan"
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("rank", "when", "how", "told", "code"),
    [
        (1, "step", "mistake", MISTAKE, 2),
        pytest.param(0, "step", "mistake", MISTAKE, 2, marks=slow),
        pytest.param(1, "start", "mistake", MISTAKE, 2, marks=slow),
        pytest.param(1, "validation", "mistake", MISTAKE, 2, marks=slow),
        pytest.param(1, "step", "defect", "ZeroDivisionError: a defect of process 1", 1, marks=slow),
        pytest.param(1, "step", "killed", "process 1 was killed by SIGKILL", 2, marks=slow),
        pytest.param(1, "step", "busy", MISTAKE, 2, marks=slow),
    ],
)
def test_all_processes_end_when_one_fails_and_the_error_is_shown_once(
    rank: int, when: str, how: str, told: str, code: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        command(script="tests/ddp_faults.py"), cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**environment(), "FAULT": f"{rank},{when},{how}"}, timeout=60 + 30,
    )  # fmt: skip
    assert done.returncode == code, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if told in line]
    if code == 2:
        assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert told in done.stderr and "Connection closed by peer" not in done.stderr
    status = json.loads((tmp_path / "runs" / "run" / "status.json").read_text())
    assert status["state"] == "failed" and told.removeprefix("error: ") in status["error"]
    assert not processes_of(tmp_path)


@slow
def test_children_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        command("trainer.max_epochs=1000"), cwd=tmp_path, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "runs/run/checkpoints/last.ckpt").exists() and time.monotonic() < until:
            time.sleep(0.2)
        assert len(processes_of(tmp_path)) == 2
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    until = time.monotonic() + 20
    while processes_of(tmp_path) and time.monotonic() < until:
        time.sleep(0.2)
    assert not processes_of(tmp_path)


@slow
def test_the_first_process_writes_alone_and_evaluation_sees_each_image_once(tmp_path: Path, cli: Cli) -> None:
    """strace would say it best; here every file that is opened to be written is noted by its process."""
    (tmp_path / "sitecustomize.py").write_text(WHO_WRITES)
    path = os.pathsep.join([str(REPOSITORY), str(tmp_path)])
    env = {**environment(), "PYTHONPATH": path, "WHO_WRITES": str(tmp_path)}
    done = subprocess.run(
        command("trainer.sync_batchnorm=true"), cwd=tmp_path, env=env, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("trains on") == done.stdout.count("finished") == 1, done.stdout
    wrote = {rank: (tmp_path / f"wrote-{rank}").read_text().splitlines() for rank in (0, 1)}
    first = {Path(name).name.lstrip(".").split(".tmp")[0] for name in wrote[0]}
    assert any("status.json" in n for n in first) and any("metrics.csv" in n for n in first), first
    assert any("manifest.json" in n for n in first) and any("last.ckpt" in n for n in first), first
    assert not wrote[1]
    evaluated = cli("evaluate", "runs=[run]", "n_resamples=50")
    assert evaluated.returncode == 0, evaluated.stderr
    predictions = pd.read_parquet(tmp_path / "runs" / "run" / "predictions.parquet")
    counts = json.loads((tmp_path / "runs" / "run" / "result.json").read_text())["metrics"]["accuracy"]
    assert len(predictions) == predictions["image_id"].nunique() == counts["n"] == 16


@slow
def test_kept_features_change_nothing_in_two_processes(tmp_path: Path) -> None:
    """One computes them while the other waits, and each reads its share: the log and the weights to the bit."""
    frozen = ("classifier=backbone", "classifier.name=test_resnet", "classifier.pretrained=false", "classifier.head=linear",
              "cache.size_px=32", "trainer.sync_batchnorm=true")  # fmt: skip
    logs, digests = [], []
    for mode in ("auto", "off", "auto"):
        words = [
            one for one in command(*frozen, f"features={mode}") if one not in ("cache.size_px=64", "name=run")
        ]
        name = f"{mode}-{len(logs)}"
        done = subprocess.run(
            [*words, f"name={name}"], cwd=tmp_path, env=environment(), capture_output=True, text=True,
            timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        said = [line for line in done.stdout.splitlines() if line.startswith("features: ")]
        waits = "features: another process computes them; waits for it"
        if not logs and said[1:] == [waits]:  # the second was the first to have the lock
            said = said[:1]
        told = {0: ["now, and none in 2 epochs"], 1: [], 2: ["are there"]}[len(logs)]
        assert len(said) == len(told) and all(one in line for one, line in zip(told, said, strict=True)), said
        logs.append((tmp_path / "runs" / name / "metrics.csv").read_text())
        weights = load_checkpoint(tmp_path / "runs" / name / "checkpoints" / "last.ckpt")["state_dict"]
        digests.append({key: value.numpy().tobytes() for key, value in weights.items()})
    assert logs[0] == logs[1] == logs[2] and digests[0] == digests[1] == digests[2]
    assert not processes_of(tmp_path)


WHO_WRITES = """
import os, sys
folder, rank = os.environ.get("WHO_WRITES"), os.environ.get("LOCAL_RANK", "0")
if folder and any("train.py" in word for word in sys.orig_argv):
    out = os.open(os.path.join(folder, "wrote-" + rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    def hook(event, args):
        if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
            name, flags = os.fsdecode(args[0]), args[2] or 0
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and "/runs/" in os.path.abspath(name):
                os.write(out, (name + "\\n").encode())
        elif event in ("os.rename", "os.mkdir") and "/runs/" in os.path.abspath(os.fsdecode(args[0])):
            os.write(out, (os.fsdecode(args[0]) + "\\n").encode())
    sys.addaudithook(hook)
"""
