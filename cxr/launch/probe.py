"""A timed probe: a job started as it would be, ended after some seconds of training, its cost from how far it came.

It trains in a run folder of its own, which is removed; what stays is the image cache, which the job would make anyway.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from hydra.types import TaskFunction
from omegaconf import DictConfig

from cxr.launch.command import clean, command
from cxr.launch.cost import Estimate
from cxr.launch.job import Job, error_line
from cxr.run import read_status
from cxr.run.progress import read_progress

__all__ = ["probe"]

START_S = 600.0  # at most, for imports and the image cache


def probe(
    job: Job, config: DictConfig, task_function: TaskFunction, seconds: int, threads: int | None
) -> Estimate | str:
    """Return the cost of the job, whole, or why it could not be measured.

    Args:
        config: the sweep's, with Hydra's node.
        seconds: of training; before it lie the start and, the first time, the image cache.
        threads: OMP_NUM_THREADS of the probe; None: as it is here.
    """
    with tempfile.TemporaryDirectory(prefix="cxr-probe-") as scratch:
        folder = Path(scratch)
        # machine keys only (cxr.run.naming): the run itself is the very one
        own = [f"runs_dir={folder}", "name=probe", "trainer.progress=none", "logger=csv"]
        limit = str(timedelta(seconds=seconds)).rjust(8, "0")
        probing = replace(
            job, folder=folder, overrides=[*job.overrides, *own, f"trainer.max_time='00:{limit}'"]
        )
        variables = clean(os.environ) | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
        log = folder / "output.log"
        with log.open("wb") as output:
            try:
                subprocess.run(
                    command(probing, config, task_function),
                    env=variables,
                    cwd=config.hydra.runtime.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=START_S + seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return f"the probe did not end within {START_S + seconds:.0f} s"
        run, progress = folder / "probe", read_progress(folder / "probe")
        if not (run / "status.json").is_file():
            return f"the probe ended early: {error_line(log)}"
        status = read_status(run)
        if status["state"] == "finished":
            wall_s = float(status["wall_s"])
            return Estimate(
                wall_s, wall_s, wall_s, "measured: a probe ran the whole job once on this machine"
            )
        if status["state"] != "interrupted" and status.get("error"):
            return f"the probe ended early: {status['error']}"
        if progress is None or progress.done <= progress.began_at:
            return f"no step ended within {seconds} s; set hydra.launcher.probe_seconds higher"
        took = progress.updated - progress.began
        total = took / (progress.done - progress.began_at)
        what = "with" if progress.epochs_done else "without"
        basis = (
            f"measured: one probe of {took:.0f} s on this machine came through {100 * progress.done:.2g} % of the "
            f"training ({what} validation)"
        )
        return Estimate(total, total, total, basis)
