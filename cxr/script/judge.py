"""Score synthetic sets by the answers of a trained classifier, and leave the record beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cxr.config import build
from cxr.data.index import labels
from cxr.data.module import CXRDataModule
from cxr.data.synthetic import SyntheticSet, check_leak, load_synthetic, resized, set_folder, synthetic_labels
from cxr.errors import UserError
from cxr.evaluation.score import Answers, frechet_record, inception_records, shares_warning
from cxr.files import file_sha256, read_json, write_json
from cxr.metric.score_record import FOLDER, SCHEMA, check_score, extractor_name, file_name, score_names
from cxr.run import config_hash, identity, manifest
from cxr.script.predict import Rows, answers, finished_classifier, model_key, prepare_as_trained
from cxr.script.prepare import Prepared

__all__ = ["judge"]

Accelerator = Literal["auto", "cpu", "gpu"]
AGAIN = "its answers on them are surer than on new ones"


def judge(
    run_dir: Path,
    names: list[str],
    *,
    synthetic_dir: Path,
    name: str | None,
    checkpoint: Literal["last", "best"],
    against: Literal["test", "val", "train"],
    real_classes: Literal["same", "all"],
    splits: int,
    n_resamples: int,
    n_halves: int,
    seed: int,
    accelerator: Accelerator,
    data_root: Path | None,
) -> tuple[Path, dict[str, Any]]:
    """Return the path and the content of the score of synthetic sets, computing it unless the same is there.

    Raises:
        UserError: a set or a run that is not there, a GAN's or a multi-label run, other classes, no real images.
    """
    if not names or len(set(names)) < len(names):
        raise UserError(f"synthetic: got {names}, expected one or more sets, each once; set synthetic=[NAME]")
    config, file = finished_classifier(run_dir, checkpoint, data_root)
    if config["data"].get("multi_label"):
        raise UserError(f"{run_dir}: its labels are independent, expected one class per image, whose probabilities "
                        "sum to 1; set run=… to such a classifier")  # fmt: skip
    sets = [load_synthetic(set_folder(synthetic_dir, one)) for one in names]
    sha256 = file_sha256(file)
    protocol = extractor_name(model_key(config["classifier"]), sha256, against, real_classes)
    folder = synthetic_dir / name if name is not None else sets[0].path
    target = folder / FOLDER / file_name(protocol, splits, names)
    settings = {"splits": splits, "n_resamples": n_resamples, "n_halves": n_halves, "seed": seed,
                "real_classes": real_classes}  # fmt: skip
    if target.is_file():
        done = check_score(read_json(target), target)
        hashes = [one["images_sha256"] for one in done["sets"]]
        same = hashes == [one.manifest["images_sha256"] for one in sets]
        if same and done["settings"] == settings and done["extractor"]["checkpoint"]["sha256"] == sha256:
            return target, done
    prepared, trained = prepare_as_trained(run_dir, config)
    made_labels = synthetic_labels(sets, prepared.classes)  # refuses unknown classes
    shown = [name for name, one in zip(prepared.classes, made_labels.T, strict=True) if one.any()]
    classes = shown if real_classes == "same" else prepared.classes
    rows = _real_rows(prepared, against, classes)
    index = prepared.cached.index.iloc[rows]
    real = _answers_on_real(config, prepared, rows, file, accelerator)
    made = _answers_on_synthetic(config, sets, prepared, file, accelerator)
    counts = {
        "real": _counts(labels(index), prepared.classes),
        "synthetic": _counts(made_labels, prepared.classes),
    }
    leaked = set(check_leak(sets, index["content_hash"].tolist(), "allow"))
    n_leaked = int(index["content_hash"].isin(leaked).sum())
    key = score_names(protocol, splits)
    options: dict[str, Any] = {"n_resamples": n_resamples, "n_halves": n_halves, "seed": seed}
    record = {
        "schema": SCHEMA,
        "kind": "score",
        "protocol": protocol,
        "paper": config["paper"],
        "extractor": {
            "run": run_dir.name,
            "model": model_key(config["classifier"]),
            "arm": config["arm"] or "real_only",
            "seed": config["seed"],
            "fold": config["split"].get("fold"),
            "config_hash": config_hash(identity(config)),
            "checkpoint": {"file": f"checkpoints/{file.name}", "sha256": sha256},
            "classes": prepared.classes,
            "mode": "eval",  # the acrnet authors' scripts leave theirs in training mode
        },
        "against": against,
        "split_fingerprint": prepared.split.fingerprint,
        "split_name": prepared.split.name,
        "classes": classes,
        "sets": [_facts(one) for one in sets],
        "images": {
            "size_px": config["cache"]["size_px"],
            "fit": config["cache"]["fit"],
            "resize": "synthetic images: cubic when they grow, by area when they shrink",
            "values": "uint8, one channel; as the classifier's own training and test images from there on",
        },
        "counts": counts,
        "settings": settings,
        "metrics": {
            key["is"]: inception_records(real, made, splits=splits, n_resamples=n_resamples, seed=seed),
            key["fid"]: frechet_record(real.probabilities, made.probabilities, real.patients, **options),
            key["fid_logits"]: frechet_record(real.logits, made.logits, real.patients, **options),
        },
        "leakage": f"the GAN saw {n_leaked} of the {len(rows)} real images" if leaked else None,
        "warnings": _warnings(sets, trained, counts, against, checkpoint),
        "provenance": manifest(
            inputs={
                "checkpoint": file,
                **{f"synthetic/{one.path.name}": one.manifest["images_sha256"] for one in sets},
            },
            split_fingerprint=prepared.split.fingerprint,
            seed=seed,
            device=accelerator,
            wall_s=None,
        ),
    }
    write_json(target, check_score(record, target))
    return target, record


def _real_rows(prepared: Prepared, against: str, classes: list[str]) -> Rows:
    """Return the rows of the real images of `classes` in a part."""
    rows: Rows = prepared.rows[against]
    columns = [prepared.classes.index(name) for name in classes]
    rows = rows[np.flatnonzero((prepared.labels[rows][:, columns] == 1).any(axis=1))]
    if len(rows) < 2:
        raise UserError(f"against={against}: {len(rows)} real images of {', '.join(classes)} there, expected at least 2; "
                        "set against=test, val or train, or real_classes=all")  # fmt: skip
    return rows


def _answers_on_real(
    config: dict[str, Any], prepared: Prepared, rows: Rows, file: Path, accelerator: Accelerator
) -> Answers:
    chosen = replace(prepared, rows={**prepared.rows, "test": rows})  # prediction is of the test part
    found, logits, probabilities = answers(config, chosen.module(config), file, accelerator)
    patients = prepared.cached.index["patient_id"].to_numpy()[found].tolist()
    return Answers(probabilities.astype(np.float64), logits.astype(np.float64), patients)


def _answers_on_synthetic(
    config: dict[str, Any], sets: list[SyntheticSet], prepared: Prepared, file: Path, accelerator: Accelerator
) -> Answers:
    size_px = int(prepared.cached.images.shape[1])
    parts = []
    for one in sets:
        n = len(one.images)
        module: CXRDataModule = build(config["loader"])(
            images=resized(one, size_px).images,
            labels=np.zeros((n, len(prepared.classes)), np.float32),
            parts={"test": np.arange(n)},
            seed=config["seed"],
        )
        parts.append(answers(config, module, file, accelerator))
    logits, probabilities = (np.concatenate([p[i] for p in parts]).astype(np.float64) for i in (1, 2))
    return Answers(probabilities, logits, [None] * len(logits))


def _facts(one: SyntheticSet) -> dict[str, Any]:
    return {
        "name": one.path.name,
        "images_sha256": one.manifest["images_sha256"],
        "manifest_sha256": file_sha256(one.path / "manifest.json"),
        "n": len(one.images),
        "size_px": one.manifest["size_px"],
        "classes": sorted(set(one.index["class"])),
        "checkpoints": sorted({str(c["sha256"]) for c in one.manifest["checkpoints"]}),
    }


def _warnings(
    sets: list[SyntheticSet],
    trained: dict[str, Any],
    counts: dict[str, dict[str, int]],
    against: str,
    checkpoint: str,
) -> list[str]:
    """Return what a reader must know before believing the numbers."""
    learnt = {str(v.get("hash")) for k, v in trained["inputs"].items() if k.startswith("synthetic/")}
    known = [one.path.name for one in sets if one.manifest["images_sha256"] in learnt]
    found = [f"the classifier was trained on {', '.join(known)}: {AGAIN}"] if known else []
    if against == "train":
        found.append(f"the classifier was trained on these real images: {AGAIN}")
    if against == "val" and checkpoint == "best":
        found.append("the classifier's checkpoint was chosen on these real images")
    shares = shares_warning(counts["real"], counts["synthetic"])
    return found + ([shares] if shares else [])


def _counts(values: Any, classes: list[str]) -> dict[str, int]:
    """Return images per class, of classes that have any."""
    totals = {name: int(n) for name, n in zip(classes, (values == 1).sum(axis=0), strict=True)}
    return {name: n for name, n in totals.items() if n}
