"""Scores of synthetic images, as score.py left them: beside a paper's own, and in a table of one column per protocol.

The name of a score is its protocol, so two protocols never share a column. Of several scores that could stand beside
a paper's one value, one is shown and the others are in the table; they are not averaged, since each has a classifier
of its own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr.files import read_json, write_text
from cxr.metric.bootstrap import Estimate
from cxr.metric.score_record import read_scores
from cxr.report import export, html
from cxr.report.mark import Mark
from cxr.report.published import PublishedPaper
from cxr.report.table import ExtraCell

__all__ = ["beside_published", "scores_grid", "scores_of", "scores_section"]

# Papers that score by a classifier of their own, and which of our FIDs takes what their released script takes.
OWN_CLASSIFIER = {"acrnet": "fid_logits"}
METHOD = """
All scores of a column are made from one pass of one extractor, named with the start of its weights' SHA-256, over the
same part of the real images (a hash after it tells their split and size). Scores of two columns do not compare. FID on
probabilities cannot exceed about 2, IS the number of classes.

KID is the headline: it has no bias at small n and may be negative. All intervals resample real images by patient and
synthetic ones singly: 95 % percentile bootstrap for KID, basic for FID and IS, which takes the bias of small samples off
(FID is too high, IS too low), so that a value may lie outside. Where features are many for the images FID has no
interval here, as resampling cannot tell its bias. They hold for this GAN and this extractor.

Precision: synthetic images among real ones; recall: real images among synthetic ones (k = 3, Kynkäänniemi et al. 2019);
density and coverage count the same to the fifth neighbour (Naeem et al. 2020). Their intervals resample the images that
are counted (95 % percentile bootstrap) and hold the other set fixed.

MS-SSIM of pairs of images of one class tells how alike the images of a set are; a near-duplicate is a pair less than
half as far apart as the closest twentieth of real pairs. A set whose share of them is above that of real images has
collapsed.

A score is read beside that of real images to other real images at the same n: the mean over cuts of the real patients
into halves, and of as many synthetic images against the same halves ("synthetic beside real"). IS is marked legacy: it
looks at no real image, and classes of ImageNet say little of radiographs.
"""
ORDER = ("kid", "fid", "fid_logits", "precision", "recall", "density", "coverage")
LAYERS = {
    "softmax": " on probabilities",
    "logits": " on logits",
    "penultimate": " on domain features",
    "": "",
}
CSV_COLUMNS = (
    "score", "images", "value", "low", "high", "interval", "n_real", "n_patients", "n_synthetic", "null", "same_n",
    "n_first_half", "n_second_half", "sets", "sets_sha256", "classes", "against", "extractor", "extractor_run",
    "weights_sha256", "real_run", "split_fingerprint", "leakage", "warnings",
)  # fmt: skip


def scores_of(synthetic: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the scores of synthetic sets, all of whose images are among those of the folders given."""
    known = {str(read_json(path / "manifest.json").get("images_sha256")) for path in synthetic}
    found = [one for root in sorted({path.parent for path in synthetic}) for one in read_scores(root)]
    return [one for one in found if {part["images_sha256"] for part in one["sets"]} <= known]


def beside_published(
    scores: Sequence[Mapping[str, Any]], paper: PublishedPaper | None, lead_model: str | None
) -> dict[tuple[str, str, str], ExtraCell]:
    """Return ours for each IS and FID that a paper prints of its own classifier, by (model, arm, score).

    Of several: by the lead model trained on real images only, against test images, of the most classes, the
    lowest seed and fold.
    """
    if paper is None or paper.paper not in OWN_CLASSIFIER:
        return {}
    own = [
        one
        for one in scores
        if one["extractor"]["run"] and {"is", OWN_CLASSIFIER[paper.paper]} <= set(one["names"])
    ]
    if not own:
        return {}
    ranked = sorted(own, key=lambda one: _rank(one, lead_model))
    best, more = ranked[0], len(scores) - 1
    names = best["names"]
    found = {}
    for model, arm, metric in paper.values:
        kind = {"inception_score": "is", "fid": OWN_CLASSIFIER[paper.paper]}.get(metric)
        if kind is None:
            continue
        name, one = names[kind], best["metrics"][names[kind]]
        if kind == "is":
            one = one["real" if arm == "real_only" else "synthetic"]
        found[model, arm, metric] = ExtraCell(_estimate(one), tuple(_marks(best, name, arm, more)))
    return found


def scores_grid(scores: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of text: a row per images and score, a column per protocol."""
    protocols = list(dict.fromkeys(str(one["protocol"]) for one in scores))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for one in scores:
        for label, text in _lines(one):
            rows.setdefault((_images(one), label), {}).setdefault(str(one["protocol"]), text)
    body = [[*key, *(cells.get(p, "—") for p in protocols)] for key, cells in rows.items()]
    return ["Synthetic images", "Score", *protocols], body


def scores_section(scores: Sequence[Mapping[str, Any]], out: Path) -> str:
    """Return the section of a report, "" where there are no scores; leaves synthetic_scores.{csv,md,tex} in `out`."""
    if not scores:
        return ""
    head, body = scores_grid(scores)
    method = [" ".join(p.split()) for p in METHOD.strip().split("\n\n")]
    title, notes = "Scores of synthetic images", [*method, *_cautions(scores)]
    write_text(out / "synthetic_scores.csv", _to_csv(scores))
    write_text(out / "synthetic_scores.md", export.to_markdown(title, head, body, notes))
    write_text(out / "synthetic_scores.tex", export.to_latex(title, head, body, notes))
    table = html.grid_table(head, body, numbers=range(2, len(head)))
    below = html.note("Beside this page as synthetic_scores.csv, .md and .tex.")
    return html.alarm("Read these scores with care", _cautions(scores)) + table + html.bullets(method) + below


def _rank(one: Mapping[str, Any], lead_model: str | None) -> tuple[Any, ...]:
    by = one["extractor"]["run"]
    return (
        by["model"] != lead_model,
        by["arm"] != "real_only",
        one["against"] != "test",
        one["leakage"] is not None,
        -len({c for part in one["sets"] for c in part["classes"]}),
        by["seed"],
        -1 if by["fold"] is None else by["fold"],
        one["protocol"],
    )


def _marks(one: Mapping[str, Any], name: str, arm: str, more: int) -> list[Mark]:
    """Return what a reader must know of a score beside a published one: its protocol first."""
    by = one["extractor"]["run"]
    fold = "" if by["fold"] is None else f", fold {by['fold']}"
    told, marks = [f"by our run {by['run']}{fold}, of {len(by['classes'])} classes"], []
    if arm != "real_only":
        real = one["metrics"][one["names"]["fid"]]
        told.append(f"{real['n_synthetic']:,} synthetic images of {_images(one)} against {real['n_real']:,} real "
                    f"{one['against']} images of {', '.join(one['classes'])}")  # fmt: skip
        marks += [Mark("leakage allowed", one["leakage"])] if one["leakage"] else []
        marks += [Mark("warning of its score", warning) for warning in one["warnings"]]
    if more:
        told.append(f"{more} more, by other extractors or of other images: see Scores of synthetic images")
    return [Mark(name, "; ".join(told)), *marks]


def _estimate(one: Mapping[str, Any]) -> Estimate:
    """Return a score as a cell; FID and IS of synthetic images count those, which have no patients."""
    n, patients = (one["n"], one["n_patients"]) if "n" in one else (one["n_synthetic"], None)
    return Estimate(
        one["value"], one["low"], one["high"], None, None, (one["value"],), n, patients or 0, 1, 0
    )


def _lines(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (score in words, value as text) of a record, in the order of reading."""
    names, metrics, settings = one["names"], one["metrics"], one["settings"]
    of = LAYERS[one["extractor"]["layer"]]
    k = {"precision": "k_precision", "recall": "k_precision", "density": "k_density", "coverage": "k_density"}
    lines = []
    for key in (key for key in ORDER if key in names):
        title = {"kid": f"KID{of}", "fid": f"FID{of}", "fid_logits": "FID on logits"}.get(key)
        title = title or f"{key.capitalize()}{of}, k = {settings[k[key]]}"
        found = metrics[names[key]]
        lines.append((title, _shown(found, f"{found['n_synthetic']:,} to {found['n_real']:,}")))
        if (null := found["null"]) is not None:
            made, real = _numbers_alike(found["same_n"]["value"], null["value"])
            n = f"{null['n_second']:,.0f} to {null['n_first']:,.0f}"
            lines.append((f"{title}: beside real to real", f"{made} beside {real} (n = {n})"))
    if "is" in names:
        cut = "" if settings["splits"] == 1 else f", {settings['splits']} splits"
        found = metrics[names["is"]]
        lines += [
            (f"IS (legacy) of the {kind} images{cut}", _shown(found[kind], f"{found[kind]['n']:,}"))
            for kind in ("real", "synthetic")
        ]
    for name, kind, found in _diversity(one):
        what = "MS-SSIM of pairs" if name.startswith("msssim") else "Near-duplicates among pairs"
        shown = _shown(found, f"{found['n_pairs']:,} pairs")
        lines.append((f"{what} of {kind} images, {name}", shown))
    return lines


def _diversity(one: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return (name, "synthetic" or "real", value with interval and pairs); none where no two images are of a class."""
    made = one.get("diversity") or {}
    parts = [made[key] for key in ("msssim", "near_duplicates") if key in made]
    return [(part["name"], kind, part[kind]) for part in parts for kind in ("synthetic", "real")]


def _shown(one: Mapping[str, Any], n: str) -> str:
    if one["low"] is None:
        return f"{_numbers_alike(one['value'])[0]} (n = {n})"
    value, low, high = _numbers_alike(one["value"], one["low"], one["high"])
    return f"{value} [{low}, {high}] (n = {n})"


def _numbers_alike(*values: float) -> list[str]:
    """Write numbers with as many decimals as the largest needs: FID goes into the hundreds, KID of pixels is tiny."""
    largest = max(abs(value) for value in values)
    decimals = 1 if largest >= 100 else 3 if largest >= 0.1 or largest == 0 else 4 if largest >= 0.005 else 6
    return [f"{value:.{decimals}f}" for value in values]


def _images(one: Mapping[str, Any]) -> str:
    return " + ".join(str(part["name"]) for part in one["sets"])


def _cautions(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return leaks and warnings with the scores that they are of."""
    found: dict[str, None] = {}
    for one in scores:
        for told in [*([f"leak: {one['leakage']}"] if one["leakage"] else []), *one["warnings"]]:
            found[f"{_images(one)}, {one['protocol']}: {told}"] = None
    return list(found)


def _to_csv(scores: Sequence[Mapping[str, Any]]) -> str:
    """One line per score and images; every number."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for one in scores:
        shared = {
            "sets": _images(one),
            "sets_sha256": " ".join(part["images_sha256"] for part in one["sets"]),
            "classes": " ".join(one["classes"]),
            "against": one["against"],
            "extractor": one["extractor"]["name"],
            "extractor_run": (one["extractor"]["run"] or {}).get("run"),
            "weights_sha256": one["extractor"]["protocol"]["weights_sha256"],
            "real_run": one["real"]["run"],
            "split_fingerprint": one["split_fingerprint"],
            "leakage": one["leakage"],
            "warnings": "; ".join(one["warnings"]),
        }
        for name, found in one["metrics"].items():
            alone = [(images, found[images]) for images in ("real", "synthetic") if images in found]  # IS
            for images, values in alone or [("synthetic to real", found)]:
                row = {**shared, "score": name, "images": images, **_numbers(images, values)}
                writer.writerow({key: row[key] for key in CSV_COLUMNS if key in row})
        for name, kind, found in _diversity(one):
            row = {**shared, **found, "score": name, "images": kind, f"n_{kind}": 2 * found["n_pairs"]}
            writer.writerow({key: row[key] for key in CSV_COLUMNS if key in row})
    return buffer.getvalue()


def _numbers(images: str, values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: values[key] for key in ("value", "low", "high", "interval", "n_patients")}
    if "n" in values:
        return {**kept, f"n_{images}": values["n"]}
    null, same_n = values["null"] or {}, values["same_n"] or {}
    halves = {"null": null.get("value"), "same_n": same_n.get("value"), "n_first_half": null.get("n_first")}
    return {**kept, **halves, "n_second_half": null.get("n_second"),
            **{key: values[key] for key in ("n_real", "n_synthetic")}}  # fmt: skip
