"""train.py in which one process fails as real ones do: `FAULT=RANK,WHEN,HOW python ddp_faults.py OVERRIDES`.

WHEN: start, step (the third) or validation. HOW: mistake, defect, killed, or busy: a mistake while the first process
is busy and does not notice.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from cxr.callback.step_seed import StepSeed
from cxr.errors import UserError
from cxr.script.train import main

RANK, WHEN, HOW = os.environ["FAULT"].split(",")


def fail(trainer: Any, when: str) -> None:
    """Fail if this is the process, and now the time."""
    if when != WHEN:
        return
    if trainer.global_rank != int(RANK):
        time.sleep(300.0 if HOW == "busy" else 0.0)
        return
    if HOW == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if HOW == "defect":
        raise ZeroDivisionError("a defect of process 1")
    raise UserError("task: a mistake that only one process sees; set task=gan")


def step(self: StepSeed, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
    """Fail in the third step."""
    if batch_idx == 2:
        fail(trainer, "step")


StepSeed.on_train_batch_start = step  # type: ignore[method-assign]
StepSeed.on_train_start = lambda self, trainer, pl_module: fail(trainer, "start")  # type: ignore[method-assign]
StepSeed.on_validation_batch_start = lambda self, trainer, *_: fail(trainer, "validation")  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
