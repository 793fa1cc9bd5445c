"""timm and TorchScript networks as extractors: their own input, names that say what they are, plain refusals."""

from __future__ import annotations

from pathlib import Path

import cxr  # noqa: F401  # first: it lets torchvision, and so timm, be imported

# isort: split
import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from cxr.errors import UserError
from cxr.extractor import extract
from cxr.extractor.timm import TimmExtractor
from cxr.extractor.torchscript import TorchScriptExtractor

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 48, 48), dtype=np.uint8)


def test_timm_network_has_its_own_input(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = timm.create_model("resnet18", num_classes=5).eval()
    file = tmp_path / "resnet.pth"
    torch.save(network.state_dict(), file)
    ours = TimmExtractor(name="resnet18", pretrained=True, checkpoint_path=str(file), input_size_px=48)
    found = extract(ours, IMAGES, batch=3, device="cpu").features
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (torch.from_numpy(IMAGES).unsqueeze(1).repeat(1, 3, 1, 1) / 255 - mean) / std
    with torch.inference_mode():
        theirs = network.forward_head(network.forward_features(x), pre_logits=True)
    np.testing.assert_allclose(found, theirs.numpy(), rtol=1e-4, atol=1e-5)
    assert ours.name == f"resnet18@{ours.protocol['weights_sha256'][:8]},48px"
    assert ours.protocol["weights"] == "file"


def test_random_weights_are_marked_and_repeat() -> None:
    state = torch.get_rng_state()
    a, b = (
        TimmExtractor(name="resnet18", pretrained=False, checkpoint_path=None, input_size_px=32)
        for _ in range(2)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert a.name == b.name and a.name.startswith("resnet18-random@")
    assert extract(a, IMAGES, batch=2, device="cpu").features.shape == (3, a.protocol["dimensions"])


def test_mistakes_name_the_extractors_keys() -> None:
    with pytest.raises(UserError, match=r"extractor\.name: timm has no 'resnet1'"):
        TimmExtractor(name="resnet1", pretrained=True, checkpoint_path=None, input_size_px=None)
    with pytest.raises(UserError, match=r"extractor\.checkpoint_path: no\.pth: no such file"):
        TimmExtractor(name="resnet18", pretrained=True, checkpoint_path="no.pth", input_size_px=None)
    with pytest.raises(UserError, match=r"extractor\.input_size_px: got 3, expected 32"):
        TimmExtractor(name="resnet18", pretrained=False, checkpoint_path=None, input_size_px=3)


class Means(nn.Module):
    """Mean and largest value of each channel; the whole image on request."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        if not self.pooled:
            return x
        return torch.cat([x.mean(dim=[2, 3]), x.amax(dim=[2, 3])], dim=1)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "means.pt"
    torch.jit.script(Means(pooled=True)).save(str(file))  # type: ignore[no-untyped-call]
    return file


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_script_takes_what_is_said_of_it(script: Path) -> None:
    pixels = IMAGES.reshape(3, -1).astype(np.float64)
    expected = {"0..255": pixels, "0..1": pixels / 255, "-1..1": pixels / 127.5 - 1}
    for values, p in expected.items():
        one = TorchScriptExtractor(
            trust=True, path=str(script), input_size_px=None, input_range=values, channels=1
        )  # type: ignore[arg-type]
        found = extract(one, IMAGES, batch=2, device="cpu").features
        np.testing.assert_allclose(
            found, np.stack([p.mean(axis=1), p.max(axis=1)], axis=1), rtol=1e-5, atol=1e-6
        )
    small = TorchScriptExtractor(
        trust=True, path=str(script), input_size_px=16, input_range="0..1", channels=3
    )
    assert extract(small, IMAGES, batch=2, device="cpu").features.shape == (3, 6)
    assert small.name.startswith("means@") and small.name.endswith(",16px")


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripts_that_are_none(tmp_path: Path, script: Path) -> None:
    def load(path: Path) -> TorchScriptExtractor:
        return TorchScriptExtractor(
            trust=True, path=str(path), input_size_px=None, input_range="0..1", channels=1
        )

    with pytest.raises(UserError, match=r"extractor\.path: .*no such file"):
        load(tmp_path / "none.pt")
    other = tmp_path / "weights.pt"
    torch.save({"a": 1}, other)
    with pytest.raises(UserError, match="is no TorchScript"):
        load(other)
    whole = tmp_path / "whole.pt"
    torch.jit.script(Means(pooled=False)).save(str(whole))  # type: ignore[no-untyped-call]
    with pytest.raises(UserError, match=r"returned shape \(2, 1, 48, 48\), expected features \(2, d\)"):
        extract(load(whole), IMAGES, batch=2, device="cpu")
