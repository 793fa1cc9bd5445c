"""Score synthetic sets against real images by the features of an extractor, and leave the record beside them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from cxr.config import build
from cxr.data.index import labels
from cxr.data.picked import Picked
from cxr.data.synthetic import SyntheticSet, check_leak, load_synthetic, resized, set_folder, synthetic_labels
from cxr.errors import UserError
from cxr.evaluation.diversity import diversity_record
from cxr.evaluation.scores import score_records
from cxr.extractor import Answer, Extractor, cached_answer, extract
from cxr.extractor.run import RunExtractor
from cxr.files import below, read_json, write_json
from cxr.metric.score_record import FOLDER, SCHEMA, check_score, file_name, protocol_name, score_names
from cxr.run import finished_run, manifest
from cxr.script.memorise import memorise, record_file
from cxr.script.predict import Rows, prepare_as_trained
from cxr.script.prepare import Prepared
from cxr.script.score_facts import class_counts, run_facts, set_facts, warnings_of
from cxr.share import Ids, ShareIds

__all__ = ["judge"]

DIVERSITY_PAIRS = 100  # as Odena et al. 2017; of images of one class


def judge(
    run_dir: Path,
    names: list[str],
    extractor: Mapping[str, Any],
    *,
    synthetic_dir: Path,
    name: str | None,
    checkpoint: Literal["last", "best"],
    against: Literal["test", "val", "train"],
    real_classes: Literal["same", "all"],
    settings: Mapping[str, Any],
    batch_size: int,
    accelerator: Literal["auto", "cpu", "gpu"],
    data_root: Path | None,
    memorisation: bool,
    share_ids: ShareIds,
) -> tuple[Path, dict[str, Any]]:
    """Return the path and the content of the score of synthetic sets, computing it unless the same is there.

    Args:
        run_dir: a finished run, whose images and split are the real ones.
        extractor: a node of conf/extractor.
        settings: splits, n_resamples, n_halves, seed, n_subsets, k_precision, k_density.
        memorisation: also look for copies of training images, see `cxr.script.memorise`.
        share_ids: how these are named.

    Raises:
        UserError: a set or a run that is not there, an extractor without weights, other classes, no real images.
    """
    if not names or len(set(names)) < len(names):
        raise UserError(f"synthetic: got {names}, expected one or more sets, each once; set synthetic=[NAME]")
    device = _device(accelerator)
    config, _ = finished_run(run_dir, checkpoint)
    if data_root is not None:
        config["data"]["root"] = str(data_root)
    by: Extractor = build(extractor)
    sets = [load_synthetic(set_folder(synthetic_dir, one)) for one in names]
    trained: dict[str, Any] = read_json(run_dir / "manifest.json")
    real = {
        "split_fingerprint": trained["split_fingerprint"],
        **{k: config["cache"][k] for k in ("size_px", "fit")},
    }
    own = isinstance(by, RunExtractor) and by.run_dir.resolve() == run_dir.resolve()
    protocol = protocol_name(by.name, against, real_classes, None if own else real)
    folder = below(synthetic_dir, name, "name") if name is not None else sets[0].path
    target = folder / FOLDER / file_name(protocol, by.layer, settings, names)
    asked = {**settings, "real_classes": real_classes, "memorisation": memorisation, "share_ids": share_ids}
    done = _done(target, sets, asked, by)
    if done is not None and (not memorisation or record_file(target).is_file()):
        return target, done
    prepared, _ = prepare_as_trained(run_dir, config)
    made_labels = synthetic_labels(sets, prepared.classes)  # refuses unknown classes
    shown = [name for name, one in zip(prepared.classes, made_labels.T, strict=True) if one.any()]
    classes = shown if real_classes == "same" else prepared.classes
    rows = _real_rows(prepared, against, classes)
    index = prepared.cached.index.iloc[rows]
    features = Path(config["cache"]["dir"]) / "features"
    answers = _answers(by, prepared, rows, sets, features, batch_size, device)
    found, warnings = score_records(*answers, index["patient_id"].tolist(), by.layer, settings)
    counts = {
        "real": class_counts(labels(index), prepared.classes),
        "synthetic": class_counts(made_labels, prepared.classes),
    }
    diversity = diversity_record(
        (Picked([prepared.cached.images], rows), np.nan_to_num(labels(index)).argmax(axis=1)),
        (_at_size(sets, prepared), made_labels.argmax(axis=1)),
        n_pairs=DIVERSITY_PAIRS, seed=settings["seed"],
    )  # fmt: skip
    if diversity is not None and diversity["collapsed"]:
        warnings = [*warnings, f"the GAN has collapsed: {diversity['collapsed']}"]
    leaked = set(check_leak(sets, index["content_hash"].tolist(), "allow"))
    n_leaked = int(index["content_hash"].isin(leaked).sum())
    key = {what: one for what, one in score_names(protocol, by.layer, settings).items() if what in found}
    record = {
        "schema": SCHEMA,
        "kind": "score",
        "protocol": protocol,
        "names": key,
        "paper": config["paper"],
        "extractor": {"name": by.name, "layer": by.layer, "protocol": by.protocol, "run": run_facts(by)},
        "real": {"run": run_dir.name, **real, "split_name": prepared.split.name},
        "against": against,
        "split_fingerprint": prepared.split.fingerprint,
        "classes": classes,
        "sets": [set_facts(one) for one in sets],
        "images": {
            "resize": "real images as the run's cache holds them; synthetic ones to their size, cubic when they grow, by "
            "area when they shrink; then the extractor's own",
            "values": "uint8, one channel; generated ones clamped, rounded, cast",
        },
        "counts": counts,
        "settings": asked,
        "metrics": {key[what]: {"score": what, **one} for what, one in found.items()},
        "diversity": diversity,
        "leakage": f"the GAN saw {n_leaked} of the {len(rows)} real images" if leaked else None,
        "warnings": [*warnings_of(by, sets, real, counts, against), *warnings],
        "provenance": manifest(
            inputs={
                "extractor": str(by.protocol["weights_sha256"] or by.name),
                **{f"synthetic/{one.path.name}": one.manifest["images_sha256"] for one in sets},
            },
            split_fingerprint=prepared.split.fingerprint,
            seed=settings["seed"],
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            wall_s=None,
        ),
    }  # fmt: skip
    if memorisation:
        yardstick = np.flatnonzero(np.isin(rows, _real_rows(prepared, against, shown)))
        facts = (
            "protocol",
            "paper",
            "extractor",
            "real",
            "against",
            "split_fingerprint",
            "sets",
            "provenance",
        )
        record["memorisation"] = memorise(
            by,
            prepared,
            rows[yardstick],
            sets,
            (_at_size(sets, prepared), answers[1]),
            Answer(answers[0].features[yardstick], None),
            {key: record[key] for key in facts},
            record_file(target),
            cache=features,
            batch=batch_size,
            device=device,
            n_resamples=settings["n_resamples"],
            seed=settings["seed"],
            ids=Ids(run_dir.parent, share_ids),
        )
    write_json(target, check_score(record, target))
    return target, record


def _done(
    target: Path, sets: list[SyntheticSet], asked: dict[str, Any], by: Extractor
) -> dict[str, Any] | None:
    """Return the record that is there if it is of the same images, settings and extractor."""
    record = read_json(target) if target.is_file() else None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:  # an old one is made again
        return None
    done = check_score(record, target)
    same = [one["images_sha256"] for one in done["sets"]] == [one.manifest["images_sha256"] for one in sets]
    same = same and (done["settings"], done["extractor"]["name"]) == (asked, by.name)
    return done if same and done["extractor"]["protocol"] == by.protocol else None


def _device(accelerator: Literal["auto", "cpu", "gpu"]) -> torch.device:
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("accelerator: no GPU that torch can use is here; set accelerator=cpu")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def _real_rows(prepared: Prepared, against: str, classes: list[str]) -> Rows:
    """Return the rows of the real images of `classes` in a part."""
    rows: Rows = prepared.rows[against]
    columns = [prepared.classes.index(name) for name in classes]
    rows = rows[np.flatnonzero((prepared.labels[rows][:, columns] == 1).any(axis=1))]
    if len(rows) < 2:
        raise UserError(f"against={against}: {len(rows)} real images of {', '.join(classes)} there, expected at least 2; "
                        "set against=test, val or train, or real_classes=all")  # fmt: skip
    return rows


def _answers(
    by: Extractor,
    prepared: Prepared,
    rows: Rows,
    sets: list[SyntheticSet],
    cache: Path,
    batch: int,
    device: torch.device,
) -> tuple[Answer, Answer]:
    """Return what the extractor says of the real images (kept in `cache`) and of the synthetic ones."""
    images = Picked([prepared.cached.images], rows)
    made = _at_size(sets, prepared)
    with _progress(len(rows) + len(made)) as advance:
        real = cached_answer(by, images, folder=cache, batch=batch, device=device, advance=advance)
        return real, extract(by, made, batch=batch, device=device, advance=advance)


def _at_size(sets: list[SyntheticSet], prepared: Prepared) -> Picked:
    """Return the images of the sets, one after the other, at the size of the real ones."""
    size_px = int(prepared.cached.images.shape[1])
    return Picked([resized(one, size_px).images for one in sets])


@contextmanager
def _progress(n: int) -> Iterator[Callable[[int], object]]:
    """Yield what to call with the number of images done; shown in a terminal only."""
    from rich.progress import Progress

    with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task("features", total=n)
        yield lambda done: progress.advance(task, done)
