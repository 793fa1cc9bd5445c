"""The reports of all papers from fabricated runs: every table, our scores beside the published ones."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cxr.errors import UserError
from cxr.report.build import build_report
from cxr.report.published import load_published
from cxr.report.spec import ReportSpec, TableSpec

FINDINGS = list(load_published("densenet14").classes)
# paper: classes of the runs, model, arms, and what the CSV must hold: (table, model, arm, metric) -> published
CASES: dict[str, tuple[list[str], str, list[str], dict[tuple[str, str, str, str], str]]] = {
    "acrnet": (
        ["Cardiomegaly", "Emphysema", "No Finding"], "acrnet", ["real_only", "synthetic", "duplicate_real"],
        {
            ("table4", "dcgan", "synthetic", "fid"): "77.6",
            ("table5", "acrnet", "synthetic", "recall/No Finding"): "0.9700",
            ("table6", "acrnet", "real_only", "auroc_macro"): "0.936",
            ("table7", "acrnet", "real_only", "auroc/Emphysema"): "0.89",
            ("table7", "chexnet", "real_only", "auroc/Emphysema"): "0.93",
        },
    ),
    "salehinejad": (
        ["Cardiomegaly", "Normal", "Effusion", "Edema", "Pneumothorax"], "salehinejad_dcnn",
        ["real_only", "undersample", "synthetic", "duplicate_real"],
        {
            ("table1", "salehinejad_dcnn", "real_only", "recall/Normal"): "77.75",
            ("table1", "salehinejad_dcnn", "real_only", "recall/Edema"): "",
            ("table1", "salehinejad_dcnn", "synthetic", "recall/Edema"): "89.68",
            ("total", "salehinejad_dcnn", "real_only", "accuracy"): "70.87±0.47",
        },
    ),
    "densenet14": (
        FINDINGS, "densenet121", ["real_only", "augmented"],
        {
            ("table1", "resnet50", "augmented", "train_accuracy"): "0.84",
            ("table2", "densenet121", "augmented", "accuracy"): "0.84",
            ("figure4", "densenet121", "real_only", "auroc/Pneumonia"): "<0.5",
            ("figures5and6", "densenet121", "augmented", "auroc/Fibrosis"): "0.775",
            ("figures5and6", "resnet50", "augmented", "auroc/Fibrosis"): "0.68",
        },
    ),
    "covidgan": (
        ["COVID", "Normal", "Viral Pneumonia"], "covid_cnn", ["real_only", "synthetic", "duplicate_real"],
        {
            ("table9", "vgg16", "synthetic", "precision_macro"): "97.45",
            ("test_weighted", "covid_cnn", "real_only", "recall_weighted"): "0.94",
            ("test_averages", "covid_cnn", "synthetic", "accuracy"): "0.97",
            ("reports_classical", "covid_cnn", "real_only", "recall/Viral Pneumonia"): "0.85",
            ("reports_gan", "resnet50", "synthetic", "f1/Viral Pneumonia"): "0.93",
        },
    ),
}  # fmt: skip


def conf(repository: Path, paper: str) -> ReportSpec:
    return cast(ReportSpec, instantiate(OmegaConf.load(repository / "conf" / "report" / f"{paper}.yaml")))


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures of each model, which take most of a report's time: these tests are about tables."""
    monkeypatch.setattr("cxr.report.build.model_sections", lambda *_: "")


@pytest.mark.parametrize("paper", list(CASES))
def test_every_table_has_ours_beside_the_published(
    paper: str, make_run: Callable[..., Path], repository: Path, tmp_path: Path
) -> None:
    classes, model, arms, expected = CASES[paper]
    runs = []
    for i, arm in enumerate(arms):
        options: dict[str, Any] = {"classes": classes, "paper": paper, "model": model, "arm": arm}
        options["multi_label"] = paper == "densenet14"
        runs.append(make_run(tmp_path, arm, wrong=12 - 2 * i, n_resamples=50, n_synthetic=20, **options))
    spec, out = conf(repository, paper), tmp_path / "out"
    page = build_report(runs, [], out, paper, spec).read_text(encoding="utf-8").replace("\u00a0", " ")
    published = load_published(paper)
    assert published.protocol in " ".join(page.replace("&quot;", '"').replace("&#x27;", "'").split())
    rows = {}
    for table in spec.tables:
        assert {f"{table.name}.{x}" for x in ("csv", "md", "tex")} <= {p.name for p in out.iterdir()}, (
            table.name
        )
        with (out / f"{table.name}.csv").open() as file:
            rows |= {(r["table"], r["model"], r["arm"], r["metric"]): r for r in csv.DictReader(file)}
    for key, printed in expected.items():
        assert rows[key]["published"] == printed, key
    # every score that our arms have is there, with its interval; one without a positive image says so
    for (_, of, arm, metric), row in rows.items():
        if of == model and arm in arms and metric != "train_accuracy":
            undefined = paper == "densenet14" and (metric.endswith("/Hernia") or metric == "auroc_macro")
            assert (row["ours"] == "n/a") is (row["low"] == "") is undefined, (of, arm, metric)
            assert row["n_images"] == "120"
    shown = {(m, a) for (_, m, a, _) in rows}
    assert shown >= {(m, a) for (m, a, _) in published.values}  # no published row is left out
    asked = {s for t in spec.tables for s in t.sources or []}
    assert asked == set(published.tables)  # and no table


def test_markdown_of_a_table_by_class(
    make_run: Callable[..., Path], repository: Path, tmp_path: Path
) -> None:
    classes, model, _, _ = CASES["salehinejad"]
    run = make_run(tmp_path, "ds3", arm="synthetic", classes=classes, paper="salehinejad", model=model)
    build_report([run], [], tmp_path / "out", "salehinejad", conf(repository, "salehinejad"))
    lines = (tmp_path / "out" / "table1.md").read_text().splitlines()
    assert (
        lines[2]
        == "| Model | Arm | Class | Recall, paper† | Recall, ours | Images (patients) | Seeds | Notes |"
    )
    edema = next(line for line in lines if "| Edema |" in line and "with GAN images" in line)
    assert "| 0.8968 | 0." in edema  # 89.68 %, in the units of the column
    absent = next(line for line in lines if "| Cardiomegaly |" in line and "real images only" in line)
    assert "| 0.7915 | — | — | — | not run |" in absent
    assert not [line for line in lines if "| Edema |" in line and "real images only" in line]  # nobody has it
    total = (tmp_path / "out" / "total.md").read_text()
    assert "| 92.10±0.41 | " in total
    assert "+" in total or "−" in total  # ours − paper stands beside the lead score


def test_scores_by_class_and_overall_do_not_mix() -> None:
    with pytest.raises(UserError, match="its scores are like recall"):
        TableSpec("t", "T", None, None, ["recall/*", "accuracy"], by_class=True)
