"""Scores of synthetic images in reports: beside the acrnet paper's Table 4, and a column for each protocol."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cxr.errors import UserError
from cxr.evaluation.scores import score_records
from cxr.extractor import Answer
from cxr.files import read_json, write_json
from cxr.metric.score_record import check_score, file_name, protocol_name, read_scores, score_names
from cxr.report.build import build_report
from cxr.report.generative import beside_published, scores_grid, scores_of
from cxr.report.published import load_published
from cxr.report.spec import ReportSpec

CLASSES = ["Cardiomegaly", "Emphysema", "No Finding"]


def make_set(root: Path, name: str, sha256: str) -> Path:
    """The folder of a synthetic set as far as reports read it."""
    manifest = {"kind": "synthetic", "n": 30, "classes": ["Cardiomegaly"], "size_px": 256, "seed": 0,
                "checkpoints": [], "trained_on": [], "images_sha256": sha256}  # fmt: skip
    write_json(root / name / "manifest.json", manifest)
    return root / name


def make_score(root: Path, names: list[str], *, sha256: str = "ab" * 32, **changes: Any) -> dict[str, Any]:
    """Write the score of sets, whose images' hash is their name; `changes`: against, splits, arm, model, fold, …"""
    against, layer = changes.get("against", "test"), changes.get("layer", "softmax")
    model = changes.get("model", "acrnet")
    rng = np.random.default_rng(0)
    real, made = (
        Answer(p.astype(np.float32), np.log(p).astype(np.float32) if layer == "softmax" else None)
        for p in (rng.dirichlet([1, 2, 1], 40), rng.dirichlet([2, 1, 1], 30))
    )
    name = changes.get("extractor", f"{model}@{sha256[:8]}")
    protocol = protocol_name(name, against, "same", None if layer == "softmax" else {"split": "f"})
    settings = {"n_resamples": 50, "n_halves": 4, "seed": 0, "n_subsets": 5, "k_precision": 3, "k_density": 5,
                "splits": changes.get("splits", 1)}  # fmt: skip
    found, _ = score_records(real, made, [None] * 40, layer, settings)
    key = {what: one for what, one in score_names(protocol, layer, settings).items() if what in found}
    run = {"run": "acrnet-acrnet_fold-0", "model": model, "arm": changes.get("arm", "real_only"),
           "seed": 0, "fold": changes.get("fold", 0), "config_hash": "0" * 12,
           "checkpoint": {"file": "checkpoints/last.ckpt", "sha256": sha256}, "classes": CLASSES}  # fmt: skip
    record = {
        "schema": 2, "kind": "score", "protocol": protocol, "paper": "acrnet", "against": against, "names": key,
        "extractor": {"name": name, "layer": layer, "protocol": {"weights_sha256": sha256},
                      "run": run if layer == "softmax" else None},
        "real": {"run": "acrnet-gan"},
        "split_fingerprint": "f" * 16, "classes": CLASSES[:2], "counts": {},
        "sets": [{"name": n, "images_sha256": n, "n": 30, "classes": ["Cardiomegaly"]} for n in names],
        "settings": {**settings, "real_classes": "same"},
        "metrics": {key[what]: {"score": what, **one} for what, one in found.items()},
        "diversity": {
            key: {"name": f"{key}_pairs15", **{kind: {"value": 0.25, "low": 0.2, "high": 0.3, "interval": "95 %",
                                                      "n_pairs": 15} for kind in ("real", "synthetic")}}
            for key in ("msssim", "near_duplicates")
        },
        "leakage": changes.get("leakage"), "warnings": changes.get("warnings", []),
    }  # fmt: skip
    write_json(root / names[0] / "scores" / file_name(protocol, layer, settings, names), record)
    return record


def test_table_4_has_our_side(make_run: Callable[..., Path], repository: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "synthetic", tmp_path / "out"
    sets = [make_set(root, name, name) for name in ("a", "b")]
    shown = make_score(root, ["a", "b"], splits=3, warnings=["<b>mind</b>"])
    make_score(root, ["a", "b"], sha256="cd" * 32, fold=1, leakage="the GAN saw 3 of the 40 real images")
    make_score(root, ["a", "b"], sha256="ef" * 32, model="vgg16")
    run = make_run(tmp_path, "real", classes=CLASSES, paper="acrnet", model="acrnet")
    spec = cast(ReportSpec, instantiate(OmegaConf.load(repository / "conf" / "report" / "acrnet.yaml")))
    page = build_report([run], sets, out, "acrnet", spec).read_text(encoding="utf-8").replace("\u00a0", " ")
    with (out / "table4.csv").open() as file:
        rows = {(r["model"], r["arm"], r["metric"]): r for r in csv.DictReader(file)}
    names = shown["names"]
    score, fid = shown["metrics"][names["is"]], shown["metrics"][names["fid_logits"]]
    for key, published, ours in (
        (("dcgan", "real_only", "inception_score"), "3.72", score["real"]),
        (("dcgan", "synthetic", "inception_score"), "3.54", score["synthetic"]),
        (("dcgan", "synthetic", "fid"), "77.6", fid),
    ):
        assert rows[key]["published"] == published
        assert [float(rows[key][k]) for k in ("ours", "low", "high")] == [
            ours[k] for k in ("value", "low", "high")
        ]
    assert [rows["dcgan", arm, "inception_score"]["n_images"] for arm in ("real_only", "synthetic")] == [
        "40",
        "30",
    ]
    fid_row = rows["dcgan", "synthetic", "fid"]
    marks = f"{fid_row['marks']} {fid_row['marks_told']}"
    assert names["is"] in marks and names["fid_logits"] in marks
    assert "30 synthetic images of a + b against 40 real test images of Cardiomegaly, Emphysema" in marks
    assert "2 more, by other extractors" in marks
    assert "<b>mind" not in page and "leak: the GAN saw 3" in page
    assert "Scores of synthetic images" in page
    with (out / "synthetic_scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * (7 + 2 + 4)
    assert {"n_real": "30", "value": "0.25"}.items() <= next(
        line for line in lines if line["score"] == "msssim_pairs15" and line["images"] == "real"
    ).items()
    assert "MS-SSIM of pairs of synthetic images" in page and "(n = 15 pairs)" in page
    assert {"synthetic_scores.md", "synthetic_scores.tex"} <= {p.name for p in out.iterdir()}


def test_a_column_holds_one_protocol(tmp_path: Path) -> None:
    root = tmp_path / "synthetic"
    one = make_score(root, ["a"])
    other = make_score(root, ["a"], against="val", sha256="cd" * 32)
    third = make_score(root, ["b"])
    head, body = scores_grid([one, other, third])
    assert head == ["Synthetic images", "Score", "acrnet@abababab,test", "acrnet@cdcdcdcd,val"]
    rows = {(line[0], line[1]): line[2:] for line in body}
    value = one["metrics"]["is_softmax[acrnet@abababab,test]"]["real"]["value"]
    assert rows["a", "IS (legacy) of the real images"][0].startswith(f"{value:.3f} [")
    assert rows["b", "IS (legacy) of the real images"][1] == "—"
    assert len(body) == 2 * (2 * 7 + 2 + 4)
    assert body[0][1] == "KID on probabilities"
    assert "(n = 30 to 40)" in rows["a", "FID on logits"][0]
    beside = rows["a", "FID on logits: beside real to real"][1]
    fid = other["metrics"][other["names"]["fid_logits"]]
    assert beside == f"{fid['same_n']['value']:.3f} beside {fid['null']['value']:.3f} (n = 20 to 20)"


def test_scores_of_other_extractors_stand_in_columns_of_their_own_and_not_beside_the_paper(
    tmp_path: Path,
) -> None:
    root = tmp_path / "synthetic"
    own, pixels = make_score(root, ["a"]), make_score(root, ["a"], layer="", extractor="pixel16")
    head, body = scores_grid([own, pixels])
    assert head[2] == "acrnet@abababab,test" and head[3].startswith("pixel16,test@")
    rows = {(line[0], line[1]): line[2:] for line in body}
    assert rows["a", "KID"][0] == "—" and "(n = 30 to 40)" in rows["a", "KID"][1]
    assert rows["a", "KID on probabilities"][1] == "—"
    assert rows["a", "Recall, k = 3: beside real to real"][1].endswith("(n = 20 to 20)")
    paper = load_published("acrnet")
    assert beside_published([pixels], paper, "acrnet") == {}
    assert (
        "@abababab"
        in beside_published([pixels, own], paper, "acrnet")["dcgan", "synthetic", "fid"].marks[0].tag
    )


def test_which_score_stands_beside_the_paper(tmp_path: Path) -> None:
    paper = load_published("acrnet")
    key = ("dcgan", "synthetic", "fid")

    def chosen(*scores: dict[str, Any]) -> str:
        return beside_published(scores, paper, "acrnet")[key].marks[0].tag

    root = tmp_path / "synthetic"
    plain = make_score(root, ["a"], sha256="01" * 32, fold=3)
    for other in (
        {"model": "vgg16"},
        {"arm": "synthetic"},
        {"against": "val"},
        {"leakage": "it saw"},
        {"fold": 4},
    ):
        assert "@01010101" in chosen(make_score(root, ["a"], **{"fold": 0, **other}), plain)
    assert "@abababab" in chosen(plain, make_score(root, ["a"], fold=1))
    assert beside_published([], paper, "acrnet") == {}
    assert beside_published([plain], load_published("talukdar"), None) == {}
    assert beside_published([plain], None, None) == {}


def test_scores_of_other_images_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "synthetic"
    made = make_set(root, "a", "a")
    make_score(root, ["a"])
    make_score(root, ["a", "b"])
    assert [one["sets"][0]["name"] for one in scores_of([made])] == ["a"]
    assert len(scores_of([made, make_set(root, "b", "b")])) == 2
    make_set(root, "a", "made again")
    assert scores_of([made]) == []
    assert scores_of([]) == []


def test_a_damaged_score_is_named(tmp_path: Path) -> None:
    root = tmp_path / "synthetic"
    record = make_score(root, ["a"])
    (file,) = (root / "a" / "scores").iterdir()
    assert read_scores(root) == [record] == [read_json(file)]
    for broken, told in (
        ({**record, "schema": 1}, "not a score of schema 2; run score.py again"),
        ({k: v for k, v in record.items() if k != "sets"}, "lacks sets"),
        ({**record, "protocol": "other@1,test"}, "not those of its protocol"),
    ):
        with pytest.raises(UserError, match=told):
            check_score(broken, "here")
