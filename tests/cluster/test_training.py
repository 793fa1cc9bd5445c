"""GANs and classifiers of two processes on real clusters: preempted on one node, spread over two, alike in the end."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from cxr.config import conf_dir, plain
from cxr.run import identity, open_run
from cxr.script.fit import fit

# float32: with bf16 the order of a sum shows in the third digit. No dropout: each process draws its own. log: each step.
GAN = """# @package _global_
defaults: [phantom/gan, _self_]
train_classes: null
gan: {generator: {widths: [16, 16, 16, 16]}, discriminator: {widths: [16, 16, 16], dropout: 0.0}}
callback: {generative_score: null, sample_grid: null}
"""
CNN = """# @package _global_
defaults: [phantom/cnn, _self_]
classifier: {dropout: 0.0}
"""
SMALL = ("data.n_patients=40", "loader.batch_size=8", "trainer.accelerator=cpu", "trainer.precision=32-true",
         "trainer.max_epochs=5", "trainer.progress=none", "trainer.sync_batchnorm=true",
         "trainer.log_every_n_steps=1")  # fmt: skip
SLURM = ("trainer=ddp", "hydra/launcher=slurm", "hydra.launcher.poll_s=0.3", "hydra.launcher.timeout_min=30",
         'hydra.launcher.setup=["export MASTER_ADDR=127.0.0.1"]')  # fmt: skip

FIRST = {"gan": 14, "cnn": 2}  # rows of metrics.csv: steps of a GAN, epochs (of 7 steps) of a classifier


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of configurations of one's own, as `--config-dir` takes it."""
    folder = tmp_path_factory.mktemp("conf")
    (folder / "experiment" / "small").mkdir(parents=True)
    (folder / "experiment" / "small" / "gan.yaml").write_text(GAN)
    (folder / "experiment" / "small" / "cnn.yaml").write_text(CNN)
    return folder


def sweep(folder: Path, recipes: Path, environment: dict[str, str], *overrides: str) -> subprocess.Popen[str]:
    """Start a sweep of a GAN and a classifier, its runs and cache in `folder`."""
    folder.mkdir()
    script = Path(__file__).parents[2] / "train.py"
    environment = {
        k: v for k, v in environment.items() if k != "PYTHONPATH"
    }  # a node must find cxr by itself
    words = [sys.executable, str(script), "-m", f"--config-dir={recipes}", "experiment=small/gan,small/cnn"]
    return subprocess.Popen(
        [*words, *SMALL, *SLURM, *overrides], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def run_of(folder: Path, kind: str) -> Path:
    return next((folder / "runs").glob(f"small-{kind}*"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {key: value for key, value in state.items() if value.is_floating_point()}


def curves(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory, recipes: Path, two_nodes: Any) -> Path:
    """The sweep on two nodes, a process on each, never interrupted."""
    folder = tmp_path_factory.mktemp("spread") / "sweep"
    process = sweep(folder, recipes, two_nodes.environment, "trainer.num_nodes=2", "trainer.devices=1")
    output, _ = process.communicate(timeout=300)
    logs = [log.read_text()[-2000:] for log in folder.rglob("output*.log")]
    assert process.returncode == 0, "\n".join([output, *logs])
    return folder


@pytest.mark.parametrize("kind", ["gan", "cnn"])
def test_two_nodes_train_as_one_process(
    kind: str, spread: Path, recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        searched = f"hydra.searchpath=[file://{recipes}]"
        config = plain(compose("train", [f"experiment=small/{kind}", *SMALL, searched]))
    with open_run(tmp_path / "runs", "small-" + kind, config, identity(config)) as run:
        fit(run)
    ours, theirs = curves(run_of(spread, kind)), curves(run_of(tmp_path, kind))
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    # The order of a sum differs, by 1e-7 at first; training makes more of it (GAN: 3e-5 after 35 steps).
    losses = 0
    for row, other in zip(ours[: FIRST[kind]], theirs, strict=False):
        for key in row:
            if "loss" in key and row[key]:
                assert math.isclose(float(row[key]), float(other[key]), abs_tol=1e-5), (key, row, other)
                losses += 1
    assert losses == 2 * FIRST[kind]


@pytest.mark.slow  # test_launcher.py preempts a job that counts; test_resume.py stops trainings at every kind of moment
def test_a_preempted_job_goes_on_as_if_nothing_had_been(
    spread: Path, recipes: Path, tmp_path: Path, one_node: Any
) -> None:
    folder = tmp_path / "one"
    process = sweep(folder, recipes, one_node.environment, "trainer.devices=2")
    one_node.wait_for(lambda: list(folder.glob("runs/small-gan*/checkpoints/last.ckpt")), "an epoch", 120)
    sweep_folder = next((folder / "runs" / "sweeps").iterdir())
    job_id = json.loads((sweep_folder / "0" / "slurm.json").read_text())["slurm_id"]
    one_node.ask("scancel", "--signal=USR2", job_id)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "job 0 requeued, goes on from its last checkpoint" in output
    assert json.loads((run_of(folder, "gan") / "status.json").read_text())["attempts"] == 2
    for kind in ("gan", "cnn"):  # bit for bit: two processes on one node or on two, stopped or not
        ours, theirs = weights(run_of(folder, kind)), weights(run_of(spread, kind))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), kind
        assert curves(run_of(folder, kind)) == curves(run_of(spread, kind))
