"""E. Metrics: the scores that a sweep waits for, against torchmetrics, SciPy, torch-fidelity and scikit-learn."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cxr  # noqa: F401  # first: it lets torchvision, and so torchmetrics, be imported

# isort: split
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness import ROUNDS, Line, Rounds, agree, cpu_seconds

Floats = npt.NDArray[np.float64]


def lines() -> Iterator[Line]:
    """Yield E1 to E5; data is made when its line's turn comes."""
    yield from frechet_moments()
    yield few_images()
    yield subsets()
    with tempfile.TemporaryDirectory() as scratch:
        yield from inception(Path(scratch))
    yield areas()
    yield bootstrap()


def features(n: int, d: int, seed: int) -> Floats:
    """Return (n, d) features whose variances fall over three and a half decades, as a network's do."""
    turn = np.random.default_rng(99).normal(size=(d, d)) * np.exp(-4 * np.arange(d) / d) / np.sqrt(d)
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(0.02 * seed, 1 + 0.05 * seed, (n, d)) @ turn)


def torchmetrics_frechet(mean_a: Floats, cov_a: Floats, mean_b: Floats, cov_b: Floats) -> float:
    """Return what `FrechetInceptionDistance.compute` ends in."""
    from torchmetrics.image.fid import _compute_fid

    return float(_compute_fid(*map(torch.from_numpy, (mean_a, cov_a, mean_b, cov_b))))


def frechet_moments() -> Iterator[Line]:
    """E1: from means and covariances to the distance."""
    import torchmetrics.image.fid  # noqa: F401  # its import is not to be timed
    from scipy.linalg import sqrtm

    from cxr.metric.frechet import distance, moments

    d = 1536
    a, b = (moments(features(d * 5 // 4, d, seed)) for seed in (0, 1))

    def scipy() -> float:
        cross = np.trace(sqrtm(a.covariance @ b.covariance)).real
        shift = a.mean - b.mean
        return float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)

    def check() -> str:
        # the exact value: singular values, as accurate as float64 is, of the product of both Cholesky factors
        factors = [np.linalg.cholesky(m.covariance) for m in (a, b)]
        cross = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
        shift = a.mean - b.mean
        exact = shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
        return agree(float(distance(a, b)), float(exact), 1e-8, "relative error to the exact distance")

    yield Line(
        "E1", f"Fréchet distance of {d:,} features, n ≥ d", ">=", {"torchmetrics": 2.5, "scipy sqrtm": 11.0},
        ours=lambda: distance(a, b),
        peers={"torchmetrics": lambda: torchmetrics_frechet(a.mean, a.covariance, b.mean, b.covariance),
               "scipy sqrtm": scipy},
        check=check, warm=False,
    )  # fmt: skip


def few_images() -> Line:
    """E2: 500 images of 2,048 features."""
    from cxr.metric.frechet import frechet_distance

    x, y = (
        np.random.default_rng(s).normal(0.1 * s, 1 + 0.1 * s, (500, 2048)).astype(np.float32) for s in (0, 1)
    )

    def theirs() -> float:
        sets = [torch.from_numpy(v).double() for v in (x, y)]
        return torchmetrics_frechet(*(m.numpy() for v in sets for m in (v.mean(0), torch.cov(v.T))))

    def check() -> str:
        centred = [(v - v.mean(0, dtype=np.float64)).astype(np.float64) for v in (x, y)]
        # another route to the exact value: the small factors' own QR, then singular values of 500 × 500
        upper = [np.linalg.qr(v.T, mode="reduced") for v in centred]
        core = upper[0][1].T @ (upper[0][0].T @ upper[1][0]) @ upper[1][1]
        cross = np.linalg.svd(core, compute_uv=False).sum() / 499
        shift = x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)
        exact = float(shift @ shift + sum((v**2).sum() for v in centred) / 499 - 2 * cross)
        ours, other = abs(frechet_distance(x, y) / exact - 1), abs(theirs() / exact - 1)
        assert ours <= min(1e-8, other), f"relative error {ours:.1e}, torchmetrics' {other:.1e}"
        return f"relative error to the exact distance {ours:.0e}, torchmetrics' {other:.0e}"

    return Line("E2", "Fréchet distance, n = 500 of 2,048 features", ">=", 50.0, check=check, warm=False,
                ours=lambda: frechet_distance(x, y), peers={"torchmetrics": theirs})  # fmt: skip


def subsets() -> Line:
    """E3: the peer's subsets are independent of each other, so two are timed and their time taken fifty times."""
    from torchmetrics.image.kid import poly_mmd

    from cxr.metric.kid import kid

    x, y = (np.random.default_rng(s).normal(0.05 * s, 1, (2000, 2048)) for s in (0, 1))
    tensors = torch.from_numpy(x), torch.from_numpy(y)

    def theirs(n_subsets: int, rng: np.random.Generator, n: int = 2000) -> float:
        rows = [[rng.choice(n, n // 2, replace=False) for _ in tensors] for _ in range(n_subsets)]
        drawn = [[v[one] for v, one in zip(tensors, pair, strict=True)] for pair in rows]
        return float(np.mean([poly_mmd(a, b, degree=3, gamma=None, coef=1.0).item() for a, b in drawn]))

    def check() -> str:
        # of ten subsets ours takes another route (each its own kernel) than of a hundred: the hundred are what is timed
        n = 600  # images: the peer's hundred subsets of 2,000 take as long as all else here
        error = abs(kid(x[:n], y[:n], n_subsets=100, seed=0).value - theirs(100, np.random.default_rng(0), n))
        assert error <= 1e-6, f"difference {error:.1e}"
        return f"difference {error:.0e} (≤ 1e-06), the same 100 subsets of {n // 2} of the first {n}"

    return Line(
        "E3", "KID, 100 subsets of 1,000 from 2,000, float64 (peer: 2 subsets, × 50)", ">=", 10.0, check=check,
        ours=lambda: cpu_seconds(lambda: kid(x, y, n_subsets=100, seed=0)), clock="own", warm=False,
        peers={"torchmetrics": lambda: cpu_seconds(lambda: theirs(2, np.random.default_rng(0))) * 50},
    )  # fmt: skip


def random_inception(folder: Path) -> Path:
    """Write torch-fidelity's Inception with random weights that keep the variance: speed does not ask for trained ones."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    torch.manual_seed(0)
    blank = theirs.FeatureExtractorInceptionV3.__new__(theirs.FeatureExtractorInceptionV3)
    load, theirs.FeatureExtractorInceptionV3.load_state_dict = (
        theirs.FeatureExtractorInceptionV3.load_state_dict,
        lambda *_: None,
    )
    fetch, theirs.load_state_dict_from_url = theirs.load_state_dict_from_url, lambda *_, **__: {}
    try:
        blank.__init__("inception-v3-compat", ["2048"])
    finally:
        theirs.FeatureExtractorInceptionV3.load_state_dict, theirs.load_state_dict_from_url = load, fetch
    for layer in blank.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    file = folder / "random-inception.pth"
    torch.save(blank.state_dict(), file)
    return file


def inception(folder: Path) -> Iterator[Line]:
    """E4: the pass over images, and all scores from one pass."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from cxr.extractor import extract
    from cxr.extractor.inception import InceptionExtractor

    file = random_inception(folder)
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
    )
    extractor = InceptionExtractor(weights_path=str(file))
    images = np.random.default_rng(0).integers(0, 256, (16, 128, 128), dtype=np.uint8)

    def ours() -> Any:
        return extract(extractor, images, batch=len(images), device="cpu").features

    @torch.inference_mode()
    def theirs() -> Any:
        return network(torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1))[0]

    def check() -> str:
        a, b = ours(), theirs().numpy()
        error = float(np.linalg.norm(a - b) / np.linalg.norm(b))
        assert error <= 1e-6, f"features differ by {error:.1e} of their norm"
        return f"features differ by {error:.0e} of their norm (≤ 1e-06)"

    passes = Rounds(
        {name: functools.partial(cpu_seconds, call) for name, call in (("ours", ours), ("theirs", theirs))}
    )
    yield Line("E4a", f"Inception pass, {len(images)} images", ">=", 1.5, ours=passes.figure("ours"),
               peers={"torch-fidelity": passes.figure("theirs")}, check=check, clock="own", warm=False, most=ROUNDS)  # fmt: skip
    yield together(passes, len(images))


def together(passes: Rounds, batch: int) -> Line:
    """E4b: 500 real and 500 synthetic images to FID, KID, IS of the synthetic ones, precision and recall.

    Ours takes one pass over each set. A torchmetrics object takes a pass of its own: FID and KID over both sets, IS over the
    synthetic one. torchmetrics has no precision and recall; torch-fidelity's stand in, on features of one more pass over
    both. A pass is linear in the images, and torchmetrics' is torch-fidelity's: E4a's of `batch` images, round for round, are
    taken so many times. What turns features into scores is timed on 500 random ones of each set: ours in each round, the
    peers' once (5 s, where their passes take minutes).
    """
    from torch_fidelity.metric_prc import calculate_precision_recall_full
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    from cxr.metric.frechet import frechet_distance
    from cxr.metric.inception_score import inception_score
    from cxr.metric.kid import kid, subset_size
    from cxr.metric.prdc import neighbours

    n, subsets = 500, 100
    rng = np.random.default_rng(0)
    real, made = (rng.normal(0.1 * s, 1 + 0.05 * s, (n, 2048)).astype(np.float32) for s in (0, 1))
    logits = rng.normal(0, 2, (n, 1008)).astype(np.float32)
    given = torch.nn.Identity()  # a network that was applied before: the object keeps what it is shown
    given.num_features = 2048

    def scores() -> dict[str, float]:
        p = np.exp(logits.astype(np.float64))
        near = neighbours(real, made, k_precision=3, k_density=5)
        return {
            "FID": frechet_distance(real, made),
            "KID": kid(real, made, n_subsets=subsets, seed=0).value,
            "IS": inception_score(p / p.sum(axis=1, keepdims=True), splits=1, seed=None).value,
            "precision": float(near.precision.mean()),
            "recall": float(near.recall.mean()),
        }

    def their_scores() -> dict[str, float]:
        a, b = torch.from_numpy(real), torch.from_numpy(made)
        fid = FrechetInceptionDistance(feature=given)
        size = subset_size(n, n)
        kid_object = KernelInceptionDistance(feature=given, subsets=subsets, subset_size=size)
        for one in (fid, kid_object):
            one.update(a, real=True)
            one.update(b, real=False)
        score = InceptionScore(feature=given, splits=1)
        score.update(torch.from_numpy(logits))
        precision, recall = calculate_precision_recall_full(b, a)
        return {"FID": float(fid.compute()), "KID": float(kid_object.compute()[0]), "IS": float(score.compute()[0]),
                "precision": precision, "recall": recall}  # fmt: skip

    rest = 0.0

    def check() -> str:
        nonlocal rest
        a, b = scores(), dict[str, float]()
        rest = cpu_seconds(lambda: b.update(their_scores()))
        # KID: of other random subsets; FID: theirs is off where images are fewer than features (E2)
        tolerance = {"FID": 1e-3, "KID": 1e-2, "IS": 1e-5, "precision": 1e-6, "recall": 1e-6}
        for name, allowed in tolerance.items():
            agree(a[name], b[name], allowed, f"{name}: difference")
        return "all five are the peers' (FID to 1e-03, KID of other subsets to 1e-02)"

    our_pass, their_pass, times = passes.figure("ours"), passes.figure("theirs"), 2 * n / batch
    return Line(
        "E4b", f"FID, KID, IS, precision, recall of {n} + {n} images (E4a's passes, × their number)", ">=", 4.0,
        ours=lambda: our_pass() * times + cpu_seconds(scores), check=check, clock="own", most=ROUNDS,
        peers={"torchmetrics, P/R torch-fidelity": lambda: their_pass() * times * (2 + 2 + 1 + 2) / 2 + rest},
    )  # fmt: skip


def areas() -> Line:
    """E5a: the size of NIH ChestX-ray14's test part."""
    from sklearn.metrics import roc_auc_score

    from cxr.metric.ranking import auroc

    rng = np.random.default_rng(0)
    target = (rng.random((14, 25_596)) < 0.1).astype(np.int64)
    score = (rng.random((14, 25_596)) + 0.3 * target).astype(np.float32)

    def ours() -> list[float]:
        return [auroc(t, s) or 0.0 for t, s in zip(target, score, strict=True)]

    def theirs() -> list[float]:
        return [float(roc_auc_score(t, s)) for t, s in zip(target, score, strict=True)]

    return Line(
        "E5a", "AUROC, exact, 14 × 25,596", ">=", 1.7, ours=ours, peers={"scikit-learn": theirs},
        check=lambda: max((agree(a, b, 1e-12) for a, b in zip(ours(), theirs(), strict=True))),
    )  # fmt: skip


def bootstrap() -> Line:
    """E5b: the peer scores each resample alone, by weights: no copy of images is listed."""
    from sklearn.metrics import roc_auc_score

    from cxr.metric.ranking import ranked_areas
    from cxr.metric.resample import draw_patients

    rng = np.random.default_rng(0)
    n, n_resamples = 5000, 200
    patients = [f"p{i}" for i in rng.integers(0, 1500, n)]
    y = rng.random(n) < 0.1
    s = np.round(rng.random(n) + 0.3 * y, 3)  # with ties
    drawn = draw_patients(patients, n_resamples=n_resamples, seed=0)

    def ours() -> Floats:
        return ranked_areas(y, s, drawn.weights, drawn.groups)[0]

    def theirs() -> list[float]:
        return [float(roc_auc_score(y, s, sample_weight=w[drawn.groups])) for w in drawn.weights]

    def check() -> str:
        error = float(np.abs(ours() - np.array(theirs())).max())
        assert error <= 1e-12, f"a resample differs by {error:.1e}"
        return f"each of {n_resamples} resamples, largest difference {error:.0e} (≤ 1e-12)"

    what = f"Patient bootstrap of AUROC (and AUPRC), {n_resamples} resamples of {n:,} images"
    return Line("E5b", what, ">=", 25.0, ours=ours, check=check, peers={"scikit-learn loop": theirs})
