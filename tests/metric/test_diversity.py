"""MS-SSIM against a version in scipy and by hand; a collapsed set is named, real radiographs never are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.ndimage import correlate1d

from cxr.data.phantom import Phantom
from cxr.errors import UserError
from cxr.metric.diversity import (
    Floats,
    Pixels,
    Share,
    collapsed,
    disjoint_pairs,
    diversity,
    most_pairs,
    msssim,
    near_duplicates,
    scales,
)

WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])


def reference(x: Pixels, y: Pixels, n_scales: int) -> float:
    """Wang et al. 2003, equation 7, on two images, in float64; see `msssim` for the borders."""
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(a: Floats) -> Floats:
        return np.asarray(
            correlate1d(correlate1d(a, window, axis=0, mode="mirror"), window, axis=1, mode="mirror")
        )

    a, b = x.astype(np.float64), y.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = 1.0
    weights = WEIGHTS[:n_scales] / WEIGHTS[:n_scales].sum()
    for scale in range(n_scales):
        ma, mb = mean(a), mean(b)
        va, vb, cab = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
        structure = (2 * cab + c2) / (va + vb + c2)
        if scale == n_scales - 1:
            structure *= (2 * ma * mb + c1) / (ma**2 + mb**2 + c1)
        else:
            structure = structure[5:-5, 5:-5]
        found *= max(float(structure.mean()), 0.0) ** weights[scale]
        half = len(a) // 2
        a, b = (z[: 2 * half, : 2 * half].reshape(half, 2, half, 2).mean(axis=(1, 3)) for z in (a, b))
    return found


@pytest.mark.parametrize(("size_px", "n_scales"), [(32, 2), (64, 3), (112, 4), (224, 5)])
def test_equals_a_version_in_scipy(size_px: int, n_scales: int) -> None:
    assert scales(size_px) == n_scales
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 8, 8)).astype(np.uint8)
    a = np.stack([cv2.resize(c, (size_px, size_px), interpolation=cv2.INTER_CUBIC) for c in coarse])
    b = np.stack([a[1], np.clip(a[1] + rng.normal(0, 20, a[1].shape), 0, 255).astype(np.uint8), a[2] // 2])
    expected = [reference(x, y, n_scales) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(msssim(a, b), expected, rtol=1e-4, atol=1e-5)


def test_by_hand() -> None:
    """Flat images: no structure to differ in, so luminance to the power of the last weight, once."""
    flat = np.full((3, 32, 32), 100, np.uint8)
    other = np.stack([flat[0], np.full((32, 32), 200, np.uint8), np.zeros((32, 32), np.uint8)])
    c1 = (0.01 * 255) ** 2
    weight = 0.2856 / (0.0448 + 0.2856)
    expected = [1.0] + [((2 * 100 * m + c1) / (100**2 + m**2 + c1)) ** weight for m in (200, 0)]
    np.testing.assert_allclose(msssim(flat, other), expected, rtol=1e-4)
    checks = np.indices((32, 32)).sum(axis=0) % 2 * 255
    assert msssim(checks[None].astype(np.uint8), 255 - checks[None].astype(np.uint8)).tolist() == [
        0.0
    ]  # less than chance


def test_mean_and_share_carry_their_interval_and_protocol() -> None:
    found = diversity(np.array([0.2, 0.4, 0.6, 0.4]), 64)
    assert found.name == "msssim_pairs4_scales3_window11"
    assert found.n_pairs == 4
    assert found.mean == pytest.approx(0.4)
    half = 1.96 * np.std([0.2, 0.4, 0.6, 0.4], ddof=1) / 2
    assert [found.low, found.high] == pytest.approx([0.4 - half, 0.4 + half], abs=1e-4)
    assert diversity(np.array([0.3]), 64).low is None
    real = np.full(20, 0.4)  # 0.6 apart: below 0.3 is near
    share = near_duplicates(np.array([0.69] * 8 + [0.71] * 2), real, 64)
    assert (share.name, share.count, share.value) == ("near_duplicates_pairs10_scales3_window11", 2, 0.2)
    # Wilson's interval of 2 in 10, as in the literature: 0.0567, 0.5098
    assert [share.low, share.high] == pytest.approx([0.0567, 0.5098], abs=1e-4)


def test_pairs_are_seeded_and_share_no_image() -> None:
    one = np.zeros(11, np.int64)
    pairs = disjoint_pairs(one, 5, seed=3)
    assert pairs.shape == (5, 2) and len(set(pairs.ravel().tolist())) == 10
    assert np.array_equal(pairs, disjoint_pairs(one, 5, seed=3))
    assert not np.array_equal(pairs, disjoint_pairs(one, 5, seed=4))
    with pytest.raises(UserError, match="got 11 images of 1 classes for 6 pairs"):
        disjoint_pairs(one, 6, seed=3)
    groups = np.array([0, 1, 1, 0, 1, 0, 0, 2, 1])
    assert most_pairs(groups) == 4  # two, two, and none of the class of one image
    within = disjoint_pairs(groups, 4, seed=0)
    assert (groups[within[:, 0]] == groups[within[:, 1]]).all() and len(set(within.ravel().tolist())) == 8


def test_small_images_are_refused_and_any_other_size_taken() -> None:
    with pytest.raises(UserError, match=r"10 pixels, expected at least 11"):
        scales(10)
    for size_px in (11, 16, 22, 43, 44, 98, 99, 175, 176, 299):
        image = np.random.default_rng(0).integers(0, 256, (1, size_px, size_px)).astype(np.uint8)
        assert msssim(image, image) == pytest.approx(1.0, abs=1e-5)
    assert [scales(size) for size in (21, 22, 43, 44, 98, 99, 175, 176, 1024)] == [1, 2, 2, 3, 3, 4, 4, 5, 5]


def judged(images: Pixels, real: Pixels, n_pairs: int = 60) -> str | None:
    values = []
    for one in (images, real):
        pairs = disjoint_pairs(np.zeros(len(one), np.int64), min(n_pairs, len(one) // 2), seed=0)
        values.append(msssim(one[pairs[:, 0]], one[pairs[:, 1]]))
    made, of_real = values
    size_px = real.shape[1]
    return collapsed(near_duplicates(made, of_real, size_px), near_duplicates(of_real, of_real, size_px))


def modes(real: Pixels, k: int, noise: float) -> Pixels:
    """160 images of which only k differ, but for noise."""
    rng = np.random.default_rng(k)
    chosen = real[rng.integers(0, k, 160)]
    return np.clip(np.round(chosen + rng.normal(0, noise, chosen.shape)), 0, 255).astype(np.uint8)


def radiographs(root: Path, size_px: int, n: int) -> Pixels:
    files = sorted(
        p for p in root.rglob("*") if p.suffix in (".png", ".jpeg") and "mask" not in str(p).lower()
    )
    chosen = np.random.default_rng(0).permutation(len(files))[:n]
    read = (cv2.imread(str(files[i]), cv2.IMREAD_GRAYSCALE) for i in chosen)
    return np.stack(
        [cv2.resize(x, (size_px, size_px), interpolation=cv2.INTER_AREA) for x in read if x is not None]
    )


@pytest.mark.parametrize(
    "name",
    [
        "chest-xray-pneumonia-224",
        pytest.param(
            "chest-xray-pneumonia-aspect", marks=pytest.mark.slow
        ),  # the first pack's images, cut otherwise
        "covid19-radiography-like",
        pytest.param("nih-chestxray14-64", marks=pytest.mark.slow),  # the longest; two packs stay
    ],
)
def test_real_radiographs_have_not_collapsed_and_copies_of_one_or_two_have(
    name: str, pack: Callable[[str], Path]
) -> None:
    images = radiographs(pack(name), 64, 160)
    real, others = images[: len(images) // 2], images[len(images) // 2 :]
    assert judged(others, real) is None
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), 2) for image in others])
    assert judged(blurred, real) is None  # dull is not collapsed
    for k, noise in ((1, 0.0), (1, 8.0), (2, 0.0), (2, 8.0)):
        assert judged(modes(real, k, noise), real)


def test_phantoms_have_not_collapsed_and_copies_have() -> None:
    source = Phantom(160, 1, ["normal", "opacity"], 0.3, 64, 0, False)
    real = np.stack([source.read(f"phantom/{n:06d}") for n in range(160)])
    assert judged(real[80:], real[:80]) is None
    assert judged(modes(real, 1, 2.0), real[:80])
    assert judged(modes(real, 2, 2.0), real[:80])


def test_the_reason_has_the_numbers_and_a_few_pairs_prove_nothing() -> None:
    none = Share("", 0.0, 0.0, 0.04, 0, 100)
    assert collapsed(Share("", 0.15, 0.09, 0.23, 15, 100), none) is None
    assert collapsed(Share("", 0.5, 0.404, 0.596, 50, 100), none) == (
        "50 of 100 pairs of generated images are near-duplicates (50 %, 95 % interval 40–60 %; real: 0 of 100)"
    )
    repeats = Share(
        "", 0.45, 0.36, 0.55, 45, 100
    )  # a real set of copies: a generator that is no worse is not flagged
    assert collapsed(Share("", 0.5, 0.404, 0.596, 50, 100), repeats) is None
