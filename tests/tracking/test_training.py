"""W&B offline: what a run leaves in its folder, read back with wandb's own protocol."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cxr.callback.wandb_log import RunWandbLogger, wandb_log


def config(**changed: Any) -> dict[str, Any]:
    return {
        "task": {"_target_": "cxr.task.gan.GANTask"},
        "paper": "talukdar",
        "arm": None,
        "seed": 3,
        "experiment": "talukdar/gan",
        **changed,
    }


def logger(folder: Path, **changed: Any) -> RunWandbLogger:
    folder.mkdir(parents=True, exist_ok=True)
    made = wandb_log(
        save_dir=folder, config=config(**changed), project="cxr", entity=None, group=None, mode="offline"
    )
    made.log_metrics({"loss_d": 0.25}, step=7)
    made.finalize("success")
    return made


def chunks(data: bytes) -> Iterator[bytes]:
    """Return the records of a .wandb file: a 7-byte header, then LevelDB's log format in blocks of 32 KiB.

    wandb itself reads it in compiled code only. A record that is still being written is left for the next look.
    """
    if len(data) < 7:
        return
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        if kind == 0:  # padding at the end of a block
            at += left
            continue
        if at + 7 + size > len(data):
            return
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # full, last
            yield whole
            whole = b""


def records(folder: Path) -> list[Any]:
    """Return every record of the one offline run below `folder`.

    `finish` returns before wandb's service process has written all of them: wait for the one that ends a run.
    """
    from wandb.proto import wandb_internal_pb2

    deadline = time.monotonic() + 60
    found: list[Any] = []
    while not any(record.HasField("exit") for record in found):
        assert time.monotonic() < deadline, "the run's end never reached its file"
        time.sleep(0.1)
        found = []
        for file in folder.rglob("run-*.wandb"):
            for chunk in chunks(file.read_bytes()):
                found.append(wandb_internal_pb2.Record())
                found[-1].ParseFromString(chunk)
    assert len(list(folder.rglob("run-*.wandb"))) == 1
    return found


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def test_two_jobs_in_one_process_are_two_runs_with_their_own_facts(tmp_path: Path) -> None:
    first = logger(tmp_path / "a")
    second = logger(
        tmp_path / "b", seed=4, task={"_target_": "cxr.task.classifier.ClassifierTask"}, arm="synthetic"
    )
    assert first._id != second._id
    (a,) = [r.run for r in records(tmp_path / "a") if r.HasField("run")][:1]
    (b,) = [r.run for r in records(tmp_path / "b") if r.HasField("run")][:1]
    assert (a.display_name, a.job_type, a.run_group) == ("a", "gan", "talukdar/gan")
    assert (b.display_name, b.job_type) == ("b", "classifier")
    assert list(a.tags) == ["talukdar", "seed3"]
    assert sorted(b.tags) == ["seed4", "synthetic", "talukdar"]


def test_metrics_configuration_and_end_are_in_the_file(tmp_path: Path) -> None:
    logger(tmp_path / "a")
    found = records(tmp_path / "a")
    history = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in found
        if record.HasField("history")
        for item in record.history.item
    }
    assert history["loss_d"] == 0.25
    assert history["trainer/global_step"] == 7
    keys = {u.key or "/".join(u.nested_key) for r in found if r.HasField("config") for u in r.config.update}
    keys |= {u.key for r in found if r.HasField("run") for u in r.run.config.update}
    assert any(k.startswith("seed") for k in keys)
    assert [r.exit.exit_code for r in found if r.HasField("exit")] == [0]


def test_the_same_folder_is_the_same_run(tmp_path: Path) -> None:
    ids = set()
    for _ in range(2):
        made = wandb_log(
            save_dir=tmp_path, config=config(), project="cxr", entity=None, group=None, mode="offline"
        )
        ids.add(made._id)
        made.finalize("success")
    assert len(ids) == 1
