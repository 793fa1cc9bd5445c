"""Makes run folders with known numbers, as evaluation would leave them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr.evaluation.record import RunFacts, build_record, write_result
from cxr.files import write_json

CLASSES = ["NORMAL", "PNEUMONIA"]


@pytest.fixture
def make_run() -> Callable[..., Path]:
    """Write a run folder, see `fabricate`."""
    return fabricate


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the PNG of each figure at a tenth of its size: tests look at what is drawn, not at how finely."""
    monkeypatch.setattr("cxr.report.save.DPI", 20)


def fabricate(
    root: Path,
    name: str,
    *,
    arm: str = "real_only",
    model: str = "talukdar_cnn",
    seed: int = 0,
    n: int = 120,
    wrong: int = 12,
    classes: list[str] | None = None,
    paper: str | None = "talukdar",
    fingerprint: str = "f" * 16,
    only: int | None = None,
    n_resamples: int = 100,
    n_synthetic: int = 0,
    curves: bool = False,
    multi_label: bool = False,
    first: int = 0,
    patients: bool = True,
    validated: float | None = None,
    **facts: Any,
) -> Path:
    """Write a run of `n` images (three per patient, 3 of 4 the second class) of which `wrong` are misread.

    `only`: the class that the model gives every image. `multi_label`: each label on a fifth of the images, the
    last one on none; `wrong` and `only` then mean nothing. `first`: number of the first image; a fold has its own.
    `validated`: also validation predictions, the same answers but each probability of the last class this much higher.
    """
    names = classes or CLASSES
    truth = np.arange(n) % len(names) if len(names) > 2 else np.where(np.arange(n) % 4 == 0, 0, 1)
    rng = np.random.default_rng([seed, *arm.encode()])
    answer = truth.copy()
    missed = rng.permutation(n)[:wrong]
    answer[missed] = (answer[missed] + 1) % len(names)
    if only is not None:
        answer[:] = only
    eye = np.eye(len(names))
    prob = eye[answer] * 0.7 + rng.dirichlet(np.ones(len(names)), n) * 0.3
    target = eye[truth]
    if multi_label:
        target = (np.random.default_rng(0).random((n, len(names))) < 0.2).astype(float)
        target[:, -1] = 0
        prob = np.clip(0.3 * target + 0.6 * rng.random(target.shape), 0, 1)
    frame = pd.DataFrame({"row": np.arange(n), "image_id": [f"i{first + i:04d}" for i in range(n)]})
    frame["view"] = np.where(np.arange(n) % 3 == 0, "AP", "PA")
    frame["source"] = None
    frame["patient_id"] = [f"p{(first + i) // 3}" if patients else None for i in range(n)]
    for c, label in enumerate(names):
        frame[f"target:{label}"], frame[f"prob:{label}"] = target[:, c], prob[:, c]
    extra = {
        "synthetic": n_synthetic if arm == "synthetic" else 0,
        "duplicated": n_synthetic if "dup" in arm else 0,
    }
    tests = {label: int((truth == c).sum()) for c, label in enumerate(names)}
    known: dict[str, Any] = {
        "run": name,
        "paper": paper,
        "experiment": "test",
        "arm": arm,
        "model": model,
        "weights": "scratch",
        "seed": seed,
        "fold": None,
        "config_hash": f"{seed:016x}",
        "split_fingerprint": fingerprint,
        "split_name": "patient",
        "checkpoint_file": "checkpoints/best.ckpt",
        "checkpoint_sha256": "ab" * 32,
        "counts": {
            "train": {c: {"real": 400, **extra} for c in names},
            "val": dict.fromkeys(names, 40),
            "test": tests,
        },
        "wall_s": 100.0 + seed,
    }
    made = RunFacts(**{**known, **facts})
    val = None
    if validated is not None:
        val = frame.assign(image_id="val " + frame["image_id"], patient_id="val " + frame["patient_id"])
        val[f"prob:{names[-1]}"] += validated
    record = build_record(
        frame, made, classes=names, multi_label=multi_label, n_resamples=n_resamples, validation=val
    )
    write_result(root / name, frame, record, val)
    write_json(
        root / name / "manifest.json",
        {"device": "cpu", "git": {"revision": "0123456789abcdef", "dirty": True}},
    )
    if curves:
        e = np.arange(20)
        part = pd.DataFrame({"epoch": e, "step": e * 10, "train/loss": np.exp(-e / (5 + seed)) + 0.1})
        part["val/loss"], part["val/accuracy"] = np.exp(-e / 7) + 0.18, 0.95 - 0.4 * np.exp(-e / 4)
        part.to_csv(root / name / "metrics.csv", index=False)
    return root / name
