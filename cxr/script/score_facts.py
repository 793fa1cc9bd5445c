"""What a score's record says of what was judged: the classifier, the sets, the counts, and what to beware of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cxr.data.synthetic import SyntheticSet
from cxr.evaluation.score import shares_warning
from cxr.extractor import Extractor
from cxr.extractor.run import RunExtractor
from cxr.files import file_sha256, read_json
from cxr.run import config_hash, identity, model_key

__all__ = ["class_counts", "run_facts", "set_facts", "warnings_of"]

AGAIN = "its answers on them are surer than on new ones"


def run_facts(by: Extractor) -> dict[str, Any] | None:
    """Return which of our runs the extractor is, None where it is none."""
    if not isinstance(by, RunExtractor):
        return None
    return {
        "run": by.run_dir.name,
        "model": model_key(by.config["classifier"]),
        "arm": by.config["arm"] or "real_only",
        "seed": by.config["seed"],
        "fold": by.config["split"].get("fold"),
        "config_hash": config_hash(identity(by.config)),
        "checkpoint": {"file": f"checkpoints/{by.checkpoint.name}", "sha256": by.sha256},
        "classes": by.task.classes,
    }


def set_facts(one: SyntheticSet) -> dict[str, Any]:
    return {
        "name": one.path.name,
        "images_sha256": one.manifest["images_sha256"],
        "manifest_sha256": file_sha256(one.path / "manifest.json"),
        "n": len(one.images),
        "size_px": one.manifest["size_px"],
        "classes": sorted(set(one.index["class"])),
        "checkpoints": sorted({str(c["sha256"]) for c in one.manifest["checkpoints"]}),
    }


def warnings_of(
    by: Extractor,
    sets: list[SyntheticSet],
    real: Mapping[str, Any],
    counts: dict[str, dict[str, int]],
    against: str,
) -> list[str]:
    """Return what a reader must know before believing the numbers."""
    found = []
    if isinstance(by, RunExtractor):
        trained = read_json(by.run_dir / "manifest.json")
        learnt = {str(v.get("hash")) for k, v in trained["inputs"].items() if k.startswith("synthetic/")}
        known = [one.path.name for one in sets if one.manifest["images_sha256"] in learnt]
        if known:
            found.append(f"the classifier was trained on {', '.join(known)}: {AGAIN}")
        if trained["split_fingerprint"] != real["split_fingerprint"]:
            found.append(
                f"the classifier's split is another: it may have been trained on these real images, and {AGAIN}"
            )
        elif against == "train":
            found.append(f"the classifier was trained on these real images: {AGAIN}")
        elif against == "val" and by.checkpoint.stem == "best":
            found.append("the classifier's checkpoint was chosen on these real images")
    if "random" in str(by.protocol.get("weights", "")):
        found.append("the extractor's weights are random: scores by it say little")
    shares = shares_warning(counts["real"], counts["synthetic"])
    return found + ([shares] if shares else [])


def class_counts(values: Any, classes: list[str]) -> dict[str, int]:
    """Return images per class, of classes that have any."""
    totals = {name: int(n) for name, n in zip(classes, (values == 1).sum(axis=0), strict=True)}
    return {name: n for name, n in totals.items() if n}
