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
import pandas as pd
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cxr.errors import UserError
from cxr.files import write_json
from cxr.report.build import build_report
from cxr.report.spec import ReportSpec, TableSpec


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
    write_json(runs[0] / "status.json", {"state": "finished", "name": runs[0].name})
    manifest = {"kind": "synthetic", "n": 50, "classes": ["PNEUMONIA"], "size_px": 64, "seed": 0}
    write_json(synthetic / "manifest.json", {**manifest, "checkpoints": [made_by], "trained_on": ["x"]})
    out = tmp_path / "reports" / "talukdar"
    target = build_report(runs, [synthetic], out, "talukdar", spec)
    page = target.read_text(encoding="utf-8")
    plain = page.replace("\u00a0", " ")

    assert target == out / "report.html"
    assert external(page) == []
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+|http-equiv", "", page)
    assert page.count("<script") == 1  # sorts tables; see test_sorting.py
    assert page.index("+5.00 points") < page.index("<section")  # the effect stands on top
    for told in ("818 + 284 of 1,172", "887 + 318 of 1,254",
                 "predicts only PNEUMONIA (the base rate, 75.00 %)",
                 "random weights", "leakage allowed: 3 test images", "95.00", "94.03", "not run", "image/png",
                 "config " + "0" * 16, "git 0123456789ab with changed files",
                 "Training of the GAN real_only-0"):  # fmt: skip
        assert told in plain, told
    names = {f"{t}.{x}" for t in ("table2", "table3", "control", "differences") for x in ("csv", "md", "tex")}
    assert {p.name for p in out.iterdir()} >= names
    drawn = {p.stem for p in (out / "figures").glob("*.svg")}
    assert drawn >= {"roc-talukdar_cnn-PNEUMONIA", "reliability-talukdar_cnn", "differences", "images",
                     "confusion-talukdar_cnn", "training-talukdar_cnn", "training-gan-real_only-0"}  # fmt: skip
    assert drawn <= {p.stem for p in (out / "figures").glob("*.png")}  # each as both

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
    assert re.search(r"\| Custom CNN \|.* 96\.09 \| 95\.00 \[\d\d\.\d\d, \d+\.\d\d\] \| −1\.09 \|", markdown)
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
    assert page.count("<script") == 1 and "<script>alert" not in page and "<b>m" not in page
    assert "&lt;script&gt;" in page
    assert r"\$a\_b\$ \& 50\% | x" in (out / "results.tex").read_text()
    markdown = (out / "results.md").read_text()
    assert "<script" not in markdown and r"50% \| x" in markdown
    assert all(p.resolve().is_relative_to(out) for p in (out / "figures").rglob("*"))


def test_a_generic_report_of_three_classes_in_one_arm(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(tmp_path, "three", classes=["a", "b", "c"], paper="phantom", n=60, wrong=5)
    page = build_report([run], [], tmp_path / "out", "phantom").read_text(encoding="utf-8")
    assert "AUROC c" in page and "paper†" not in page and "no two arms" in page


def test_folds_and_marks_stand_in_every_form(make_run: Callable[..., Path], tmp_path: Path) -> None:
    kfold = {"folds": 3, "name": "kfold(3,val=0.1,seed=0)", "fingerprint": "ab" * 8}
    runs = [
        make_run(
            tmp_path, f"{arm}-{fold}", arm=arm, fold=fold, kfold=kfold, first=999 * fold, n=60, wrong=3 + fold,
            fingerprint=f"{fold}" * 16, classes=["a", "b", "c"], paper="phantom", weights="random", curves=True,
            departures=("trainer.max_epochs: 80 → 2",), n_synthetic=30,
        )
        for arm in ("real_only", "synthetic") for fold in (0, 2)
    ]  # fmt: skip
    table = TableSpec("classes", "By class", None, None, ["recall/*", "auroc/*"], by_class=True)
    spec = ReportSpec("phantom", "T", "accuracy", None, [["synthetic", "real_only"]], [table])
    out = tmp_path / "out"
    page = build_report(runs, [], out, "phantom", spec).read_text(encoding="utf-8").replace("\u00a0", " ")
    forms = {x: (out / f"classes.{x}").read_text() for x in ("csv", "md", "tex")}
    rows = re.findall(
        r"<tr>.*?</tr>", page[page.index("By class") : page.index("Differences between arms</h2>")]
    )
    for row in [r for r in rows if "<td" in r]:  # six of each form: two arms, three classes
        for told in ("random weights · 2 of 3 folds · changed recipe", "40 patients"):
            assert told in row, told
    assert len([r for r in rows if "<td" in r]) == 6
    for form, n, tags in (("csv", 12, "random weights · 2 of"), ("md", 6, "random weights · 2 of"),
                          ("tex", 6, r"random weights $\cdot$ 2 of")):  # fmt: skip
        assert forms[form].count(tags) == n, form
    care = page[page.index("Read these rows with care") : page.index("<nav>")]
    for once in ("random weights: the layers", "fold 0, 2 — all models and arms", "not the experiment"):
        for text in (care, forms["md"], forms["tex"].replace("---", "—")):
            assert text.replace("&#x27;", "'").count(once) == 1, once
    assert page.count("trainer.max_epochs: 80 → 2") == 1  # both arms in one line, once on the page
    for form in ("md", "tex"):
        assert forms[form].count("trainer.max") == 1, form
    for form in ("md", "tex"):
        assert (
            forms[form].count("120 (40)") == 6
            and "120 test images of 40 patients in 2 of 3 folds" in forms[form]
        )
    assert "random weights" in (out / "differences.md").read_text()
    assert (out / "figures" / "scores-classes.svg").is_file() and (out / "figures" / "images.svg").is_file()


def test_the_report_as_one_markdown_file(make_run: Callable[..., Path], tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, f"{arm}-{seed}", arm=arm, seed=seed, weights="random", curves=True, paper="phantom")
        for arm in ("synthetic", "real_only") for seed in (0, 1)
    ]  # fmt: skip
    out = tmp_path / "out"
    page = build_report(runs, [], out, "phantom").read_text(encoding="utf-8").replace("\u00a0", " ")
    text = (out / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Results: phantom\n")
    assert "Synthetic images changed test accuracy by" in text and "Runs: 4 · Models: 1" in text
    assert "Arms: real images only, with GAN images" in text  # in the order of reports, not of runs
    parts = ["## Read these rows with care", "- random weights: the layers", "## Results", "### Results", "\n| talukdar",
             "### How ours were trained and tested", "- Ours, talukdar", "## Differences between arms",
             "## Provenance", "| real\\_only-0 | 0000000000000000 | patient ffffffffffffffff | 0123456789ab with"]  # fmt: skip
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    scored = text[: text.index("### Paired differences between arms: AUROC by class")]
    rows = [line for line in scored.splitlines() if line.startswith("| talukdar")]
    assert len(rows) == 3 and all("random weights" in row for row in rows)
    assert text.count("random weights: the layers") == 1
    assert str(tmp_path) not in text and "cpu" not in text and "![" not in text
    for told in ("120 test images of 40 patients", "random weights: the layers"):  # the page says the same
        assert told in text and told in page


def test_runs_without_validation_images(make_run: Callable[..., Path], tmp_path: Path) -> None:
    counts = {"train": {c: {"real": 9} for c in ("NORMAL", "PNEUMONIA")}, "val": {}, "test": {}}
    run = make_run(tmp_path, "one", curves=True, paper="phantom", counts=counts)
    log = pd.read_csv(run / "metrics.csv")
    log["val/loss"], log["val/accuracy"] = np.nan, np.nan
    log.to_csv(run / "metrics.csv", index=False)
    page = build_report([run], [], tmp_path / "out", "phantom").read_text(encoding="utf-8")
    assert "Validation" not in page and "n/a</" not in page
    assert (tmp_path / "out" / "figures" / "training-talukdar_cnn.svg").is_file()


def test_many_labels_share_their_roc_figure(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for n in (3, 5):
        run = make_run(tmp_path, f"of-{n}", classes=list("abcde")[:n], multi_label=True, paper="phantom")
        build_report([run], [], tmp_path / str(n), "phantom")
        found = sorted(p.stem for p in (tmp_path / str(n) / "figures").glob("roc-*.svg"))
        assert "roc-talukdar_cnn-real_only-all-labels" in found
        assert len(found) == (3 if n == 3 else 1)  # the last label has no positive image, hence no curve


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


def test_unknown_patients_are_not_counted(make_run: Callable[..., Path], tmp_path: Path) -> None:
    arms = [("a", "real_only"), ("b", "synthetic")]
    runs = [make_run(tmp_path, name, paper="phantom", arm=arm, patients=False) for name, arm in arms]
    build_report(runs, [], tmp_path / "out", "phantom")
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "120 patients" not in page and "(120)" not in page
    assert "patients unknown: each image was resampled as a patient of its own" in page
    assert "120 test images, patients unknown" in page
