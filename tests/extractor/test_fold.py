"""Inception with its batch norm folded gives torch-fidelity's features, and a folded pair is the pair."""

from __future__ import annotations

from pathlib import Path

import cxr  # noqa: F401  # first: it lets torchvision, and so torch-fidelity, be imported

# isort: split
import numpy as np
import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as theirs

from cxr.extractor import extract
from cxr.extractor.fold import fold_batch_norm
from cxr.extractor.inception import InceptionExtractor


class Pair(nn.Module):
    """A convolution and its batch norm, which has seen data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0)
        nn.init.constant_(self.conv.weight, 3.0)
        self.bn.running_mean[0], self.bn.running_var[0] = 5.0, 4.0  # type: ignore[index]
        nn.init.constant_(self.bn.weight, 8.0)
        nn.init.constant_(self.bn.bias, 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.bn(self.conv(x)))


def test_by_hand() -> None:
    # 8 (3 x - 5) / √4 + 1 = 12 x - 19
    pair = Pair().eval()
    assert fold_batch_norm(pair) == 1
    assert pair.conv.weight.item() == 12.0
    assert pair.conv.bias is not None
    assert pair.conv.bias.item() == -19.0
    assert pair(torch.full((1, 1, 1, 1), 2.0)).item() == 5.0
    assert fold_batch_norm(pair) == 0  # nothing is folded twice


def test_features_are_torch_fidelitys_to_a_millionth(random_inception: Path) -> None:
    torch.manual_seed(0)
    state = torch.load(random_inception, weights_only=True)
    # a fresh network's batch norm does nothing: nothing could be folded wrongly
    for name, value in state.items():
        if name.endswith(("bn.running_mean", "bn.bias")):
            value.normal_(0, 0.1)
        elif name.endswith(("bn.running_var", "bn.weight")):
            value.uniform_(0.5, 1.5)
    file = random_inception.with_name("batch-norm.pth")
    torch.save(state, file)
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 40), dtype=np.uint8)
    ours = extract(InceptionExtractor(weights_path=str(file)), images, batch=2, device="cpu")
    network = theirs.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
    )
    with torch.inference_mode():
        features, logits = network(torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1))
    assert ours.logits is not None
    for found, expected in ((ours.features, features.numpy()), (ours.logits, logits.numpy())):
        assert np.linalg.norm(found - expected) < 1e-6 * np.linalg.norm(expected)
        assert (
            np.abs(found - expected).max() > 0
        )  # it is another order of summing, not the same network twice
