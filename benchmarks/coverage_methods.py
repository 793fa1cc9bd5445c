"""Compare kinds of bootstrap intervals, and measure those of ECE, on the simulated test sets of coverage.py.

    python -m benchmarks.coverage_methods        (the last two tables of docs/results/coverage.md; minutes)

Percentile, basic and BCa intervals as in Davison & Hinkley (1997, ch. 5); BCa's acceleration is that of the jackknife
over patients; t is value ± t × SE on the score's own scale. "ours" is `cxr.metric.interval`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from benchmarks.coverage import CLASSES, FIRST_SET, Scenario, simulate, truths
from cxr.metric.bootstrap import draw_patients, estimate
from cxr.metric.calibration import weighted_ece
from cxr.metric.classification import weighted_scores
from cxr.metric.interval import difference_interval, score_interval
from cxr.metric.paired_interval import paired_interval
from cxr.metric.resample import patients_bearing

__all__ = ["ece_coverage", "methods_coverage"]

Floats = npt.NDArray[np.float64]
AUROC = f"auroc/{CLASSES[1]}"
COMPARED = (
    Scenario(100, "1", 0.0, 0.95, 0.5),
    Scenario(150, "3", 0.7, 0.92, 0.3),
    Scenario(100, "1-12", 0.5, 0.90, 0.5),
)


def methods_coverage(s: Scenario, sets: Iterable[int], n_resamples: int) -> Counter[tuple[str, str]]:
    """Count the test sets whose interval holds the truth, by quantity and kind of interval."""
    true, hits = truths(s), Counter[tuple[str, str]]()
    for seed in sets:
        made = simulate(s, seed)
        drawn = draw_patients(made.patients, n_resamples=n_resamples, seed=seed)
        p = drawn.n_patients
        weights = np.concatenate([np.ones((1, p)), 1 - np.eye(p), drawn.weights])
        first, second = (
            weighted_scores(
                made.target, prob, CLASSES, multi_label=False, threshold=0.5, groups=drawn.groups,
                weights=weights, names=[AUROC],
            )[AUROC]
            for prob in (made.first[0], made.second[0])
        )  # fmt: skip
        units = patients_bearing(made.target, drawn, CLASSES, AUROC)
        for name, scored in (("AUROC", first), ("AUROC difference", second - first)):
            value, jackknife, draws = float(scored[0]), scored[1 : 1 + p], scored[1 + p :]
            low, high = np.nanpercentile(draws, (2.5, 97.5))
            if name == "AUROC":
                ours = score_interval(value, draws, units)
            else:
                both = (float(second[0]), float(first[0])), (second[1 + p :], first[1 + p :])
                ours = paired_interval(*both, units)[:2]
            found = {
                "percentile": (low, high),
                "basic": (2 * value - high, 2 * value - low),
                "BCa": _bca(value, jackknife, draws),
                "t": difference_interval(value, draws, units)[:2],
                "ours": ours,
            }
            for kind, (a, b) in found.items():
                hits[name, kind] += a is not None and b is not None and a <= true[name] <= b
    return hits


def _bca(value: float, jackknife: Floats, draws: Floats) -> tuple[float, float]:
    draws, jackknife = draws[~np.isnan(draws)], jackknife[~np.isnan(jackknife)]
    below = (draws < value).mean() + (draws == value).mean() / 2
    bias = norm.ppf(np.clip(below, 1e-4, 1 - 1e-4))
    d = jackknife.mean() - jackknife
    skew = float((d**3).sum() / (6 * (d**2).sum() ** 1.5)) if d.any() else 0.0
    z = bias + norm.ppf([0.025, 0.975])
    low, high = np.percentile(draws, 100 * norm.cdf(bias + z / (1 - skew * z)))
    return float(low), float(high)


def ece_coverage(
    patients: int, images: int, sharpness: float, sets: Sequence[int]
) -> tuple[float, float, float]:
    """Return the true ECE, the mean of the measured ones and the share of intervals that hold the true one.

    sharpness: what the logits of a calibrated model are multiplied by; 1 leaves it calibrated.
    """
    true = 0.0
    if sharpness != 1:
        target, prob, _ = _answers(200_000, 1, sharpness, 0)
        true = float(weighted_ece(target, prob, None, np.zeros(len(target), np.int64), np.ones((1, 1)))[0])
    held, values = 0, []
    for seed in sets:
        target, prob, ids = _answers(patients, images, sharpness, seed)
        drawn = draw_patients(ids, n_resamples=200, seed=seed)
        found = estimate(target, [prob], CLASSES, drawn, multi_label=False, threshold=0.5, names=["ece15"])[
            "ece15"
        ]
        assert found.value is not None and found.low is not None and found.high is not None
        held += found.low <= true <= found.high
        values.append(found.value)
    return true, float(np.mean(values)), held / len(sets)


def _answers(patients: int, images: int, sharpness: float, seed: int) -> tuple[Floats, Floats, list[str]]:
    """Targets, probabilities (N, 2), patients: scores N(±.75, 1), half of the variance shared; log odds are 1.5 s."""
    rng = np.random.default_rng([seed, 7])
    patient = np.repeat(np.arange(patients), images)
    y = (rng.random(patients) < 0.5).astype(int)[patient]
    noise = rng.standard_normal(patients)[patient] + rng.standard_normal(patient.size)
    p = 1 / (1 + np.exp(-sharpness * 1.5 * (1.5 * (y - 0.5) + np.sqrt(0.5) * noise)))
    return np.eye(2)[y], np.stack([1 - p, p], axis=1), [f"p{i}" for i in patient]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sets", type=int, default=500, help="simulated test sets per row")
    parser.add_argument("--first", type=int, default=FIRST_SET, help="number of the first set")
    given = parser.parse_args()
    sets = range(given.first, given.first + given.sets)
    kinds = ("percentile", "basic", "BCa", "t", "ours")
    print(
        "| Patients | Images each | True AUROC | Score | Percentile | Basic | BCa | t | Ours |\n"
        + "|---" * 9
        + "|"
    )
    for s in COMPARED:
        hits = methods_coverage(s, sets, 400)
        for name in ("AUROC", "AUROC difference"):
            shares = [f"{100 * hits[name, kind] / len(sets):.1f}" for kind in kinds]
            facts = [str(s.patients), s.images, f"{truths(s)['AUROC']:.3f}", name]
            print("| " + " | ".join([*facts, *shares]) + " |", flush=True)
    print("\n| Patients | Images each | True ECE | Mean measured ECE | Held |\n" + "|---" * 5 + "|")
    for sharpness in (1.0, 1.25, 2.0):
        for patients, images in ((100, 1), (100, 3), (400, 1), (700, 3)):
            true, mean, held = ece_coverage(patients, images, sharpness, sets)
            print(f"| {patients} | {images} | {true:.3f} | {mean:.3f} | {100 * held:.1f} |", flush=True)


if __name__ == "__main__":
    main()
