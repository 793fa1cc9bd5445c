"""How far probabilities can be taken at their word: expected calibration error and the reliability curve.

ECE (Naeini et al. 2015; Guo et al. 2017, eq. 3): images fall into `BINS` bins of equal width by confidence, and
ECE = sum over bins of (share of images) × |frequency of being right − mean confidence|. The number of bins is part
of its name, `ece15`. What is called confidence:

- single-label (two classes too): the probability of the most probable class, "right" when that class is the true
  one (top-label ECE; a decision threshold plays no part);
- multi-label: per label its probability, "right" when the label is present; `ece15` is then the mean over labels.

A bin holds its upper border, (0, 1/15], (1/15, 2/15] …; a probability of 0 lies in the first.

ECE is biased upwards, the more the fewer images (|x| of noise is not 0): a perfect model has a positive ECE, and a
resample more. Compare it at equal n only. Its interval (`cxr.metric.interval.error_interval`) says how much of it may be
that: it starts at 0 unless the ECE is above what 95 % of the test sets of a calibrated model show (`weighted_noise`).

By hand because torchmetrics scores one set of images at a time, not 2,000 weighted resamples; it is the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.metric.interval import score_interval
from cxr.metric.resample import Resamples, effective_patients

__all__ = ["BINS", "Reliability", "confidences", "reliability_curve", "weighted_ece", "weighted_noise"]

BINS = 15  # Guo et al. 2017

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reliability:
    """A reliability curve: one entry per bin that holds an image, all arrays (K,), K ≤ BINS.

    Attributes:
        confidence: mean confidence of the bin's images, in [0, 1].
        frequency: share of them that are right, in [0, 1].
        low, high: 95 % patient bootstrap of `frequency`; NaN where fewer than two patients fill the bin.
        n: images in the bin.
        n_patients: patients in the bin.
        ece: expected calibration error of all images.
    """

    confidence: Floats
    frequency: Floats
    low: Floats
    high: Floats
    n: Ints
    n_patients: Ints
    ece: float


def confidences(
    target: npt.ArrayLike, prob: npt.ArrayLike, label: int | None
) -> tuple[Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return confidence (N,), right (N,) and known (N,) from targets and probabilities, both (N, C).

    Args:
        label: position of a label (its probability against its presence); None: the most probable class.
    """
    y, p = np.asarray(target, dtype=np.float64), np.asarray(prob, dtype=np.float64)
    if label is not None:
        return p[:, label], y[:, label] > 0.5, ~np.isnan(y[:, label])
    chosen = p.argmax(axis=1)
    rows = np.arange(len(p))
    return p[rows, chosen], y[rows, chosen] > 0.5, np.ones(len(p), dtype=np.bool_)


def weighted_ece(
    target: npt.ArrayLike, prob: npt.ArrayLike, label: int | None, groups: Ints, weights: Floats
) -> Floats:
    """Return the ECE (R,) of every resample; NaN for one without a known image.

    Args:
        groups: (N,) which of G patients each image belongs to.
        weights: (R, G) how often each was drawn.
    """
    return np.asarray(np.abs(_gaps(target, prob, label, groups, weights)).sum(axis=1))


def weighted_noise(
    target: npt.ArrayLike, prob: npt.ArrayLike, label: int | None, groups: Ints, weights: Floats
) -> Floats:
    """Return the sum over bins of |gap of a resample - gap of all images| (R,): an ECE that is sampling noise only.

    It is what resampled patients make of a model without any gap, their images as alike as they are. Drawing labels
    from the probabilities instead (Bröcker & Smith 2007) takes a patient's images as independent, which is too little
    noise. Arguments as in `weighted_ece`.
    """
    gaps = _gaps(target, prob, label, groups, weights)
    return np.asarray(
        np.abs(gaps - _gaps(target, prob, label, groups, np.ones((1, weights.shape[1])))).sum(axis=1)
    )


def _gaps(
    target: npt.ArrayLike, prob: npt.ArrayLike, label: int | None, groups: Ints, weights: Floats
) -> Floats:
    """Return (R, BINS): share of a bin's images × (frequency of being right - mean confidence)."""
    confidence, right, known = confidences(target, prob, label)
    bins = _bins(confidence)[known]
    gap = np.zeros((weights.shape[1], BINS))  # sum of (right - confidence) of each patient in each bin
    np.add.at(gap, (groups[known], bins), right[known] - confidence[known])
    n = np.bincount(groups[known], minlength=weights.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((weights @ gap) / (weights @ n)[:, None])


def reliability_curve(
    target: npt.ArrayLike, prob: npt.ArrayLike, label: int | None, resamples: Resamples
) -> Reliability:
    """Return the reliability curve of targets and probabilities (N, C), with intervals over patients.

    Args:
        label: as in `confidences`; None is the top-label curve of a single-label task.
    """
    confidence, right, known = confidences(target, prob, label)
    bins, groups = _bins(confidence)[known], resamples.groups[known]
    confidence, right = confidence[known], right[known]
    per_patient = np.zeros((2, resamples.n_patients, BINS))
    np.add.at(per_patient[0], (groups, bins), 1.0)
    np.add.at(per_patient[1], (groups, bins), right.astype(np.float64))
    n, hits = per_patient.sum(axis=1)
    n_patients = (per_patient[0] > 0).sum(axis=0)
    drawn_n, drawn_hits = resamples.weights @ per_patient[0], resamples.weights @ per_patient[1]
    low, high = np.full(BINS, np.nan), np.full(BINS, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        frequency, drawn = hits / n, drawn_hits / drawn_n  # NaN in a resample that leaves the bin empty
        mean = np.bincount(bins, confidence, minlength=BINS) / n
    for b in np.flatnonzero(n_patients > 1):
        found = score_interval(float(frequency[b]), drawn[:, b], effective_patients(groups[bins == b]))
        low[b], high[b] = (np.nan if limit is None else limit for limit in found)
    full = n > 0
    ece = float(np.abs(hits - np.bincount(bins, confidence, minlength=BINS)).sum() / n.sum())
    return Reliability(
        mean[full], frequency[full], low[full], high[full], n[full].astype(np.int64), n_patients[full], ece
    )


def _bins(confidence: Floats) -> Ints:
    """Number of the bin (0 … BINS - 1) of each confidence in [0, 1]; a border belongs to the bin below it."""
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    return np.searchsorted(inner, confidence, side="left").astype(np.int64)
