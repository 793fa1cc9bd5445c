"""The scores of all seeds and folds of one arm, on all its test images and in each resample of their patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from cxr.metric.calibration import weighted_noise
from cxr.metric.classification import metric_names, weighted_scores
from cxr.metric.interval import Part
from cxr.metric.resample import Answers, patients_bearing

__all__ = ["ScoredArm"]

Floats = npt.NDArray[np.float64]


class ScoredArm:
    """Scores of all seeds of one arm: `value[name]` (S,) on all images, `drawn[name]` (S, R) per resample.

    Both are means over the folds that define the score, `defining[name]`.
    """

    def __init__(
        self,
        folds: Sequence[Answers],
        classes: Sequence[str],
        multi_label: bool,
        threshold: float,
        names: Sequence[str] | None,
    ) -> None:
        if not folds or not folds[0].probs or len({len(fold.probs) for fold in folds}) > 1:
            raise ValueError("needs the predictions of at least one run, and of as many in every fold")
        tables = [_tables(fold, classes, multi_label, threshold, names) for fold in folds]
        self.names = [n for n in metric_names(classes) if n in tables[0][0]]
        self.value: dict[str, Floats] = {}
        self.drawn: dict[str, Floats] = {}
        self.defining: dict[str, list[Answers]] = {}
        self.folds, self.classes, self.multi_label = folds, classes, multi_label
        for name in self.names:
            scored = np.stack([[table[name] for table in of_fold] for of_fold in tables])  # (F, S, 1 + R)
            defined = np.asarray(
                ~np.isnan(scored[:, :, 0]).any(axis=1)
            )  # a question of the targets, alike in all seeds
            mean = scored[defined].mean(axis=0) if defined.any() else scored[0]
            self.value[name], self.drawn[name] = mean[:, 0], mean[:, 1:]
            self.defining[name] = [fold for fold, counts in zip(folds, defined, strict=True) if counts]

    def summary(self, name: str) -> tuple[float, Floats, float, int]:
        """Mean over seeds on all images, of each resample (R,), patients that bear on it, test sets that define it."""
        value, drawn, folds = (
            float(self.value[name].mean()),
            self.drawn[name].mean(axis=0),
            self.defining[name],
        )
        units = sum(patients_bearing(fold.target, fold.resamples, self.classes, name) for fold in folds)
        return value, drawn, units, len(folds)

    def seed_part(self, name: str) -> list[Part]:
        """Parts of the variance of the mean over seeds that resampling patients does not hold; [] with one seed.

        The variance s² / S of the trainings, less what of it is how each answers these patients (patients × seeds):
        the resamples show that, and hold it once already. Trainings that differ by no more add nothing.
        """
        values, drawn = self.value[name], self.drawn[name]
        n = values.size
        if n < 2:
            return []
        drawn = drawn[:, ~np.isnan(drawn).any(axis=0)]
        of_trainings = float(values.var(ddof=1)) / n
        apart = (drawn - drawn.mean(axis=0)).var(axis=1) if drawn.size else np.zeros(n)
        of_patients = float(apart.sum()) / (n - 1) / n
        if of_trainings <= of_patients:
            return [(0.0, n - 1.0)]
        return [(of_trainings, n - 1.0), (-of_patients, math.inf)]

    def noise(self, name: str) -> Floats:
        """Return the noise of ECE (R,) in each resample (`cxr.metric.calibration.weighted_noise`), averaged as ECE is."""
        label = name.partition("/")[2]
        if label or not self.multi_label:
            columns: list[int | None] = [list(self.classes).index(label) if label else None]
        else:
            columns = list(range(len(self.classes)))
        found = [
            weighted_noise(fold.target, prob, column, fold.resamples.groups, fold.resamples.weights)
            for fold in self.defining[name] for prob in fold.probs for column in columns
        ]  # fmt: skip
        return np.asarray(np.mean(found, axis=0))


def _tables(
    tested: Answers, classes: Sequence[str], multi_label: bool, threshold: float, names: Sequence[str] | None
) -> list[Mapping[str, Floats]]:
    """Return each seed's scores (1 + R,): on all images, then per resample."""
    resamples = tested.resamples
    weights = np.concatenate([np.ones((1, resamples.n_patients)), resamples.weights])
    scored = partial(
        weighted_scores, classes=classes, multi_label=multi_label, threshold=threshold, names=names
    )
    return [scored(tested.target, prob, groups=resamples.groups, weights=weights) for prob in tested.probs]
