"""Let a classifier, or nearness to real images, choose among synthetic images; write the set that is left."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from cxr.data.synthetic import SyntheticSet, check_leak, load_synthetic, resized, set_folder, synthetic_labels
from cxr.errors import UserError
from cxr.evaluation.choose import Reference, agreeing, near
from cxr.evaluation.curate import Verdict, curate, done_before, planned
from cxr.evaluation.filter import Agreement, Realism
from cxr.extractor.base import Extractor, extract
from cxr.extractor.pixel import PixelExtractor
from cxr.extractor.run import RunExtractor
from cxr.files import file_sha256
from cxr.run import finished_run, read_config
from cxr.script.evaluate import find_runs
from cxr.script.predict import prepare_as_trained
from cxr.script.prepare import Prepared

__all__ = ["sift"]

Accelerator = Literal["auto", "cpu", "gpu"]
BATCH = 64


@dataclass(frozen=True)
class Judge:
    """A run whose images, and perhaps network, decide.

    Attributes:
        seen: content hashes of all real images that it learnt from, also by way of synthetic images.
        chosen: of those that chose among its epochs.
    """

    run_dir: Path
    prepared: Prepared
    seen: frozenset[str]
    chosen: frozenset[str]
    warnings: list[str]


def sift(
    source: SyntheticSet,
    path: Path,
    chosen: Agreement | Realism,
    *,
    leakage: Literal["refuse", "allow"],
    accelerator: Accelerator,
    data_root: Path | None,
    runs_dir: Path,
    synthetic_dir: Path,
) -> SyntheticSet:
    """Return the set `path`: the images of `source` that `chosen` keeps; made now, unless the same one is there.

    Raises:
        UserError: another set is there; a mistake in the filter or its run; a leak.
    """
    (run_dir, *others) = find_runs(runs_dir, [chosen.run], "filter.run")
    if others:
        raise UserError(
            f"filter.run: '{chosen.run}' means {1 + len(others)} runs, expected one; set filter.run={run_dir.name}"
        )
    config, checkpoint = finished_run(run_dir, chosen.checkpoint)
    plan = planned(source, chosen, asdict(chosen), {"checkpoint": file_sha256(checkpoint)})
    if (done := done_before(path, plan)) is not None:
        return done
    classifier = None
    if isinstance(chosen, Agreement) or chosen.features == "classifier":
        if not isinstance(config.get("classifier"), dict):
            raise UserError(f"filter.run: {run_dir.name} is no classifier, expected a run of task=classifier; set filter.run=… "
                            "to one, or filter=realism filter.features=pixels")  # fmt: skip
        classifier = RunExtractor(
            run=run_dir.name,
            runs_dir=str(runs_dir),
            checkpoint=chosen.checkpoint,
            features="logits" if isinstance(chosen, Agreement) else "penultimate",
        )
    judge = _judge(run_dir, source, data_root, synthetic_dir)
    seen = judge.seen if classifier else frozenset()
    device = torch.device(
        "cuda" if accelerator == "gpu" or (accelerator == "auto" and torch.cuda.is_available()) else "cpu"
    )
    if isinstance(chosen, Agreement):
        assert classifier is not None
        verdict = _by_agreement(source, judge, classifier, chosen, device)
    else:
        verdict, references = _by_realism(source, judge, classifier, chosen, device)
        seen |= references
    verdict = replace(verdict, trained_on=seen, chosen_on=judge.chosen if classifier else frozenset())
    leaked = _leaked(source, judge, verdict, leakage)
    facts = {
        **verdict.facts,
        "split_fingerprint": judge.prepared.split.fingerprint,
        "leaked": len(leaked),
        "warnings": judge.warnings,
    }
    return curate(source, path, plan, replace(verdict, facts=facts))


def _judge(run_dir: Path, source: SyntheticSet, data_root: Path | None, synthetic_dir: Path) -> Judge:
    """Return a run with its images and all that it has seen; what its own synthetic sets' GANs saw included."""
    config = read_config(run_dir)
    if data_root is not None:
        config["data"]["root"] = str(data_root)
    prepared, trained = prepare_as_trained(run_dir, config)
    seen, warnings = set(trained["trained_on"]), []
    for name in config["synthetic"]:
        one = load_synthetic(set_folder(synthetic_dir, name))
        if one.manifest["images_sha256"] != trained["inputs"][f"synthetic/{one.path.name}"]["hash"]:
            raise UserError(f"{run_dir}: was trained on another synthetic set {one.path.name} than is there now, and what its "
                            "GAN saw is not known; set filter.run=… to another classifier")  # fmt: skip
        seen |= {*one.manifest["trained_on"], *one.manifest.get("chosen_on", ())}
        own = source.manifest.get("generated", source.manifest)["images_sha256"]
        if own == one.manifest.get("generated", one.manifest)["images_sha256"]:
            warnings.append(
                f"{run_dir.name} was trained on images of this set: it is surer of them than of new ones"
            )
    if prepared.split.fingerprint != source.manifest["split_fingerprint"]:
        warnings.append(
            f"{run_dir.name} has another split than the GAN: images of either are barred from validation and test"
        )
    return Judge(run_dir, prepared, frozenset(seen), frozenset(prepared.hashes("val")), warnings)


def _by_agreement(
    source: SyntheticSet, judge: Judge, classifier: RunExtractor, chosen: Agreement, device: torch.device
) -> Verdict:
    own = synthetic_labels([source], judge.prepared.classes)  # refuses a class that it does not know
    logits = _features(classifier, source, judge, device)
    probabilities = classifier.task.probabilities(torch.from_numpy(logits)).numpy().astype(np.float64)
    probability = (probabilities * own).sum(axis=1)
    kept = agreeing(probability, source.index["class"].to_numpy(), at_least=chosen.at_least, keep=chosen.keep)
    facts = {
        "score": f"probability of the image's own class by {classifier.name}",
        "extractor": classifier.protocol,
    }
    return Verdict(kept, probability, facts, relax="lower filter.at_least")


def _by_realism(
    source: SyntheticSet, judge: Judge, classifier: RunExtractor | None, chosen: Realism, device: torch.device
) -> tuple[Verdict, frozenset[str]]:
    """Return the verdict and the content hashes of the real images that were compared with."""
    prepared, names = judge.prepared, sorted(set(source.index["class"]))
    synthetic_labels([source], prepared.classes)  # refuses a class that the run does not know
    images, index, rows = prepared.cached.images, prepared.cached.index, prepared.rows["train"]
    side = int(images.shape[1])
    # no finer than 32 px: no two radiographs agree in detail
    extractor: Extractor = classifier or PixelExtractor(size_px=max(d for d in range(1, 33) if side % d == 0))
    references: dict[str, Reference] = {}
    used: set[str] = set()
    for name in names:
        real = rows[prepared.labels[rows, prepared.classes.index(name)] == 1]
        if len(real) < 2:
            raise UserError(f"filter.run: {judge.run_dir.name} has {len(real)} training images of {name}, expected at least 2 "
                            "to compare with; set filter.run=… to another run")  # fmt: skip
        features = extract(extractor, np.asarray(images[real]), batch=BATCH, device=device).features
        patients = (
            index["patient_id"].astype(object).where(index["patient_id"].notna(), None).to_numpy()[real]
        )
        references[name] = Reference(features, patients.tolist())
        used |= set(index["content_hash"].to_numpy()[real].tolist())
    labels = source.index["class"].to_numpy()
    kept, distance, compared = near(
        _features(extractor, source, judge, device), labels, references, quantile=chosen.quantile
    )
    where = f"{extractor.name} {extractor.layer}".rstrip()
    facts = {
        "score": f"Euclidean distance to the nearest real training image of its class in {where}",
        "extractor": extractor.protocol,
        "references": compared,
    }
    limits = ", ".join(f"{name} {one['limit']:.3g}" for name, one in compared.items())
    relax = f"raise filter.quantile (the limits are {limits})"
    return Verdict(kept, distance, facts, relax=relax), frozenset(used)


def _features(
    extractor: Extractor, source: SyntheticSet, judge: Judge, device: torch.device
) -> npt.NDArray[np.float32]:
    images = resized(source, int(judge.prepared.cached.images.shape[1])).images
    return extract(extractor, images, batch=BATCH, device=device).features


def _leaked(
    source: SyntheticSet, judge: Judge, verdict: Verdict, leakage: Literal["refuse", "allow"]
) -> list[str]:
    """Return the held-out images of the judge's split that the new set would know of; refuse them by default."""
    manifest: dict[str, Any] = {
        **source.manifest,
        "trained_on": [*source.manifest["trained_on"], *verdict.trained_on],
        "chosen_on": [*source.manifest.get("chosen_on", ()), *verdict.chosen_on],
        "curated": [*source.manifest.get("curated", ()), {}],
    }
    hashes = judge.prepared.cached.index["content_hash"].to_numpy()
    parts = judge.prepared.split.parts
    test = hashes[parts["test"]]
    return check_leak(replace(source, manifest=manifest), [*hashes[parts["val"]], *test], leakage, test)
