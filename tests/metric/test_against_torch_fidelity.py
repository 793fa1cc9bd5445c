"""FID, KID and IS equal torch-fidelity's on the same images and the same Inception, of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cxr  # noqa: F401  # first: it lets torchvision, and so torch-fidelity, be imported

# isort: split
import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch_fidelity
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from cxr.evaluation.scores import score_records
from cxr.extractor import extract
from cxr.extractor.inception import InceptionExtractor
from cxr.metric.frechet import frechet_distance

SETTINGS = {
    "n_resamples": 20,
    "n_halves": 2,
    "seed": 0,
    "n_subsets": 5,
    "splits": 1,
    "k_precision": 3,
    "k_density": 5,
}


def images(n: int, seed: int, smooth: int) -> npt.NDArray[np.uint8]:
    """Blurred noise (n, 48, 48) with a bright disc: sets that differ, and images within them."""
    rng = np.random.default_rng(seed)
    found = np.empty((n, 48, 48), np.uint8)
    for row in range(n):
        noise = cv2.GaussianBlur(rng.normal(128, 300, (48, 48)), (0, 0), smooth)
        cv2.circle(noise, tuple(int(v) for v in rng.integers(8, 40, 2)), int(rng.integers(3, 12)), 255.0, -1)
        found[row] = noise.clip(0, 255).round().astype(np.uint8)
    return found


def folder(path: Path, stack: npt.NDArray[np.uint8]) -> str:
    path.mkdir()
    for row, image in enumerate(stack):
        cv2.imwrite(str(path / f"{row:03}.png"), image)
    return str(path)


def both(weights: Path, tmp_path: Path, n: int, *, fid: bool) -> tuple[dict[str, Any], dict[str, float]]:
    """Return our scores and theirs of n real and n made images, at a subset size that is the whole set."""
    real, made = images(n, 0, 2), images(n, 1, 4)
    theirs = torch_fidelity.calculate_metrics(
        input1=folder(tmp_path / "made", made), input2=folder(tmp_path / "real", real),
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(weights),
        isc=True, fid=fid, kid=True, kid_subset_size=n, kid_subsets=1, isc_splits=1, batch_size=n,
        samples_shuffle=False, cuda=False, cache=False, verbose=False,
    )  # fmt: skip
    extractor = InceptionExtractor(weights_path=str(weights))
    answers = [extract(extractor, stack, batch=n, device="cpu") for stack in (real, made)]
    ours, _ = score_records(answers[0], answers[1], [None] * n, "", SETTINGS)
    assert ours["kid"]["value"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert ours["is"]["synthetic"]["value"] - 1 == pytest.approx(theirs["inception_score_mean"] - 1, rel=1e-3)
    assert abs(ours["kid"]["value"]) > 1e-3  # sets that differ: there is something to agree on
    return ours, theirs


@pytest.mark.slow  # tests/extractor compares the features, test_kid.py and test_inception_score.py what is made of them
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_kid_and_is_are_torch_fidelitys(random_inception: Path, tmp_path: Path) -> None:
    both(random_inception, tmp_path, 8, fid=False)


@pytest.mark.slow  # theirs takes the eigenvalues of a 2,048² matrix that is not symmetric: a minute on one core
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_fid_kid_and_is_are_torch_fidelitys(random_inception: Path, tmp_path: Path) -> None:
    ours, theirs = both(random_inception, tmp_path, 40, fid=True)
    assert ours["fid"]["value"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert ours["fid"]["value"] > ours["fid"]["null"]["value"]


@pytest.mark.parametrize("n", [30, 90])
def test_fid_is_torch_fidelitys_in_fewer_dimensions(n: int) -> None:
    """Both of our routes, fewer images than features and more, without the wait."""
    rng = np.random.default_rng(0)
    x, y = rng.gamma(2, 1, (n, 64)), rng.gamma(2.5, 1, (n + 5, 64))
    statistics = [fid_features_to_statistics(torch.from_numpy(v)) for v in (x, y)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(x, y) == pytest.approx(theirs, rel=1e-5)
