"""Every classifier that conf/ names can be explained: as torch.autograd would, frozen or not, at its own layer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from cxr.classifier.base import Classifier
from cxr.config import build, conf_dir
from cxr.errors import UserError
from cxr.evaluation.heatmap import coarse_maps, gradcam, layer_name
from cxr.loss.classification import BCE
from cxr.task.classifier import ClassifierTask

SMALL: dict[str, dict[str, Any]] = {  # the same network with fewer or narrower layers
    "acrnet": {"blocks": [1, 2, 1, 1, 1], "width_multiplier": 0.05},
    "acrnet_small": {"blocks": [1, 2, 1, 1, 1]},
    "cliquenet": {"variant": "S0"},
    "salehinejad_dcnn": {"hidden": 32},
}
SIZES = {"inception_v3": 107}  # else 64 px: maps of 2 x 2 positions under 32-fold strides
SLOW = {  # others of their kind are fast
    "densenet201-talukdar",
    "inception_v3-talukdar",
    "resnet101-linear",
    "resnet50-covidgan_resnet50",
    "vgg16-covidgan_vgg16",
    "vgg16-own",
    "vgg16-talukdar",
}


def _used() -> dict[str, dict[str, Any]]:
    """Return what each classifier of conf/ is built from: ours by file, backbones by name and head."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted((conf_dir() / "classifier").glob("*.yaml")):
        node = yaml.safe_load(file.read_text(encoding="utf-8"))
        if file.stem == "backbone":
            base = node
            found[f"{node['name']}-{node['head']}"] = node
        else:
            found[file.stem] = {**node, **SMALL.get(file.stem, {})}
    for file in sorted((conf_dir() / "experiment").rglob("*.yaml")):
        node = yaml.safe_load(file.read_text(encoding="utf-8")).get("classifier") or {}
        if "name" in node:
            whole = {**base, **node}
            found[f"{whole['name']}-{whole['head']}"] = whole
    return found


USED = _used()


def test_the_zoo_is_whole() -> None:
    names = {Path(name.partition("-")[0]).name for name in USED}
    ours = {file.stem for file in (conf_dir() / "classifier").glob("*.yaml")} - {"backbone"}
    papers = {"densenet121", "densenet201", "efficientnet_b0", "inception_v3", "legacy_xception", "resnet101"}
    assert ours | papers | {"resnet50", "vgg16"} <= names
    assert set(USED) >= SLOW


def made(name: str) -> ClassifierTask:
    node = dict(USED[name])
    node |= {"image_size_px": SIZES.get(name.partition("-")[0], 64), "n_outputs": 3}
    if "pretrained" in node:
        node["pretrained"] = False
    torch.manual_seed(0)
    return task(build(node))


def task(network: Classifier) -> ClassifierTask:
    return ClassifierTask(
        network=network, loss=BCE(pos_weight=None, label_smoothing=0.0), optimizer=partial(torch.optim.SGD, lr=0.1),
        scheduler=None, classes=["a", "b", "c"], multi_label=True, channels_last=True,
    )  # fmt: skip


def by_autograd(one: ClassifierTask, image: np.ndarray[Any, Any], layer: str, target: int) -> Tensor:
    """Return the map (h, w) by the definition, without captum."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        kept.append(output if output.requires_grad else output.requires_grad_())
        return output.clone()  # an in-place ReLU behind it must not change what was kept

    one.eval()
    handle = one.network.get_submodule(layer).register_forward_hook(keep)
    logits = one(torch.from_numpy(image)[None, None])
    handle.remove()
    gradient = torch.autograd.grad(logits[0, target], kept[0])[0][0]
    return (gradient.mean(dim=(1, 2), keepdim=True) * kept[0][0]).sum(0).relu().detach()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in sorted(USED)]
)
def test_grad_cam_of(name: str) -> None:
    one = made(name)
    side = one.network.image_size_px
    images = np.random.default_rng(0).integers(0, 256, (2, side, side), dtype=np.uint8)
    maps = gradcam(one, images, np.array([[0, 1, 2], [2, 1, 0]]))
    assert maps.shape == (2, 3, side, side)
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() > 0
    small = coarse_maps(one, images, np.array([[0, 1, 2], [2, 1, 0]]))
    assert min(small.shape[2:]) >= 2  # it has positions
    for k, target in enumerate([2, 1, 0]):
        expected = by_autograd(one, images[1], one.network.last_conv, target).numpy()
        np.testing.assert_allclose(small[1, k], expected, rtol=2e-3, atol=2e-5 * small.max())
    frozen = [p for p in one.network.parameters() if not p.requires_grad]
    assert bool(frozen) == bool(USED[name].get("frozen", False))
    assert all(p.grad is None for p in one.network.parameters())  # nothing is left behind


def test_last_map_is_the_last_with_positions() -> None:
    """Whatever runs after the layer that is explained and makes maps (B, C, h, w) only pools or reads it out."""
    allowed = (nn.AdaptiveAvgPool2d, nn.Conv2d, nn.ReLU, nn.Identity, nn.Dropout)
    for name in (
        "acrnet_small",
        "cliquenet",
        "inception_v2",
        "talukdar_cnn",
        "covid_cnn",
        "salehinejad_dcnn",
    ):
        network = made(name).network.eval()
        order: list[tuple[nn.Module, Any]] = []
        layer = network.get_submodule(network.last_conv)
        inside = set(layer.modules())
        handles = [
            m.register_forward_hook(lambda m, _, out, order=order: order.append((m, out)))
            for m in network.modules()
        ]
        with torch.no_grad():
            network(torch.zeros(1, network.channels, 64, 64))
        for handle in handles:
            handle.remove()
        at = max(i for i, (m, _) in enumerate(order) if m is layer)
        after = [
            m for m, out in order[at + 1 :] if isinstance(out, Tensor) and out.ndim == 4 and m not in inside
        ]
        assert all(isinstance(m, allowed) for m in after), (name, after)


def test_another_layer() -> None:
    one = made("covid_cnn")
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64), dtype=np.uint8)
    small = coarse_maps(one, images, np.array([[1]]), "conv2")
    assert small.shape == (1, 1, 32, 32)
    expected = by_autograd(one, images[0], "conv2", 1).numpy()
    np.testing.assert_allclose(small[0, 0], expected, rtol=1e-3, atol=1e-5 * small.max())
    assert layer_name(one, None) == "conv3"
    with pytest.raises(
        UserError, match=r"heatmap_layer: CovidCNN has no module 'convv2'.*did you mean 'conv2'"
    ):
        gradcam(one, images, np.array([[1]]), "convv2")


def test_in_place_relu_behind_a_layer_changes_nothing() -> None:
    """DenseNet's own norm0 is followed by an in-place ReLU; the body must not be frozen to be explained inside."""
    node = {
        **USED["densenet121-linear"],
        "frozen": False,
        "pretrained": False,
        "image_size_px": 64,
        "n_outputs": 3,
    }
    torch.manual_seed(0)
    one = task(build(node))
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64), dtype=np.uint8)
    layer = "body.features.conv0"
    small = coarse_maps(one, images, np.array([[1]]), layer)
    assert small.shape == (1, 1, 32, 32)
    expected = by_autograd(one, images[0], layer, 1).numpy()
    np.testing.assert_allclose(small[0, 0], expected, rtol=1e-3, atol=1e-5 * small.max())
    with pytest.raises(
        UserError, match=r"body\.features\.conv0 lies in the frozen part.*set heatmap_layer=null"
    ):
        gradcam(made("densenet121-linear"), images, np.array([[1]]), layer)
