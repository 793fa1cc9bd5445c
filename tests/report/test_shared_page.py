"""Pages are shown to others: what strangers named is text in them, and no home, key or image id is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr.data.synthetic import COLUMNS, load_synthetic, write_synthetic
from cxr.evaluation.review import write_review
from cxr.files import write_text
from cxr.report.build import build_report

SCRIPT = "<script>alert(1)</script>"


def made(path: Path) -> Path:
    rows = {
        "class": [SCRIPT] * 3,
        "z_seed": 0,
        "z_index": range(3),
        "checkpoint_sha256": "ab",
        "score": np.nan,
    }
    checkpoint = {"path": f"runs/{SCRIPT}/checkpoints/{SCRIPT}", "sha256": SCRIPT, "g_steps": 1}
    facts: dict[str, Any] = {"classes": [SCRIPT], "seed": 0, "checkpoints": [checkpoint], "trained_on": []}
    index = pd.DataFrame(rows)[list(COLUMNS)]
    return write_synthetic(
        path, np.zeros((3, 8, 8), np.uint8), index, {**facts, "split_fingerprint": "f"}, None
    ).path


def test_a_report_and_a_review_escape_what_strangers_named(
    make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("WANDB_API_KEY", "deadbeef" * 5)
    run = make_run(tmp_path / "runs", "r", classes=[SCRIPT, "B"], paper=None, arm=SCRIPT, model=SCRIPT)
    write_text(run / "config.yaml", f"root: /home/somebody/x\nkey: {'deadbeef' * 5}\nname: {SCRIPT}\n")
    path = made(tmp_path / f"set{SCRIPT.replace('/', '')}")
    page = build_report([run], [path], tmp_path / "out", "some").read_text(encoding="utf-8")
    review = write_review(load_synthetic(path))[0].read_text(encoding="utf-8")
    for text in (page, review):
        assert "<script>alert" not in text and "alert(1)" in text
    assert page.count("<script") == 1 and review.count("</script>") == review.count("<script")
    inside = review.partition('type="application/json" id="data">')[2].partition("</script>")[0]
    assert json.loads(inside)["classes"] == [SCRIPT]
    everything = "".join(p.read_text(errors="ignore") for p in (tmp_path / "out").rglob("*.*") if p.is_file())
    assert "deadbeef" not in everything and "/home/somebody" not in everything and "~/x" in page
