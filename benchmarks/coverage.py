"""Measure how often 95 % intervals hold the truth, on simulated test sets whose truth is known.

    python -m benchmarks.coverage        (the first table of docs/results/coverage.md; a quarter of an hour on one core)

A simulated patient is diseased or not and has images; an image's score is signal + what the patient's images share +
its own noise, so that the intraclass correlation of the noise is `icc`. With equal variances the true AUROC is
Phi(mu / sqrt 2) and the true accuracy, at the threshold halfway, Phi(mu / 2). A second model has another mu and noise
of correlation `rho` with the first's. A training (seed) shifts mu at random; the truth is then the mean over trainings.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from cxr.metric.bootstrap import draw_patients, estimate, paired_difference
from cxr.metric.interval import Estimate

__all__ = ["FIRST_SET", "SCENARIOS", "Scenario", "Simulated", "coverage", "simulate", "truths"]

CLASSES = ["without", "with"]
NAMES = ["accuracy", "auroc/with"]
FIRST_SET = 200_000_000  # of the tables; the method was chosen on sets from 50,000,000 to 60,000,999

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scenario:
    """Test sets of one kind.

    Attributes:
        patients: in the test set.
        images: per patient: "1", "3", or "1-12" (geometric, mean 3, cut at 12).
        icc: correlation of the noise of two images of a patient.
        accuracy: true accuracy of the first model; `gain` is what the second has more.
        diseased: share of patients.
        rho: correlation of the two models' noise.
        seeds: trainings of each model; `seed_sd` shifts mu between them.
    """

    patients: int
    images: str
    icc: float
    accuracy: float
    diseased: float
    gain: float = 0.02
    rho: float = 0.7
    seeds: int = 1
    seed_sd: float = 0.0


SCENARIOS = (
    Scenario(100, "1", 0.0, 0.85, 0.5),
    Scenario(100, "3", 0.5, 0.85, 0.5),
    Scenario(100, "1-12", 0.7, 0.85, 0.3),
    Scenario(200, "3", 0.5, 0.92, 0.7),
    Scenario(300, "1-12", 0.3, 0.90, 0.2, gain=0.0, rho=0.9),
    Scenario(400, "1", 0.0, 0.94, 0.73),
    Scenario(700, "3", 0.7, 0.75, 0.5),
    Scenario(200, "3", 0.5, 0.85, 0.5, seeds=3, seed_sd=0.1),
    Scenario(100, "1", 0.0, 0.95, 0.5),
)


@dataclass(frozen=True)
class Simulated:
    """A test set: targets (N, 2), probabilities (N, 2) of each seed of two models, patient of each image."""

    target: Floats
    first: list[Floats]
    second: list[Floats]
    patients: list[str]


def simulate(s: Scenario, seed: int) -> Simulated:
    """Draw one test set, and the trainings of both models."""
    rng = np.random.default_rng([seed, s.patients])
    if s.images == "1-12":
        sizes = np.minimum(rng.geometric(1 / 3, s.patients), 12)
    else:
        sizes = np.full(s.patients, int(s.images))
    patient = np.repeat(np.arange(s.patients), sizes)
    y = (rng.random(s.patients) < s.diseased).astype(int)[patient]

    def noise() -> Floats:
        shared = rng.standard_normal(s.patients)[patient]
        return np.asarray(np.sqrt(s.icc) * shared + np.sqrt(1 - s.icc) * rng.standard_normal(patient.size))

    common = noise()
    models = []
    for accuracy in (s.accuracy, s.accuracy + s.gain):
        runs = []
        for _ in range(s.seeds):
            mu = 2 * norm.ppf(accuracy) + s.seed_sd * rng.standard_normal()
            p = norm.cdf(mu * (y - 0.5) + np.sqrt(s.rho) * common + np.sqrt(1 - s.rho) * noise())
            runs.append(np.stack([1 - p, p], axis=1))
        models.append(runs)
    return Simulated(np.eye(2)[y], models[0], models[1], [f"p{i}" for i in patient])


def truths(s: Scenario) -> dict[str, float]:
    """Return what each interval should hold: scores of the first model, and second less first."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    found: list[tuple[float, float]] = []
    for accuracy in (s.accuracy, s.accuracy + s.gain):
        mu = 2 * norm.ppf(accuracy) + s.seed_sd * nodes
        found.append((float(weights @ norm.cdf(mu / 2)), float(weights @ norm.cdf(mu / np.sqrt(2)))))
    (accuracy, auroc), (other, better) = found
    return {
        "accuracy": accuracy, "AUROC": auroc,
        "accuracy difference": other - accuracy, "AUROC difference": better - auroc,
    }  # fmt: skip


def coverage(s: Scenario, sets: Iterable[int], n_resamples: int, by_image: bool) -> dict[str, float]:
    """Return the share of intervals that hold the truth, by quantity.

    `by_image`: also "accuracy by image" and "AUROC by image", with images drawn singly instead of patients.
    """
    true, hits, n = truths(s), Counter[str](), 0
    for seed in sets:
        made, n = simulate(s, seed), n + 1
        drawn = draw_patients(made.patients, n_resamples=n_resamples, seed=seed)
        alone = estimate(
            made.target, made.first, CLASSES, drawn, multi_label=False, threshold=0.5, names=NAMES
        )
        pair = paired_difference(
            made.target,
            made.second,
            made.first,
            CLASSES,
            drawn,
            multi_label=False,
            threshold=0.5,
            names=NAMES,
        )
        found = {"accuracy": alone["accuracy"], "AUROC": alone["auroc/with"]}
        found |= {"accuracy difference": pair["accuracy"], "AUROC difference": pair["auroc/with"]}
        hits.update(name for name, value in true.items() if _holds(found[name], value))
        if by_image:
            drawn = draw_patients([None] * len(made.patients), n_resamples=n_resamples, seed=seed)
            alone = estimate(
                made.target, made.first, CLASSES, drawn, multi_label=False, threshold=0.5, names=NAMES
            )
            found = {"accuracy": alone["accuracy"], "AUROC": alone["auroc/with"]}
            hits.update(f"{name} by image" for name in found if _holds(found[name], true[name]))
    names = [*true, *(["accuracy by image", "AUROC by image"] if by_image else [])]
    return {name: hits[name] / n for name in names}


def _holds(found: Estimate, value: float) -> bool:
    """Whether the interval to judge by, over seeds too where there are several, holds a value."""
    low, high = (found.low, found.high) if found.n_seeds == 1 else (found.low_seeds, found.high_seeds)
    return low is not None and high is not None and low - 1e-12 <= value <= high + 1e-12


def table(
    scenarios: Sequence[Scenario], sets: Sequence[int], n_resamples: int, singly: bool
) -> Iterable[str]:
    """Yield the lines of a Markdown table, a row per scenario as it is done; `singly`: draw images singly too."""
    yield (
        "| Patients | Images each | ICC | Diseased | Seeds | True accuracy | True AUROC | Accuracy | AUROC "
        "| Accuracy difference | AUROC difference | Images drawn singly: accuracy | AUROC |"
    )
    yield "|" + "---|" * 13
    for s in scenarios:
        clustered = singly and s.images != "1"
        found, true = coverage(s, sets, n_resamples, clustered), truths(s)
        told = [f"{100 * found[name]:.1f}" for name in true]
        images = [
            f"{100 * found[f'{name} by image']:.1f}" if clustered else "—" for name in ("accuracy", "AUROC")
        ]
        facts = [str(s.patients), s.images, f"{s.icc:g}", f"{100 * s.diseased:.0f} %", str(s.seeds)]
        known = [f"{true['accuracy']:.3f}", f"{true['AUROC']:.3f}"]
        yield "| " + " | ".join([*facts, *known, *told, *images]) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sets", type=int, default=500, help="simulated test sets per row")
    parser.add_argument("--resamples", type=int, default=300, help="bootstrap resamples per interval")
    parser.add_argument("--first", type=int, default=FIRST_SET, help="number of the first set")
    parser.add_argument("--rows", type=int, nargs="*", help="these rows only, counted from 0")
    parser.add_argument(
        "--singly", action=argparse.BooleanOptionalAction, default=True, help="images drawn singly too"
    )
    given = parser.parse_args()
    rows = range(len(SCENARIOS)) if given.rows is None else given.rows
    sets = range(given.first, given.first + given.sets)
    for line in table([SCENARIOS[i] for i in rows], sets, given.resamples, given.singly):
        print(line, flush=True)


if __name__ == "__main__":
    main()
