"""Where the CPU time of a real training goes: a run of train.py, one epoch, by stage.

    OMP_NUM_THREADS=1 python -m benchmarks.profile_epoch DATA_ROOT SCRATCH [override …]

trains experiment=talukdar/cnn for an epoch with its cache in SCRATCH and a new run folder there. Called again with the same
SCRATCH it finds the cache, as every run but the first does. DATA_ROOT: the folder with train, val and test.

Stages are exclusive: a stage's time is that of its functions less what stages called from there took, in CPU time of the
thread; the reading thread counts too. What no stage has is the rest: imports, and what Python does between. One thread:
those of a parallel kernel would count for nobody. Names that a revision does not have are left out, so that revisions can
be compared by one script.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["main"]

# What a stage is: functions by module and name. The first of several names for one thing that a revision has.
STAGES: dict[str, tuple[str, ...]] = {
    "files found, hashed, split; cache": ("cxr.script.fit:fit",),
    "batches read": ("cxr.data.dataset:ImageDataset._pixels", "cxr.data.dataset:ImageDataset._labels"),
    "augmentation, order": ("cxr.data.dataset:ImageDataset.__getitems__",),
    "forward pass, loss": ("cxr.task.classifier:ClassifierTask.training_step",),
    "backward pass": ("torch:Tensor.backward",),
    "optimiser": ("torch.optim:Adam.step",),
    "validation": (
        "cxr.task.classifier:ClassifierTask.validation_step",
        "cxr.task.classifier:ClassifierTask.on_validation_epoch_end",
    ),
    "checkpoints": ("lightning:Trainer.save_checkpoint",),
    "log": (
        "cxr.callback.csv_log:CSVLog.log_metrics",
        "cxr.callback.csv_log:CSVLog.save",
        "lightning:LightningModule.log",
    ),
    "callbacks' hooks": ("lightning.pytorch.trainer.call:_call_callback_hooks",),
    "Lightning's loop": ("lightning:Trainer.fit",),
}


class Clock:
    """CPU seconds of each stage, without those of the stages within."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: defaultdict[str, int] = defaultdict(int)
        self._local = threading.local()

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed; a stage that calls itself is counted once."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            within = self._local.__dict__.setdefault("within", [0.0])
            within.append(0.0)
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.thread_time() - began
                self.seconds[stage] += took - within.pop()
                self.calls[stage] += 1
                within[-1] += took

        return timed

    def watch(self) -> None:
        """Time every stage from here on."""
        for stage, names in STAGES.items():
            for name in names:
                module, _, path = name.partition(":")
                *owners, last = path.split(".")
                owner: Any = importlib.import_module(module)
                for one in owners:
                    owner = getattr(owner, one)
                if (function := getattr(owner, last, None)) is not None:
                    setattr(owner, last, self.wrap(stage, function))


def main() -> None:
    """Train, and print each stage's CPU seconds, their share and how often it was called."""
    if len(sys.argv) < 3:
        sys.exit("usage: python -m benchmarks.profile_epoch DATA_ROOT SCRATCH [override …]")
    root, scratch, *more = sys.argv[1:]
    place = Path(scratch).resolve()
    number = len(list(place.glob("runs/epoch-*")))
    sys.argv = [
        "train.py", "experiment=talukdar/cnn", f"data.root={root}", f"cache.dir={place / 'cache'}",
        f"runs_dir={place / 'runs'}", f"name=epoch-{number}", "trainer.max_epochs=1", "trainer.progress=none", *more,
    ]  # fmt: skip
    train = importlib.import_module("cxr.script.train")
    clock = Clock()
    clock.watch()
    train.main()
    total = time.process_time()
    rest = total - sum(clock.seconds.values())
    for stage, seconds in {**clock.seconds, "imports, configuration, the rest": rest, "total": total}.items():
        print(f"{stage:36} {seconds:9.2f} s {seconds / total:7.1%} {clock.calls[stage] or '':>8}")
    print(json.dumps({**clock.seconds, "rest": rest, "total": total}))


if __name__ == "__main__":
    main()
