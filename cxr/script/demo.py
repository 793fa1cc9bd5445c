"""The whole chain on procedural chests: GANs → synthetic sets → classifiers in three arms → report.

Each step is the command a user would type; run it again and what is finished is skipped.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

__all__ = ["STEPS", "main"]

CLASSES = ("opacity", "normal")
ARMS = "phantom/cnn,phantom/cnn_synthetic,phantom/cnn_duplicate_real"
TRAIN = [
    "runs_dir=demo/runs",
    "synthetic_dir=demo/synthetic",
    "cache.dir=demo/cache",
    "trainer.progress=none",
]

STEPS: list[tuple[str, list[str]]] = [
    (
        "1/4  a GAN per class",
        [
            "train",
            "-m",
            "experiment=phantom/gan",
            f"train_classes={','.join(f'[{c}]' for c in CLASSES)}",
            *TRAIN,
        ],
    ),
    *(
        (
            f"2/4  synthetic images: {c}",
            ["generate", f"run=phantom-gan_train_classes-{c}", f"name=demo-{c}", "n=150", *TRAIN[:2]],
        )
        for c in CLASSES
    ),
    (
        "3/4  the classifier: real only, with synthetic images, with real images repeated; two seeds each",
        ["train", "-m", f"experiment={ARMS}", "seed=0,1", *TRAIN],
    ),
    (
        "4/4  evaluation and report",
        ["evaluate", "runs=['phantom-cnn*']", "report=phantom", "reports_dir=demo/reports", *TRAIN[:2]],
    ),
]


def main() -> int:
    """Run every step in turn; stops at the first that fails and returns its exit code."""
    began = time.monotonic()
    for title, (script, *overrides) in STEPS:
        print(f"\n{title}\n$ python {script}.py {' '.join(overrides)}", flush=True)
        code = subprocess.run(
            [sys.executable, "-m", f"cxr.script.{script}", *overrides], check=False
        ).returncode
        if code != 0:
            print(f"the step above ended with exit code {code}; nothing after it was run", file=sys.stderr)
            return code
    report = Path("demo/reports/phantom/report.html").resolve()
    print(f"\n{time.monotonic() - began:.0f} s. The report, for a browser:\n{report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
