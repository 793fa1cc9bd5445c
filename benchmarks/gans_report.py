"""The tables and pictures of docs/results/gans.md, from what `benchmarks.gans` has left in its work folder.

    python -m benchmarks.gans_report work=FOLDER

Features are a CNN's (`domain`: the real-only run of seed 0, on 1,171 test images) and those of an Inception with random
weights (drawn by `inception_weights`, on INCEPTION_N images of each kind, as a pass takes long). Classes are mixed as in
the test images. Everything it computes is kept in FOLDER/report.json, and the page's parts between its marks are replaced.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from benchmarks.gans import (
    LOW,
    METHODS,
    N_MADE,
    N_TRAIN,
    SEEDS,
    made_by,
)
from cxr.data.picture import tile, write_png
from cxr.data.synthetic import load_synthetic
from cxr.evaluation.collection import first_of_each
from cxr.evaluation.memorisation import NEIGHBOURS
from cxr.evaluation.score import kid_record, neighbour_records
from cxr.extractor import Extractor, extract
from cxr.extractor.inception import InceptionExtractor
from cxr.extractor.run import RunExtractor
from cxr.files import read_json, write_text
from cxr.metric.augment_leak import augment_leaks
from cxr.metric.bootstrap import Estimate, draw_patients, estimate, paired_difference
from cxr.metric.memorisation import copies, median_ratio
from cxr.metric.neighbours import feature_neighbours, relative_distance
from cxr.metric.result import read_predictions, tables
from cxr.run import finished_run
from cxr.script.predict import prepare_as_trained

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "gans.md"
PICTURES = ROOT / "docs" / "results" / "gans"
INCEPTION_N = 250
NAMES = {
    "talukdar": "Talukdar's DCGANs",
    "covidgan": "CovidGAN",
    "strong": "strong",
    "diffusion": "diffusion",
}
CLASSES = list(N_TRAIN)
CONTROLS = ("real_only", "duplicate_real")
ARMS = (
    ("real_only", "real only", "#333333"),
    ("duplicate_real", "real images repeated", "#888888"),
    ("synthetic", "real + strong's", "#c1440e"),
)
SETTINGS: dict[str, Any] = {"n_resamples": 500, "n_halves": 10, "seed": 0}

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


def inception_weights(file: Path) -> Path:
    """Write a state dict of torch-fidelity's Inception with random weights of seed 0, variance kept; return its path."""
    if file.is_file():
        return file
    from unittest.mock import patch

    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    class Unloaded(theirs.FeatureExtractorInceptionV3):  # type: ignore[misc]  # torch-fidelity is untyped
        def load_state_dict(self, *_: object, **__: object) -> None:
            """Its constructor insists on weights."""

    with (
        torch.random.fork_rng(devices=[]),
        patch.object(theirs, "load_state_dict_from_url", lambda *_, **__: {}),
    ):
        torch.manual_seed(0)
        network = Unloaded("inception-v3-compat", ["2048"])
        for layer in network.modules():
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
                torch.nn.init.kaiming_normal_(layer.weight)
    torch.save(network.state_dict(), file)
    return file


class Real:
    """The real images of the study: test and training images, with what the scores want to know of them."""

    def __init__(self, work: Path) -> None:
        config, _ = finished_run(work / "runs" / "cnn-real_only-0", "last")
        prepared, _ = prepare_as_trained(work / "runs" / "cnn-real_only-0", config)
        index, labels = prepared.cached.index, prepared.labels
        self.test, self.train = prepared.rows["test"], prepared.rows["train"]
        self.images = prepared.cached.images
        patients = index["patient_id"].tolist()
        self.patients = [patients[i] for i in self.test]
        self.labels = labels.argmax(axis=1)
        self.share = float((self.labels[self.test] == CLASSES.index("PNEUMONIA")).mean())
        hashes = index["content_hash"].tolist()
        self.distinct = self.train[first_of_each([hashes[i] for i in self.train])]
        first = pd.Series(self.patients).drop_duplicates().index.to_numpy()
        self.one_each = np.asarray(first)  # of the test images, one of each patient

    def of(self, rows: npt.NDArray[np.int64]) -> Pixels:
        """Return images (n, S, S)."""
        return np.asarray(self.images[np.sort(rows)])


def made(work: Path, method: str, seed: int, n: int, share: float) -> Pixels:
    """Return n images of a method, the classes mixed as in the test images, the first of each."""
    wanted = {"PNEUMONIA": round(share * n), "NORMAL": n - round(share * n)}
    parts: dict[str, Pixels] = {}
    for name in made_by(method, seed):
        one = load_synthetic(work / "synthetic" / name)
        for label, count in wanted.items():
            rows = np.flatnonzero((one.index["class"] == label).to_numpy())[:count]
            if len(rows):
                parts[label] = np.asarray(one.images[rows])
    return np.concatenate([parts[label] for label in CLASSES])


def gan_scores(work: Path) -> dict[str, Any]:
    """Return the scores of every method and seed, and of real images against real ones."""
    real = Real(work)
    domain = RunExtractor(
        run="cnn-real_only-0", runs_dir=str(work / "runs"), checkpoint="last", features="penultimate"
    )
    inception = InceptionExtractor(weights_path=str(inception_weights(work / "inception.pth")))

    def features(by: Extractor, images: Pixels) -> npt.NDArray[np.float32]:
        return extract(by, images, batch=50, device="cpu").features

    test, train = real.of(real.test), real.of(real.distinct)
    of_test, of_train = features(domain, test), features(domain, train)
    some = np.sort(np.random.default_rng(0).choice(len(test), INCEPTION_N, replace=False))
    of_some = features(inception, test[some])
    own = [real.patients[i] for i in some]
    pixels = [images.reshape(len(images), -1).astype(np.float32) for images in (train, test[real.one_each])]
    null = {
        "domain": feature_neighbours(of_test[real.one_each], of_train, 1).nearest,
        "pixel": feature_neighbours(pixels[1], pixels[0], 1).nearest,
    }
    found: dict[str, Any] = {
        "share_pneumonia": real.share,
        "domain": domain.name,
        "inception": inception.name,
    }
    for method, seeds in METHODS.items():
        for seed in seeds:
            images = made(work, method, seed, N_MADE, real.share)
            of_made = features(domain, images)
            few = made(work, method, seed, INCEPTION_N, real.share)
            record = {
                "kid_domain": kid_record(of_test, of_made, real.patients, n_subsets=1, **SETTINGS),
                "kid_inception": kid_record(of_some, features(inception, few), own, n_subsets=1, **SETTINGS),
                **neighbour_records(of_test, of_made, real.patients, k_precision=3, k_density=5, **SETTINGS),
                "memorisation_domain": ratio(of_made, of_train, null["domain"]),
                "memorisation_pixel": ratio(images.reshape(len(images), -1).astype(np.float32), pixels[0], null["pixel"]),
                "leaks": augment_leaks(test[real.one_each], made(work, method, seed, 500, real.share))["leaks"],
                "images_seen": images_seen(work, method, seed),
            }  # fmt: skip
            found[f"{method}-{seed}"] = record
            print(f"{method}-{seed}: KID domain {record['kid_domain']['value']:.3f}", flush=True)
    return found


def copy_scores(work: Path) -> dict[str, Any]:
    """Return the share of each method's images that are copies as `cxr.metric.memorisation.copies` counts them.

    Flagged: nearer to one training image, for how near the next are, than 99 % of new patients' images are.
    """
    real = Real(work)
    domain = RunExtractor(
        run="cnn-real_only-0", runs_dir=str(work / "runs"), checkpoint="last", features="penultimate"
    )
    train, held_out = real.of(real.distinct), real.of(real.test)[real.one_each]

    def vectors(images: Pixels) -> dict[str, npt.NDArray[np.float32]]:
        features = extract(domain, images, batch=50, device="cpu").features
        return {"domain": features, "pixel": images.reshape(len(images), -1).astype(np.float32)}

    references = vectors(train)

    def relative(images: Pixels) -> dict[str, Floats]:
        near = {k: feature_neighbours(v, references[k], NEIGHBOURS) for k, v in vectors(images).items()}
        return {k: relative_distance(one) for k, one in near.items()}

    null = relative(held_out)
    found = {}
    for method, seeds in METHODS.items():
        for seed in seeds:
            own = relative(made(work, method, seed, N_MADE, real.share))
            found[f"{method}-{seed}"] = {k: copies(null[k], own[k], level=0.01)[0] for k in own}
    return found


def ratio(
    vectors: npt.NDArray[np.float32], training: npt.NDArray[np.float32], null: Floats
) -> dict[str, Any]:
    """Return the median distance to the nearest training image over that of new patients' images."""
    return median_ratio(feature_neighbours(vectors, training, 1).nearest, null, n_resamples=1000, seed=0)


def images_seen(work: Path, method: str, seed: int) -> int:
    """Return the images that the GANs of a method were shown."""
    from cxr.callback.atomic_checkpoint import load_checkpoint

    names = made_by(method, seed)
    return sum(
        int(load_checkpoint(work / "runs" / one / "checkpoints" / "last.ckpt")["gan"]["images_seen"])
        for one in names
    )


def answers(work: Path, runs: Sequence[str]) -> tuple[Floats, list[Floats], list[str | None]]:
    """Return target (N, 2), a table of probabilities for each run, and the patients."""
    found = [tables(read_predictions(work / "runs" / run, CLASSES), CLASSES) for run in runs]
    return found[0][0], [one[1] for one in found], found[0][2]


def cnn_scores(work: Path) -> dict[str, Any]:
    """Return accuracy and AUROC of every arm, and their differences from real images alone and repeated."""
    arms: dict[str, list[str]] = {}
    for arm in ("real_only", "duplicate_real"):
        arms[f"all/{arm}"] = [f"cnn-{arm}-{seed}" for seed in SEEDS]
    for method, seeds in METHODS.items():
        for kind in ("", "_only"):
            arms[f"all/{method}{kind}"] = [f"cnn-{method}{kind}-{seed}" for seed in seeds]
    for n in LOW:
        for arm in ("real_only", "duplicate_real", "synthetic"):
            arms[f"{n}/{arm}"] = [f"cnn-n{n}-{arm}-{seed}" for seed in SEEDS]
    found: dict[str, Any] = {}
    for name, runs in arms.items():
        target, probs, patients = answers(work, runs)
        drawn = draw_patients(patients, n_resamples=1000, seed=0)
        options: dict[str, Any] = {
            "multi_label": False,
            "threshold": 0.5,
            "names": ["accuracy", "auroc/PNEUMONIA"],
        }
        own = {key: plain(one) for key, one in estimate(target, probs, CLASSES, drawn, **options).items()}
        size, arm = name.split("/")
        against = {}
        for other in ("real_only", "duplicate_real"):
            if arm != other:
                _, others, _ = answers(work, arms[f"{size}/{other}"])
                gap = paired_difference(target, probs, others, CLASSES, drawn, **options)
                against[other] = {key: plain(one) for key, one in gap.items()}
        found[name] = {
            "scores": own,
            "less": against,
            "n_images": len(target),
            "n_patients": drawn.n_patients,
        }
    return found


def plain(one: Estimate) -> dict[str, Any]:
    """Return an estimate as it is kept: over patients and seeds where there are several."""
    several = one.low_seeds is not None
    return {
        "value": one.value,
        "low": one.low_seeds if several else one.low,
        "high": one.high_seeds if several else one.high,
        "over": "patients and seeds" if several else "patients",
        "per_seed": list(one.per_seed),
    }


def shown(one: dict[str, Any], digits: int = 3, scale: float = 1.0, sign: bool = False) -> str:
    """Return value [low, high]."""
    plus = "+" if sign else ""
    value, low, high = (
        None if one[k] is None else f"{scale * one[k]:{plus}.{digits}f}" for k in ("value", "low", "high")
    )
    return f"{value}" if low is None else f"{value} [{low}, {high}]"


def gan_table(found: dict[str, Any], copied: dict[str, Any]) -> str:
    """Return the table of part 1: a row for each method and seed."""
    head = ["GAN", "seed", "images seen", "KID, domain", "KID, random Inception", "precision", "recall",
            "nearest training image, domain", "nearest training image, pixels", "like copies, domain; pixels (%)",
            "signs of augmentation"]  # fmt: skip
    rows = [head, ["---"] * len(head)]
    for method, seeds in METHODS.items():
        for seed in seeds:
            one = found[f"{method}-{seed}"]
            alike = "; ".join(shown(copied[f"{method}-{seed}"][k], 1, 100) for k in ("domain", "pixel"))
            rows.append([
                NAMES[method], str(seed), f"{one['images_seen']:,}", shown(one["kid_domain"]),
                shown(one["kid_inception"]), shown(one["precision"], 2), shown(one["recall"], 2),
                shown(one["memorisation_domain"], 2), shown(one["memorisation_pixel"], 2), alike,
                ", ".join(one["leaks"]) or "none",
            ])  # fmt: skip
    one = found["strong-0"]
    nulls = [one[k]["null"]["value"] for k in ("kid_domain", "kid_inception", "precision", "recall")]
    own = [f"{null:.{digits}f}" for null, digits in zip(nulls, (3, 3, 2, 2), strict=True)]
    rows.append(["real test images to one another", "–", "–", *own, "1", "1", "1; 1 (the level)", "–"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def cnn_table(found: dict[str, Any]) -> str:
    """Return the table of part 2."""
    head = [
        "trained on",
        "seeds",
        "accuracy (%)",
        "less real only (points)",
        "less real repeated (points)",
        "AUROC",
    ]
    rows = [head, ["---"] * len(head)]
    named = {"real_only": "real", "duplicate_real": "real + 2,000 of them repeated"}
    for method in METHODS:
        named |= {f"{method}_only": f"{NAMES[method]} only", method: f"real + 2,000 of {NAMES[method]}"}
    for arm, name in named.items():
        one = found[f"all/{arm}"]
        less = [
            shown(one["less"][k]["accuracy"], 2, 100, True) if k in one["less"] else "–"
            for k in ("real_only", "duplicate_real")
        ]
        n = len(one["scores"]["accuracy"]["per_seed"])
        rows.append(
            [
                name,
                str(n),
                shown(one["scores"]["accuracy"], 2, 100),
                *less,
                shown(one["scores"]["auroc/PNEUMONIA"]),
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def low_table(found: dict[str, Any]) -> str:
    """Return the table of part 3."""
    head = ["real images", "real only (%)", "real repeated (%)", "with `strong`'s (%)", "strong less real only (points)",
            "strong less real repeated (points)"]  # fmt: skip
    rows = [head, ["---"] * len(head)]
    for size, with_gan in [(str(n), "synthetic") for n in LOW] + [("all", "strong")]:
        arms = [found[f"{size}/{arm}"] for arm in ("real_only", "duplicate_real", with_gan)]
        n = f"{sum(N_TRAIN.values()):,} (all)" if size == "all" else size
        rows.append([n, *(shown(arm["scores"]["accuracy"], 2, 100) for arm in arms),
                     *(shown(arms[2]["less"][k]["accuracy"], 2, 100, True) for k in CONTROLS)])  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def curve(found: dict[str, Any], file: Path) -> None:
    """Draw accuracy against the number of real images, and what synthetic ones change."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "cxr", "font.size": 9, "svg.fonttype": "none"}
    sizes = [*LOW, sum(N_TRAIN.values())]
    keys = [*(str(n) for n in LOW), "all"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for k, (arm, name, colour) in enumerate(ARMS):
        rows = [found[f"{key}/{'strong' if key == 'all' and arm == 'synthetic' else arm}"] for key in keys]
        draw(left, sizes, [one["scores"]["accuracy"] for one in rows], k, name, colour)
        if arm == "synthetic":
            for j, (other, told, shade) in enumerate(ARMS[:2]):
                gaps = [one["less"][other]["accuracy"] for one in rows]
                draw(right, sizes, gaps, j, f"less {told}", shade)
    right.axhline(0, color="#c1440e", linewidth=0.8)
    left.set(ylabel="test accuracy (%)", title="Talukdar's CNN on 1,171 test images of 685 patients")
    right.set(ylabel="points of accuracy", title="What strong's images change")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="real training images")
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.minorticks_off()
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def draw(
    axes: Any, sizes: Sequence[int], values: Sequence[dict[str, Any]], k: int, name: str, colour: str
) -> None:
    """Draw points with their intervals, beside those of other arms."""
    x = np.array(sizes) * 1.06 ** (k - 1)
    y, low, high = (
        100 * np.array([one[key] for one in values], dtype=float) for key in ("value", "low", "high")
    )
    axes.errorbar(
        x,
        y,
        yerr=(y - low, high - y),
        fmt="o-",
        color=colour,
        label=name,
        markersize=4,
        linewidth=1,
        capsize=2,
    )


def grids(work: Path) -> None:
    """Write, for each method, 12 images of each class of seed 0, none chosen, and as many real test images' places."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for method in METHODS:
        picked = []
        for label in reversed(CLASSES):
            for name in made_by(method, 0):
                one = load_synthetic(work / "synthetic" / name)
                rows = np.flatnonzero((one.index["class"] == label).to_numpy())[:12]
                picked += [np.asarray(one.images[rows])] if len(rows) else []
        write_png(PICTURES / f"{method}.png", tile(np.concatenate(picked), 12))


def replaced(text: str, name: str, body: str) -> str:
    """Return the page with a part between its marks replaced."""
    begin, end = f"<!-- {name}: written by python -m benchmarks.gans_report -->", f"<!-- {name}: end -->"
    before, found, rest = text.partition(begin)
    _, also, after = rest.partition(end)
    if not (found and also):
        sys.exit(f"{PAGE}: the marks of {name} are gone; put back {begin} and {end}")
    return f"{before}{begin}\n{body}\n{end}{after}"


def main() -> None:
    """Score what is not scored, and write the page's parts."""
    asked = dict(word.partition("=")[::2] for word in sys.argv[1:])
    work = Path(asked["work"]).resolve()
    kept = work / "report.json"
    found: dict[str, Any] = read_json(kept) if kept.is_file() else {}
    parts: list[tuple[str, Callable[[Path], dict[str, Any]]]] = [
        ("gans", gan_scores),
        ("copies", copy_scores),
        ("cnns", cnn_scores),
    ]
    for name, compute in parts:
        if name not in found and asked.get("only", name) == name:
            found[name] = compute(work)
            write_text(kept, json.dumps(found, indent=1))
    page = PAGE.read_text(encoding="utf-8")
    if "gans" in found:
        page = replaced(page, "gans", gan_table(found["gans"], found["copies"]))
        grids(work)
    if "cnns" in found:
        page = replaced(page, "cnns", cnn_table(found["cnns"]))
        page = replaced(page, "low", low_table(found["cnns"]))
        curve(found["cnns"], PICTURES / "low-data.svg")
    write_text(PAGE, page)


if __name__ == "__main__":
    main()
