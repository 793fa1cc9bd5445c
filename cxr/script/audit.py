"""Audit a run: read its images, split, sets and records again, look for leaks, leave audit.json in its folder."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.data.near import MIN_PX, Fingerprints, fingerprints
from cxr.data.synthetic import SyntheticSet
from cxr.errors import UserError
from cxr.evaluation import audit, audit_model
from cxr.files import read_json
from cxr.metric.audit_record import Verdict, tally, write_audit
from cxr.metric.result import PROB, RESULT, VALIDATION, check_predictions, read_predictions, read_result
from cxr.run import finished_run, library_versions
from cxr.script.audit_makers import Maker, as_audited, makers_of, starting_weights
from cxr.script.predict import answers
from cxr.script.prepare import Prepared, prepare
from cxr.share import Ids, ShareIds

__all__ = ["audit_run", "describe"]

Rows = npt.NDArray[np.int64]
SAMPLE = 32  # images of each part that the network answers again, alone and together
OTHER = "use the split of what made them (split.seed, split.fold), or make them again; then train again"


def audit_run(
    run_dir: Path, *, data_root: Path | None, share_ids: ShareIds
) -> tuple[Path, tuple[Verdict, ...]]:
    """Return where the verdicts on a finished run (a classifier's or a GAN's) were written, and the verdicts.

    data_root: where its images lie now, if they have moved.

    Raises:
        UserError: the run is not finished; its images, or those of its sets, are not those it was trained with.
    """
    start = time.perf_counter()
    written, _ = finished_run(run_dir, "last")
    own_root = written["data"].get("root")
    if data_root is not None:
        written["data"]["root"] = str(data_root)
    config = as_audited(written)
    manifest: dict[str, Any] = read_json(run_dir / "manifest.json")
    prepared = prepare(config)
    _same_images(run_dir, prepared, manifest)
    name = Ids(run_dir.parent, share_ids)
    result = read_result(run_dir) if (run_dir / RESULT).is_file() else None
    images = prepared.cached.images
    prints = (
        None if images.shape[1] < MIN_PX else fingerprints(images)
    )  # made anew, not as the cache keeps them
    found = _of_images(prepared, manifest, result, prints, name)
    is_classifier = isinstance(config.get("classifier"), dict)
    makers = [m for one in prepared.synthetic for m in makers_of(one, run_dir.parent, data_root, own_root)]
    if is_classifier and (first := starting_weights(config, run_dir.parent, data_root, own_root)) is not None:
        makers.append(first)
    for maker in makers:
        found += _of_maker(maker, prepared, prints, name)
    found += [_copies(one, prepared, prints, name) for one in prepared.synthetic]
    found += _of_model(run_dir, config, prepared, result, is_classifier, name)
    facts = {
        "split_fingerprint": prepared.split.fingerprint,
        "n_images": len(prepared.cached.index),
        "versions": library_versions(),
        "wall_s": round(time.perf_counter() - start, 2),
    }
    return write_audit(run_dir, found, facts), tuple(found)


def describe(path: Path, verdicts: tuple[Verdict, ...]) -> list[str]:
    """Return what to print: a line for each verdict, then where they lie."""
    return [*(one.line for one in verdicts), f"{path}: {tally(verdicts)}"]


def _same_images(run_dir: Path, prepared: Prepared, manifest: Mapping[str, Any]) -> None:
    trained = manifest["inputs"]["cache"]["hash"]
    if prepared.cached.key != trained:
        raise UserError(
            f"{run_dir}: its images are not those of training (cache {prepared.cached.key}, then {trained}); expected the "
            "same files; set data_root=… to them"
        )
    for one in prepared.synthetic:
        hashed = manifest["inputs"].get(f"synthetic/{one.path.name}", {}).get("hash")
        if one.manifest["images_sha256"] != hashed:
            raise UserError(
                f"{run_dir}: was trained on another synthetic set {one.path.name} than is there now; set synthetic_dir=… "
                "to where that lies, or train again under a new name"
            )


def _held_out(prepared: Prepared) -> Rows:
    return np.concatenate([prepared.split.parts["val"], prepared.split.parts["test"]])


def _of_images(
    prepared: Prepared,
    manifest: Mapping[str, Any],
    result: Mapping[str, Any] | None,
    prints: Fingerprints | None,
    name: Ids,
) -> list[Verdict]:
    """Ask what only images, parts and the training's record can answer."""
    index, parts = prepared.cached.index, prepared.split.parts
    records = {"manifest.json": manifest["split_fingerprint"]}
    if result is not None:
        records[RESULT] = result["split_fingerprint"]
    trained = (
        prepared.rows["train"] if prepared.mixture is None else prepared.rows["train"][prepared.mixture.real]
    )
    learnt = {*manifest["trained_on"], *index["content_hash"].to_numpy()[trained]}
    who = f"trained it ({len(trained):,} drawn, {len(trained) - len(np.unique(trained)):,} of them repeats by the mix)"
    return [
        audit.recorded_split(prepared.split.fingerprint, records, len(index)),
        audit.patients(index, parts, name),
        audit.files(index, parts, name),
        audit.near(index, prints, parts, name),
        audit.held_out_learnt("held-out images in training", index, _held_out(prepared), learnt, name, who=who,
                              mend="train again under a new name, then evaluate"),
    ]  # fmt: skip


def _of_maker(maker: Maker, prepared: Prepared, prints: Fingerprints | None, name: Ids) -> list[Verdict]:
    """Ask what a GAN, a judge or first weights learnt from."""
    index, held_out = prepared.cached.index, _held_out(prepared)
    behind = f"{maker.role} {maker.name}" + (f" of {maker.of}" if maker.role != "first weights" else "")
    question = f"held-out images behind {behind}"
    exact = audit.held_out_learnt(question, index, held_out, maker.learnt, name, who="trained it", mend=OTHER)
    test = audit.held_out_learnt(question, index, prepared.split.parts["test"], maker.chose, name,
                                 who="chose among its epochs", mend=OTHER)  # fmt: skip
    exact = test if exact.answer == "clean" and test.answer == "LEAK" else exact
    if exact.answer == "LEAK" and maker.forgotten:
        told = f"{exact.told}; the record that came with it leaves out {maker.forgotten:,} that its own run trains on"
        exact = Verdict(question, "LEAK", told, exact.n, exact.first, exact.mend)
    if maker.unknown is not None and exact.answer == "clean":
        told = (
            f"none by its record of {len(maker.learnt):,}, but {maker.unknown}"
            if maker.learnt
            else maker.unknown
        )
        exact = Verdict(
            question, "not known", told, exact.n, mend="bring its run and data here, then audit again"
        )
    if maker.prints is None:
        return [exact]
    alike = audit.near_learnt(f"near-duplicates behind {behind}", index, held_out, prints, maker.prints, maker.learnt, name,
                              who="trained it", mend=OTHER)  # fmt: skip
    return [exact, alike]


def _copies(one: SyntheticSet, prepared: Prepared, prints: Fingerprints | None, name: Ids) -> Verdict:
    """Ask whether a synthetic set holds copies of held-out images, whoever made it."""
    made = Fingerprints(np.empty((0, 0, 0), np.uint8)) if prints is None else fingerprints(one.images)
    return audit.near_learnt(f"copies of held-out images in {one.path.name}", prepared.cached.index, _held_out(prepared),
                             prints, made, (), name, who="are synthetic",
                             mend="leave the set out, or make another; score.py memorisation=true shows the pairs")  # fmt: skip


def _of_model(
    run_dir: Path,
    config: Mapping[str, Any],
    prepared: Prepared,
    result: Mapping[str, Any] | None,
    is_classifier: bool,
    name: Ids,
) -> list[Verdict]:
    """Ask how images reach the network, how it answers and what was chosen by what."""
    found = [_drawn(config, prepared, name), audit_model.normalisation(config["cache"])]
    checkpoint = None
    if is_classifier and result is None:
        told, mend = (
            "the run was not evaluated",
            f"python evaluate.py 'runs=[{run_dir.name}]', then audit again",
        )
        found.append(Verdict("thresholds chosen on test images", "not known", told, mend=mend))
    elif result is not None:
        checkpoint = str(result["checkpoint"]["file"])
        test = read_predictions(run_dir, result["classes"])
        validation = None
        if (run_dir / VALIDATION).is_file():
            frame = pd.read_parquet(run_dir / VALIDATION)
            validation = check_predictions(frame, result["classes"], str(run_dir / VALIDATION))
        scored = {"test": test} | ({} if validation is None else {"val": validation})
        ids = prepared.cached.index["image_id"].to_numpy()
        wanted = {part: ids[prepared.split.parts[part]].tolist() for part in scored}
        found.append(audit_model.scored_images(scored, wanted, name))
        found.append(_answers(run_dir / checkpoint, config, prepared, pd.concat(scored.values()), name))
        found.append(audit_model.thresholds(result, test, validation))
    log = run_dir / "metrics.csv"
    columns: list[str] = []
    if log.is_file():
        with log.open(newline="") as file:
            columns = next(csv.reader(file), [])
    found.append(audit_model.selection(config, columns, checkpoint))
    return found


def _drawn(config: Mapping[str, Any], prepared: Prepared, name: Ids) -> Verdict:
    """Draw validation and test images twice through the run's own loader; compare them with the cache's bytes."""
    module = prepared.module(config)
    module.num_workers = 0
    ids = prepared.cached.index["image_id"].to_numpy()
    changed: dict[str, set[str]] = {}
    n = 0
    for part in ("val", "test"):
        if not len(module.parts.get(part, ())):
            continue
        n += len(module.parts[part])
        loader: Any = module.val_dataloader() if part == "val" else module.test_dataloader()
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            for batch in loader:
                rows = batch["row"].numpy()
                same = (batch["image"][:, 0].numpy() == prepared.cached.images[rows]).all(axis=(1, 2))
                changed.setdefault(part, set()).update(str(one) for one in ids[rows[~same]])
    return audit.drawn_alike({part: sorted(found) for part, found in changed.items()}, n, name)


def _answers(
    checkpoint: Path, config: Mapping[str, Any], prepared: Prepared, scored: pd.DataFrame, name: Ids
) -> Verdict:
    """Let the checkpoint answer some of the scored images again: in one batch, one by one; compare with the record."""
    frame = scored.drop_duplicates("image_id").reset_index(drop=True)
    rows_of = {one: row for row, one in enumerate(prepared.cached.index["image_id"])}
    frame = frame[frame["image_id"].isin(rows_of)]
    frame = frame.iloc[
        np.unique(np.linspace(0, len(frame) - 1, min(len(frame), 2 * SAMPLE)).astype(np.int64))
    ]
    module = prepared.module(config)
    module.num_workers = 0
    module.parts["test"] = np.array([rows_of[one] for one in frame["image_id"]], np.int64)
    module.eval_batch_size = len(frame)
    _, _, together = answers(dict(config), module, checkpoint, "auto")
    module.eval_batch_size = 1
    _, _, alone = answers(dict(config), module, checkpoint, "auto")
    recorded = frame[[PROB + one for one in prepared.classes]].to_numpy(np.float64)
    return audit_model.answers_alone(
        frame["image_id"].tolist(), together, alone, recorded, f"checkpoints/{checkpoint.name}", name
    )
