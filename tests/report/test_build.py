"""The whole report from fabricated runs: one file, no network, nothing unescaped, numbers in every form."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cxr.errors import UserError
from cxr.files import write_json
from cxr.report.build import build_report
from cxr.report.spec import ReportSpec


@pytest.fixture
def spec(repository: Path) -> ReportSpec:
    return cast(ReportSpec, instantiate(OmegaConf.load(repository / "conf" / "report" / "talukdar.yaml")))


def external(page: str) -> list[str]:
    """Everything a browser would fetch."""
    found = re.findall(r"""(?:src|href|srcset|action|data)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import""", page)
    return [a or b for a, b in found if not (a or b).startswith(("data:", "#"))]


def test_the_talukdar_report(make_run: Callable[..., Path], spec: ReportSpec, tmp_path: Path) -> None:
    runs = []
    for seed in range(2):
        for arm, wrong in (("real_only", 12), ("synthetic", 6), ("duplicate_real", 9)):
            runs.append(
                make_run(
                    tmp_path, f"{arm}-{seed}", arm=arm, seed=seed, wrong=wrong, n_synthetic=50, curves=True
                )
            )
    runs.append(make_run(tmp_path, "collapsed", model="resnet50", only=1, weights="random"))
    runs.append(make_run(tmp_path, "leaky", model="vgg16", arm="synthetic", leakage="3 test images"))
    synthetic = tmp_path / "synthetic" / "pneumonia"
    synthetic.mkdir(parents=True)
    cv2.imwrite(str(synthetic / "grid.png"), np.zeros((8, 8), np.uint8))
    made_by = {"path": str(runs[0] / "checkpoints" / "last.ckpt"), "sha256": "cd" * 32}
    manifest = {"kind": "synthetic", "n": 50, "classes": ["PNEUMONIA"], "size_px": 64, "seed": 0}
    write_json(synthetic / "manifest.json", {**manifest, "checkpoints": [made_by], "trained_on": ["x"]})
    out = tmp_path / "reports" / "talukdar"
    target = build_report(runs, [synthetic], out, "talukdar", spec)
    page = target.read_text(encoding="utf-8")
    plain = page.replace("\u00a0", " ")

    assert target == out / "report.html"
    assert external(page) == []
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+|http-equiv", "", page)
    assert "<script" not in page
    assert page.index("+5.00 points") < page.index("<section")  # the effect stands on top
    for told in ("818 + 284 of 1,172", "887 + 318 of 1,254",
                 "predicts only PNEUMONIA (the base rate, 75.00 %)",
                 "random weights", "leakage allowed: 3 test images", "95.00", "94.03", "not run", "image/png",
                 "config " + "0" * 16, "git 0123456789ab with changed files",
                 "Training of the GAN real_only-0"):  # fmt: skip
        assert told in plain, told
    names = {f"{t}.{x}" for t in ("table2", "table3", "control", "differences") for x in ("csv", "md", "tex")}
    assert {p.name for p in out.iterdir()} >= names
    assert (out / "figures" / "roc-talukdar_cnn-PNEUMONIA.svg").stat().st_size > 1000

    with (out / "table2.csv").open() as file:
        rows = {(r["model"], r["metric"]): r for r in csv.DictReader(file)}
    cell = rows["talukdar_cnn", "accuracy"]
    assert (cell["published"], cell["published_source"], cell["n_seeds"], cell["n_images"]) == (
        "94.03",
        "Table 2",
        "2",
        "120",
    )
    assert float(cell["ours"]) == pytest.approx(0.9)
    assert float(cell["low"]) < 0.9 < float(cell["high"])
    assert rows["xception", "accuracy"]["ours"] == ""
    markdown = (out / "table3.md").read_text()
    assert re.search(r"\| Custom CNN \|.* 96\.09 \| 95\.00 \[9\d\.\d\d, \d+\.\d\d\] \| −1\.09 \|", markdown)
    latex = (out / "table2.tex").read_text()
    assert (
        r"\toprule" in latex
        and r"Test accuracy (\%), paper$^\dagger$" in latex
        and "94.03 & 90.00 [" in latex
    )


def test_hostile_names_stay_text(make_run: Callable[..., Path], tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "$a_b$ & 50% | x"]
    run = make_run(tmp_path, "odd", classes=names, paper=None, model="<b>m</b>", n=40, wrong=4)
    out = tmp_path / "out"
    page = build_report([run], [], out, "mine").read_text(encoding="utf-8")
    assert "<script" not in page and "<b>m" not in page
    assert "&lt;script&gt;" in page
    assert r"\$a\_b\$ \& 50\% | x" in (out / "results.tex").read_text()
    markdown = (out / "results.md").read_text()
    assert "<script" not in markdown and r"50% \| x" in markdown
    assert all(p.resolve().is_relative_to(out) for p in (out / "figures").rglob("*"))


def test_a_generic_report_of_three_classes_in_one_arm(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(tmp_path, "three", classes=["a", "b", "c"], paper="phantom", n=60, wrong=5)
    page = build_report([run], [], tmp_path / "out", "phantom").read_text(encoding="utf-8")
    assert "AUROC c" in page and "paper†" not in page and "no two arms" in page


def test_user_mistakes(make_run: Callable[..., Path], spec: ReportSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs"):
        build_report([], [], tmp_path, "talukdar", spec)
    with pytest.raises(UserError, match="evaluate it first"):
        build_report([tmp_path], [], tmp_path, "talukdar", spec)
    other = make_run(tmp_path, "other", paper="acrnet")
    with pytest.raises(UserError, match="run other is of paper 'acrnet'"):
        build_report([other], [], tmp_path, "talukdar", spec)
    with pytest.raises(UserError, match="does not fit"):
        build_report([other], [], tmp_path, "phantom", spec)


def test_both_yaml_files_build(repository: Path, spec: ReportSpec) -> None:
    phantom = instantiate(OmegaConf.load(repository / "conf" / "report" / "phantom.yaml"))
    assert (phantom.paper, spec.paper) == ("phantom", "talukdar")
    assert [t.name for t in spec.tables] == ["table2", "table3", "control", "ranking"]


def test_a_browser_renders_it(make_run: Callable[..., Path], tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium to open the page with")
    run = make_run(tmp_path, "one", n=40, wrong=4)
    page = build_report([run], [], tmp_path / "out", "talukdar")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
    ]
    shown = subprocess.run(
        [browser, *flags, page.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    assert "<h1>Results: talukdar</h1>" in shown.stdout
