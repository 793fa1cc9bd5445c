"""`hydra/launcher=slurm` on a real cluster, with a tiny application of our own: what happens to jobs in the queue."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

Start = partial["subprocess.Popen[str]"]

CONFIG = """
hydra:
  searchpath: ["file://{conf}"]
  output_subdir: null
  run: {{dir: .}}
  sweep: {{dir: sweeps/one}}
defaults: [_self_, {{override hydra/launcher: slurm}}, {{override hydra/job_logging: none}}]
do: ok
seed: 0
trainer: {{devices: 1, num_nodes: 1, accelerator: cpu}}
"""

# The door is replaced by none; a job that waits saves when SLURM asks, as training does, and goes on where it was.
APP = """
import json, os, signal, sys, time
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
import cxr.config
from cxr.run import PlannedRun, default_name, identity, open_run
import cxr.launch.compose

cxr.config.check_config = lambda config: None

def planned(config, overrides):
    values = {"do": config["do"], "seed": config["seed"]}
    return PlannedRun(Path("runs"), default_name("app", overrides), values, identity(values))

cxr.launch.compose.check_config = lambda config: None
cxr.launch.compose.planned_run = lambda values, choices, overrides, exclude: planned(values, overrides)

def stop(number, frame):
    for one in (signal.SIGUSR2, signal.SIGTERM):  # SLURM sends it to all processes of a job, and so does its task
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt(f"stopped by {signal.Signals(number).name}")

@hydra.main(version_base="1.3", config_path="conf", config_name="app")
def main(config):
    plan = planned(config, list(HydraConfig.get().overrides.task))
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, stop)
    rank = os.environ["SLURM_PROCID"]
    Path(f"seen.{plan.name}.{rank}.json").write_text(json.dumps(
        {"environment": dict(os.environ), "mode": HydraConfig.get().mode.name}))
    with open_run(plan.runs_dir, plan.name, plan.config, plan.identity) as run:
        if run.state == "finished":
            return
        run.start()
        if config.do == "fail":
            raise ValueError("the loss is not a number")
        if config.do == "wait" and run.last_checkpoint is None and rank == "0":
            (run.path / "waits").touch()
            try:
                time.sleep(60)
            finally:
                run.checkpoints.mkdir()
                (run.checkpoints / "last.ckpt").write_text("saved")
        if config.do == "crash" and run.last_checkpoint is None:
            run.checkpoints.mkdir()
            (run.checkpoints / "last.ckpt").write_text("saved before")
            (run.path / "waits").touch()
            time.sleep(100)
        if config.do == "idle":
            (run.path / "waits").touch()
            time.sleep(60)
        run.finish({"f1": 0.5 + config.seed / 10})

if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def app(tmp_path: Path, repository: Path, one_node: Any) -> Start:
    """Start `python app.py …` in tmp_path, from the shell of somebody's distributed job inside an allocation."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "app.yaml").write_text(CONFIG.format(conf=repository / "conf"))
    (tmp_path / "app.py").write_text(APP)
    environment = {**one_node.environment, "PYTHONPATH": str(repository), "HYDRA_FULL_ERROR": "1"}
    environment |= {
        "PL_GLOBAL_SEED": "9",
        "MASTER_ADDR": "elsewhere",
        "WORLD_SIZE": "1",
        "SLURM_MEM_PER_CPU": "7",
    }

    return partial(start, folder=tmp_path, environment=environment)


def start(*overrides: str, folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start a sweep."""
    command = [sys.executable, "app.py", "-m", "hydra.launcher.poll_s=0.3", *overrides]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def rows(output: str) -> dict[str, list[str]]:
    """Return the rows of the table by their overrides."""
    cells = [[c.strip() for c in re.split("[│┃]", line)[1:-1]] for line in output.splitlines()]
    return {row[1]: row for row in cells if len(row) == 7}


def record(folder: Path, name: str) -> Any:
    return json.loads((folder / "sweeps" / "one" / name).read_text())


def test_jobs_run_in_the_queue_as_if_typed_alone(tmp_path: Path, app: Start) -> None:
    process = app("do=ok,fail", "seed=2", "trainer.devices=1,2")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert not errors  # neither submitit's remarks nor sacct's
    table = rows(output)
    assert len(table) == 5
    assert table["do=ok trainer.devices=2"][2:4] == ["finished", "f1 0.7"]
    assert table["do=fail trainer.devices=1"][2] == "failed"
    assert table["do=fail trainer.devices=1"][6] == "ValueError: the loss is not a number"

    # An array for each shape; its file is named.
    jobs = record(tmp_path, "sweep.json")["jobs"]
    arrays = {job["slurm_id"].partition("_")[0] for job in jobs}
    assert len(arrays) == 2
    scripts = re.findall(r"^sbatch file: (.*)$", output, re.MULTILINE)
    tasks = [re.findall(r"--ntasks-per-node=(\d)", (tmp_path / script).read_text()) for script in scripts]
    assert tasks == [["1"], ["2"]]

    name = "app_do-ok_seed-2_devices-2"
    seen = [json.loads((tmp_path / f"seen.{name}.{rank}.json").read_text()) for rank in (0, 1)]
    assert {one["mode"] for one in seen} == {"RUN"}
    assert [one["environment"]["SLURM_NTASKS"] for one in seen] == ["2", "2"]
    foreign = {"PL_GLOBAL_SEED", "MASTER_ADDR", "WORLD_SIZE", "SLURM_MEM_PER_CPU", "HYDRA_FULL_ERROR"}
    assert not foreign & seen[0]["environment"].keys()
    assert seen[0]["environment"]["CXR_SWEEP"] == "one"


def test_a_preempted_job_saves_is_requeued_and_goes_on(tmp_path: Path, app: Start, one_node: Any) -> None:
    process = app("do=wait,ok", "trainer.devices=2")
    run = tmp_path / "runs" / "app_do-wait_devices-2"
    one_node.wait_for((run / "waits").exists, "job 0 waits")
    job_id = record(tmp_path, "0/slurm.json")["slurm_id"]
    one_node.ask("scancel", "--signal=USR2", job_id)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    assert "job 0 requeued, goes on from its last checkpoint" in output
    ended = record(tmp_path, "0/ended.json")
    assert (ended["attempts"], ended["exit_code"]) == (2, 0)
    assert json.loads((run / "status.json").read_text())["attempts"] == 2
    assert record(tmp_path, "0/slurm.json")["slurm_id"] == job_id


def test_the_queue_outlives_the_launcher_and_is_not_filled_twice(
    tmp_path: Path, app: Start, one_node: Any
) -> None:
    process = app("do=wait", "seed=1,2")
    runs = [tmp_path / "runs" / f"app_do-wait_seed-{seed}" for seed in (1, 2)]
    one_node.wait_for(lambda: all((run / "waits").exists() for run in runs), "both wait")
    before = one_node.states()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    array = next(iter(before)).partition("_")[0]
    assert (
        f"the jobs stay in the queue: the same command waits for them again, scancel {array} ends them"
        in output
    )
    assert one_node.states() == before == {f"{array}_0": "RUNNING", f"{array}_1": "RUNNING"}

    again = app("do=wait", "seed=1,2")
    one_node.wait_for(lambda: (tmp_path / "sweeps" / "one" / "sweep.json").exists(), "a record")
    assert again.stdout is not None
    assert again.stdout.readline() == f"job 0 is in the queue as {array}_0: seed=1\n"
    assert one_node.states() == before
    # SLURM's own requeue (an administrator's, or after the loss of a node): SIGTERM, and the same job again.
    one_node.ask("scontrol", "requeue", f"{array}_0")
    # Cancelled: ended, and the run can be resumed.
    one_node.ask("scancel", f"{array}_1")
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 1, output + errors
    assert rows(output)["seed=1"][2] == "finished"
    assert rows(output)["seed=2"][2:7:4] == ["interrupted", "SLURM: CANCELLED"]
    assert [json.loads((run / "status.json").read_text())["state"] for run in runs] == [
        "finished",
        "interrupted",
    ]

    last = app("do=wait", "seed=1,2")
    output, errors = last.communicate(timeout=120)
    assert last.returncode == 0, output + errors
    assert [row[2] for row in list(rows(output).values())[1:]] == ["skipped", "finished"]


def test_requeues_end_at_the_limit_or_when_nothing_is_saved(
    tmp_path: Path, app: Start, one_node: Any
) -> None:
    process = app("do=wait,idle", "hydra.launcher.max_requeues=0")
    for number, do in enumerate(("wait", "idle")):
        one_node.wait_for((tmp_path / "runs" / f"app_do-{do}" / "waits").exists, f"job {number} waits")
        one_node.ask("scancel", "--signal=USR2", record(tmp_path, f"{number}/slurm.json")["slurm_id"])
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1, output + errors
    for do in ("wait", "idle"):
        row = rows(output)[f"do={do}"]
        assert row[2] == "interrupted"
        assert row[6].startswith(
            "requeued 0 times, the limit; sweep again, or set hydra.launcher.max_requeues"
        )


@pytest.mark.slow
def test_a_time_limit_saves_and_requeues_until_the_limit_of_time_outs(tmp_path: Path, app: Start) -> None:
    options = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20")
    process = app("do=wait,idle", *options, "hydra.launcher.max_num_timeout=1")
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 1, output + errors
    table = rows(output)
    assert table["do=wait"][2] == "finished" and record(tmp_path, "0/ended.json")["attempts"] == 2
    assert table["do=idle"][2] == "interrupted" and record(tmp_path, "1/ended.json")["attempts"] == 2
    assert "timed-out too many times" in table["do=idle"][6]


@pytest.mark.slow
def test_a_lost_node_costs_its_jobs_nothing_that_was_saved(
    tmp_path: Path, app: Start, cluster_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster_of(nodes=2, cpus=1) as cluster:
        monkeypatch.setitem(app.keywords["environment"], "SLURM_CONF", cluster.environment["SLURM_CONF"])
        process = app("do=crash")
        run = tmp_path / "runs" / "app_do-crash"
        cluster.wait_for((run / "waits").exists, "it waits")
        kill_node(cluster.folder, "n1")
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, output + errors
        assert "job 0 requeued, goes on from its last checkpoint" in output
        assert json.loads((run / "status.json").read_text())["attempts"] == 2
        assert (
            json.loads((tmp_path / "seen.app_do-crash.0.json").read_text())["environment"]["SLURMD_NODENAME"]
            == "n2"
        )


def kill_node(folder: Path, node: str) -> None:
    """Kill a node's daemon and all that it started, as if the power had gone."""
    daemon = int((folder / f"{node}.pid").read_text())
    steps = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        here = f"SLURM_CONF={folder}/slurm.conf".encode() in variables
        if here and (b"slurmstepd" in words or f"SLURMD_NODENAME={node}".encode() in variables):
            steps.append(int(process.name))
    for pid in (daemon, *steps):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_what_sbatch_refuses_is_one_line(tmp_path: Path, app: Start, one_node: Any) -> None:
    process = app("seed=1,2", "trainer.devices=1,2", "hydra.launcher.partition=gpu")
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.splitlines()[-1] == (
        "cxr.errors.UserError: sbatch refused: invalid partition specified: gpu; Batch job submission failed: "
        "Invalid partition name specified; set hydra.launcher.partition=… (sinfo -s lists them)"
    )
    assert one_node.states() == {}

    process = app("seed=1,2", "trainer.devices=1,3", "hydra.launcher.tasks_per_node=3")
    _, errors = process.communicate(timeout=60)
    wrong = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert wrong[0] == (
        "error: job 0 (seed=1 trainer.devices=1): hydra.launcher.tasks_per_node: got 3, and this job's trainer.devices is 1; "
        "set hydra.launcher.tasks_per_node=null (takes trainer.devices) or trainer.devices=3"
    )
    assert len(wrong) == 2
    assert one_node.states() == {}
    assert not list((tmp_path / "sweeps").rglob("slurm.json"))


def test_nothing_of_a_cluster_is_left_when_its_starter_is_killed(tmp_path: Path, one_node: Any) -> None:
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import conftest
with conftest.started(1, 1) as cluster:
    cluster.ask("sbatch", "--chdir={tmp_path}", "--wrap", "srun sleep 1000")
    cluster.wait_for(lambda: "RUNNING" in cluster.states().values(), "it runs")
    print(cluster.folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], text=True, stdout=subprocess.PIPE, check=False)
    assert killed.returncode == -signal.SIGKILL
    folder = killed.stdout.strip().encode()

    def of_it() -> list[bytes]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words, variables = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
            except OSError:
                continue
            if folder in words + variables and int(process.name) != os.getpid():
                found.append(words)
        return found

    one_node.wait_for(lambda: not of_it(), "no process is left", 20)
    one_node.wait_for(lambda: not Path(killed.stdout.strip()).exists(), "no file is left", 20)
