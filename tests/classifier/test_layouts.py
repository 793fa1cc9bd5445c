"""No network has the convolution that torch 2.13 gets wrong with channels last on a CPU."""

from __future__ import annotations

import cxr  # noqa: F401  # first: it lets torchvision, and so timm, be imported

# isort: split
from typing import Any

import pytest
import timm
import torch
import yaml
from torch import nn

from cxr.config import build, conf_dir

OURS = sorted(file.stem for file in (conf_dir() / "classifier").glob("*.yaml") if file.stem != "backbone")
BACKBONES = sorted(
    {"resnet50", "densenet121"}
    | {
        node["name"]
        for file in (conf_dir() / "experiment").rglob("*.yaml")
        if "name" in (node := yaml.safe_load(file.read_text(encoding="utf-8")).get("classifier") or {})
    }
)


def dangerous(network: nn.Module) -> list[str]:
    """Return its strided 1 x 1 convolutions over 2 to 4 channels: in float32 they write where they must not."""
    return [
        name
        for name, m in network.named_modules()
        if isinstance(m, nn.Conv2d)
        and set(m.kernel_size) == {1}
        and max(m.stride) > 1
        and 2 <= m.in_channels // m.groups <= 4
    ]


def test_it_is_recognised() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1, stride=2), nn.Conv2d(8, 8, 1, stride=2), nn.Conv2d(3, 8, 3, stride=2)
    )
    assert dangerous(network) == ["0"]


@pytest.mark.parametrize("name", OURS)
def test_ours_are_without_it(name: str) -> None:
    node: dict[str, Any] = yaml.safe_load(
        (conf_dir() / "classifier" / f"{name}.yaml").read_text(encoding="utf-8")
    )
    size = node["image_size_px"] if isinstance(node["image_size_px"], int) else 128
    node |= {"image_size_px": size, "n_outputs": 2}
    with torch.device("meta"):
        assert not dangerous(build(node))


@pytest.mark.parametrize("name", BACKBONES)
def test_the_papers_backbones_are_without_it(name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False, num_classes=0)
    assert not dangerous(network)
