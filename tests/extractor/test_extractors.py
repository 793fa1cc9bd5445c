"""Extractors: the same bits however many images, torch-fidelity's numbers, names that change with the weights."""

from __future__ import annotations

import io
from pathlib import Path

import cxr  # noqa: F401  # first: it lets torchvision, and so timm, be imported

# isort: split
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxr.errors import UserError
from cxr.extractor import Answer, Extractor, cached_answer, extract
from cxr.extractor.inception import InceptionExtractor
from cxr.extractor.pixel import PixelExtractor

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 32, 32), dtype=np.uint8)


class Counting(Extractor):
    """A small convolution that counts the images it is shown."""

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network: nn.Module = nn.Conv2d(1, 8, 5, stride=3)
        self.name, self.layer, self.protocol, self.seen = f"counting@{seed}", "", {"seed": seed}, 0

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += len(images)
        features = self.network(images.float()).mean(dim=(2, 3))
        return features, features[:, :3]


def test_an_image_has_the_same_features_among_any_number() -> None:
    one = Counting()
    whole = extract(one, IMAGES, batch=4, device="cpu")
    fewer = extract(one, IMAGES[:5], batch=4, device="cpu")
    np.testing.assert_array_equal(whole.features[:5], fewer.features)
    assert (whole.features.shape, whole.features.dtype) == ((7, 8), np.float32)
    told: list[int] = []
    extract(one, torch.from_numpy(IMAGES), batch=4, device="cpu", advance=told.append)
    assert told == [4, 3]


def test_a_trainers_autocast_does_not_reach_the_features() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = extract(Counting(), IMAGES, batch=4, device="cpu")
    np.testing.assert_array_equal(
        inside.features, extract(Counting(), IMAGES, batch=4, device="cpu").features
    )


def test_broken_features_are_refused() -> None:
    broken = Counting()
    torch.nn.init.constant_(broken.network.weight, float("nan"))  # type: ignore[arg-type]  # a convolution's
    with pytest.raises(UserError, match="extractor counting@0: expected finite features"):
        extract(broken, IMAGES, batch=4, device="cpu")
    with pytest.raises(ValueError, match="expected uint8"):
        extract(broken, IMAGES.astype(np.float32), batch=4, device="cpu")  # type: ignore[arg-type]  # the point


def test_pixels_are_block_means() -> None:
    images = np.zeros((2, 4, 4), np.uint8)
    images[0, :2, 2:] = [[10, 20], [30, 40]]
    images[1] = 255
    found = extract(PixelExtractor(size_px=2), images, batch=8, device="cpu")
    np.testing.assert_allclose(found.features, [[-1, 25 / 127.5 - 1, -1, -1], [1, 1, 1, 1]], atol=1e-7)
    assert found.logits is None
    with pytest.raises(UserError, match=r"extractor\.size_px: 4×4 images cannot be averaged to 3×3"):
        extract(PixelExtractor(size_px=3), images, batch=8, device="cpu")


def cached(extractor: Extractor, images: np.ndarray, folder: Path) -> Answer:
    return cached_answer(extractor, images, folder=folder, batch=4, device="cpu")


def test_features_are_taken_once(tmp_path: Path) -> None:
    one = Counting()
    first = cached(one, IMAGES, tmp_path)
    assert one.seen == 8  # 7, the last batch filled up
    again = cached(one, IMAGES, tmp_path)
    assert one.seen == 8
    np.testing.assert_array_equal(first.features, again.features)
    assert first.logits is not None and again.logits is not None
    np.testing.assert_array_equal(first.logits, again.logits)

    changed = IMAGES.copy()
    changed[3, 5, 5] ^= 1  # one grey level of one pixel
    cached(one, changed, tmp_path)
    assert one.seen == 16
    other = Counting(seed=1)
    cached(other, IMAGES, tmp_path)
    assert other.seen == 8 and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty"])
def test_a_damaged_file_is_made_again(tmp_path: Path, harm: str) -> None:
    one = Counting()
    first = cached(one, IMAGES, tmp_path)
    (file,) = tmp_path.iterdir()
    held = bytearray(file.read_bytes())
    position = held.index(first.features.tobytes()[:16])
    held[position] ^= 1
    file.write_bytes({"cut": held[: len(held) // 2], "flipped": held, "empty": b""}[harm])
    np.testing.assert_array_equal(cached(one, IMAGES, tmp_path).features, first.features)
    assert one.seen == 16
    cached(one, IMAGES, tmp_path)
    assert one.seen == 16  # and mended


def test_inception_is_torch_fidelitys(random_inception: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    ours = InceptionExtractor(weights_path=str(random_inception))
    found = extract(ours, IMAGES[:3], batch=3, device="cpu")
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        feature_extractor_weights_path=str(random_inception),
    )
    with torch.inference_mode():
        features, logits = theirs(torch.from_numpy(IMAGES[:3]).unsqueeze(1).repeat(1, 3, 1, 1))
    assert found.logits is not None
    for one, their in ((found.features, features.numpy()), (found.logits, logits.numpy())):  # see test_fold
        assert np.linalg.norm(one - their) < 1e-6 * np.linalg.norm(their)
    assert ours.name == f"inception@{ours.protocol['weights_sha256'][:8]}"


def test_inception_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(
        UserError, match=r"put https://.*6726825d\.pth at .*hub/checkpoints.*weights_path=FILE"
    ):
        InceptionExtractor(weights_path=None)
    held = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    held.write_bytes(b"half of it")
    with pytest.raises(UserError, match="no state dict of torch-fidelity's Inception"):
        InceptionExtractor(weights_path=None)
    with pytest.raises(UserError, match=r"nowhere\.pth: no such file; expected weights-inception"):
        InceptionExtractor(weights_path="nowhere.pth")
    other = tmp_path / "other.pth"
    torch.save(nn.Linear(2, 2).state_dict(), other)
    with pytest.raises(UserError, match="no state dict of torch-fidelity's Inception"):
        InceptionExtractor(weights_path=str(other))
    code = tmp_path / "code.pth"
    buffer = io.BytesIO()
    torch.save({"x": Path("a")}, buffer)  # a pickled object: never loaded
    code.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="no state dict of torch-fidelity's Inception"):
        InceptionExtractor(weights_path=str(code))
