"""All scores of one feature pass, by name: what a score's record holds under `metrics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.evaluation.score import Answers, frechet_record, inception_records, kid_record, neighbour_records
from cxr.extractor import Answer

__all__ = ["score_records"]

Floats = npt.NDArray[np.float64]


def score_records(
    real: Answer, synthetic: Answer, patients: Sequence[str | None], layer: str, settings: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the record of each score by what it is (see `cxr.metric.score_record.score_names`), and warnings.

    IS needs the logits of classes; FID on logits is taken where the features are their softmax. What has too few
    images for its neighbours is left out, with a warning.

    Args:
        patients: one per real image, None = a patient of its own.
        settings: splits, n_resamples, n_halves, seed, n_subsets, k_precision, k_density.
    """
    x, y = real.features, synthetic.features  # float32, as they are: each score takes float64 of a block
    options = {key: settings[key] for key in ("n_resamples", "n_halves", "seed")}
    found: dict[str, dict[str, Any]] = {
        "kid": kid_record(x, y, patients, n_subsets=settings["n_subsets"], **options),
        "fid": frechet_record(x, y, patients, **options),
    }
    answers = None
    if real.logits is not None and synthetic.logits is not None:
        answers = [
            _answers(one, who) for one, who in ((real.logits, patients), (synthetic.logits, [None] * len(y)))
        ]
        if layer == "softmax":
            found["fid_logits"] = frechet_record(answers[0].logits, answers[1].logits, patients, **options)
    warnings = []
    ks = {key: settings[key] for key in ("k_precision", "k_density")}
    if (fewest := min(len(x), len(y))) > max(ks.values()):
        found |= neighbour_records(x, y, patients, **ks, **options)
    else:
        warnings.append(f"precision, recall, density and coverage need more than {max(ks.values())} images of each set; "
                        f"there are {fewest}")  # fmt: skip
    if answers is not None:
        one = {key: settings[key] for key in ("splits", "n_resamples", "seed")}
        found["is"] = inception_records(*answers, **one)
    return found, warnings


def _answers(logits: npt.NDArray[np.float32], patients: Sequence[str | None]) -> Answers:
    z = np.asarray(logits, np.float64)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return Answers(p / p.sum(axis=1, keepdims=True), z, patients)
