"""What a sweep costs beyond its jobs. Prints both numbers with n and spread; takes some minutes on two cores.

    python benchmarks/launch_overhead.py [--jobs 12] [--rounds 5] [--finished 100]

1. Per job: a sweep of `--jobs` jobs, one at a time, through the real `processes` launcher, against the very same job
   commands run one after the other without it, and a sweep of one job, which pays the launcher's own start:
   ((sweep of N) − (sweep of 1) − (N − 1) × (the commands' mean)) / (N − 1), `--rounds` times, the three interleaved. The
   job is the smallest that opens and finishes a run: it imports Hydra and no torch.
2. A sweep of real trainings (train.py on procedural chests), all of whose `--finished` runs are there and finished: the
   wall time of the whole command, interpreter start included, `--rounds` times. The runs are made without training: their
   folders are written as a finished training leaves them.

An idle machine is needed; where the spread is large, it was not idle.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from cxr.config import conf_dir, plain
from cxr.launch.command import clean
from cxr.run import POINTER, open_run, planned_run

REPOSITORY = Path(__file__).resolve().parents[1]

CONFIG = """
hydra: {{searchpath: ["file://{conf}"], output_subdir: null, run: {{dir: .}}, sweep: {{dir: sweep}}}}
defaults: [_self_, {{override hydra/launcher: processes}}, {{override hydra/job_logging: none}},
           {{override hydra/hydra_logging: none}}]
_target_: builtins.dict
seed: 0
round: 0
"""
APP = """
from pathlib import Path
import hydra
import cxr.config
from cxr.run import identity, open_run
cxr.config.check_config = lambda config, find_data=True: None  # this program has no data

@hydra.main(version_base="1.3", config_path="conf", config_name="app")
def main(config):
    values = {"seed": config.seed, "round": config.round}
    with open_run(Path("runs"), f"{config.round}-{config.seed}", values, identity(values)) as run:
        run.start()
        run.finish({"score": 1.0})

if __name__ == "__main__":
    main()
"""


def seconds(words: Sequence[str], cwd: Path) -> float:
    """Return the wall time of a command; its output is shown where it fails."""
    began = time.perf_counter()
    done = subprocess.run(words, cwd=cwd, env=clean(os.environ), text=True, capture_output=True)
    took = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}\n{done.stderr}")
    return took


def per_job(n_jobs: int, rounds: int) -> list[float]:
    """Return the launcher's cost per job in seconds, once a round."""
    costs = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "conf").mkdir()
        (folder / "conf" / "app.yaml").write_text(CONFIG.format(conf=conf_dir()))
        (folder / "app.py").write_text(APP)
        app = [sys.executable, "app.py"]
        seconds([*app, "round=warm", "seed=0"], folder)
        for number in range(rounds):
            many = ",".join(str(seed) for seed in range(n_jobs))
            sweep = seconds([*app, "-m", f"round=sweep{number}", f"seed={many}"], folder)
            alone = [
                seconds([*app, f"round=alone{number}", f"seed={seed}"], folder) for seed in range(n_jobs)
            ]
            one = seconds([*app, "-m", f"round=one{number}", "seed=0"], folder)
            costs.append((sweep - one) / (n_jobs - 1) - statistics.fmean(alone))
            print(f"  round {number}: sweep of {n_jobs} {sweep:.2f} s, of 1 {one:.2f} s, command alone "
                  f"{statistics.fmean(alone):.2f} s -> {costs[-1]:+.3f} s a job", flush=True)  # fmt: skip
    return costs


def all_finished(n_jobs: int, rounds: int) -> list[float]:
    """Return the seconds of a sweep that finds every run finished."""
    os.environ.pop(POINTER, None)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fixed = ["data.n_patients=60", "cache.size_px=64"]
        seeds = range(n_jobs)
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            for seed in seeds:
                typed = [*fixed, f"seed={seed}"]
                config = compose("train", typed, return_hydra_config=True)
                HydraConfig.instance().set_config(config)
                hydra = config.hydra
                with open_dict(config):
                    del config["hydra"]
                exclude = hydra.job.config.override_dirname.exclude_keys
                plan = planned_run(plain(config), hydra.runtime.choices, typed, exclude)
                assert plan is not None
                with open_run(folder / plan.runs_dir, plan.name, plan.config, plan.identity) as run:
                    run.start()
                    run.finish({"val/accuracy": 0.5})
        words = [sys.executable, str(REPOSITORY / "train.py"), "-m", *fixed, f"seed=range({n_jobs})"]
        for number in range(rounds):
            found.append(seconds(words, folder))
            print(f"  round {number}: {found[-1]:.2f} s", flush=True)
        made = sorted(p.name for p in (folder / "runs").iterdir() if p.name != "sweeps")
        assert len(made) == n_jobs, "the sweep opened other runs than those made here"
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=12, help="jobs of the sweep that is timed per job")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each measurement")
    parser.add_argument("--finished", type=int, default=100, help="finished runs of the resumed sweep")
    asked = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{cores} cores, load {os.getloadavg()[0]:.1f}")
    print(f"launcher's cost per job, beyond the job's own command ({asked.jobs} jobs, one at a time):")
    tell(per_job(asked.jobs, asked.rounds), "0.5")
    print(f"the same command again, all {asked.finished} trainings finished:")
    tell(all_finished(asked.finished, asked.rounds), "10")


def tell(values: Sequence[float], limit: str) -> None:
    """Print the median, the range and n."""
    low, high = min(values), max(values)
    print(f"median {statistics.median(values):.3f} s, range {low:.3f} … {high:.3f} s, n = {len(values)} rounds; "
          f"to be below {limit} s")  # fmt: skip


if __name__ == "__main__":
    main()
