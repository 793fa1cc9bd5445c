"""Backbones: heads, freezing, normalisation; weights from a file, nowhere, or a server out of reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from cxr.classifier import weights
from cxr.classifier.backbone import Backbone
from cxr.errors import UserError

DEFAULTS: dict[str, Any] = {
    "name": "resnet18",
    "image_size_px": 64,
    "channels": 3,
    "n_outputs": 1,
    "head": "linear",
    "dropout": 0.0,
    "init": "keras",
    "frozen": False,
    "pretrained": False,
    "checkpoint_path": None,
}


def make(**changes: Any) -> Backbone:
    torch.manual_seed(0)
    return Backbone(**{**DEFAULTS, **changes})


def images(channels: int = 3, size: int = 64, n: int = 2) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def n_parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
@pytest.mark.parametrize("head", ["own", "linear", "talukdar", "covidgan_vgg16", "covidgan_resnet50"])
def test_one_step_reaches_every_trainable_parameter(name: str, head: str) -> None:
    network = make(name=name, head=head, n_outputs=3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    x, targets = images(n=4), torch.tensor([0, 1, 2, 0])
    logits = network(x)
    assert logits.shape == (4, 3)
    before = {k: p.detach().clone() for k, p in network.named_parameters()}
    torch.nn.functional.cross_entropy(logits, targets).backward()
    assert not [k for k, p in network.named_parameters() if p.grad is None]
    optimizer.step()
    after = dict(network.named_parameters())
    assert not torch.equal(
        before["body.conv1.weight" if name == "resnet18" else "body.features.conv0.weight"],
        after["body.conv1.weight" if name == "resnet18" else "body.features.conv0.weight"],
    )


def test_parameter_counts() -> None:
    assert n_parameters(make(head="linear")) == 11_176_512 + 512 + 1
    side = 2  # 64 px / 32
    head = (9 * 512 + 1) * 256 + (256 * side * side + 1) * 1024 + 1025 * 512 + 513
    assert n_parameters(make(head="talukdar")) == 11_176_512 + head


def test_vgg16_leaves_its_dense_layers_behind() -> None:
    body = make(name="vgg16", image_size_px=32).body
    assert n_parameters(body) == 14_714_688  # Keras' VGG16(include_top=False)


def test_vgg16_with_its_own_dense_layers_is_the_original() -> None:
    with torch.device("meta"):
        network = make(name="vgg16", image_size_px=224, head="own", n_outputs=1000)
    assert n_parameters(network) == 138_357_544


def test_own_layers_are_timms() -> None:
    network = make(name="swin_tiny_patch4_window7_224", image_size_px=224, head="own").eval()
    x = images(size=224, n=1)
    with torch.no_grad():
        body = network.body(x * network.scale + network.shift)
        torch.testing.assert_close(network(x), network.head(body))


def test_covidgan_vgg16_has_the_papers_counts() -> None:
    network = make(name="vgg16", image_size_px=224, n_outputs=3, head="covidgan_vgg16", frozen=True)
    assert network.head[1].in_features == 25_088
    assert n_parameters(network) == 17_926_467
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 3_211_779


def test_covidgan_resnet50_is_their_table_3() -> None:
    network = make(name="resnet50", n_outputs=3, head="covidgan_resnet50", dropout=0.5, frozen=True)
    assert n_parameters(network.head) == 2049 * 128 + 129 * 64 + 65 * 3
    assert [m.p for m in network.head if isinstance(m, torch.nn.Dropout)] == [0.5]
    assert network(images()).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "features"),
    [("densenet121", 1024), pytest.param("resnet50", 2048, marks=pytest.mark.slow)],  # the paper's stays
)
def test_densenet14_is_a_pool_and_a_dense_layer(name: str, features: int) -> None:
    network = make(name=name, n_outputs=14, frozen=True).eval()
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == (features + 1) * 14
    x = images()
    dense = network.head[-1]
    torch.testing.assert_close(network(x), network.features(x).mean(dim=(2, 3)) @ dense.weight.T + dense.bias)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_features_agree_with_timm(name: str) -> None:
    network = make(name=name).eval()
    reference = timm.create_model(name, pretrained=False, features_only=True, out_indices=(-1,)).eval()
    own = network.body.state_dict()
    reference.load_state_dict({k: own[k.replace("features_", "features.")] for k in reference.state_dict()})
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = images()
    normalised = ((x + 1) / 2 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(network.features(x), reference(normalised)[-1], rtol=1e-3, atol=1e-4)


def test_other_layouts() -> None:
    """Swin puts channels last, ViT has tokens and a fixed size, and one channel is summed weights."""
    assert make(name="vit_tiny_patch16_224")(images()).shape == (2, 1)
    for head in ("covidgan_vgg16", "covidgan_resnet50"):
        assert make(name="vit_tiny_patch16_224", head=head)(images()).shape == (2, 1)
    assert make(name="resnet18", channels=1)(images(channels=1)).shape == (2, 1)
    with pytest.raises(UserError, match=r"set classifier\.head=linear"):
        make(name="vit_tiny_patch16_224", head="talukdar")


def test_talukdar_head_fits_where_two_positions_are_left() -> None:
    network = make(name="inception_v3", image_size_px=128, head="talukdar", frozen=True)
    assert network.head[0].in_channels == 2048
    assert network.head[3].in_features == 256 * 2 * 2


def test_frozen_body_never_moves() -> None:
    network = make(head="talukdar", frozen=True)
    before = {k: v.clone() for k, v in network.body.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.01)
    network.train()
    assert network.head.training and not any(m.training for m in network.body.modules())
    for _ in range(2):
        features = network.features(images(n=4))
        assert not features.requires_grad
        optimizer.zero_grad()
        network(images(n=4)).sum().backward()
        optimizer.step()
    assert all(p.grad is None for p in network.body.parameters())
    assert all(p.grad is not None for p in network.head.parameters())
    after = network.body.state_dict()
    assert not [k for k in before if not torch.equal(before[k], after[k])]


def test_unfrozen_batch_statistics_do_move() -> None:
    network = make()
    before = network.body.bn1.running_mean.clone()
    network(images())
    assert network.body.training and not torch.equal(before, network.body.bn1.running_mean)


def test_heat_maps_reach_a_frozen_body() -> None:
    network = make(frozen=True).eval()
    seen = []

    def watch(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[0]

    network.get_submodule(network.last_conv).register_forward_hook(watch)
    network(images()).sum().backward()
    assert seen[0].shape == (2, 512, 2, 2) and seen[0].grad is not None and seen[0].grad.abs().sum() > 0


@pytest.mark.parametrize("form", ["plain", "lightning", "ddp", "classifier"])
def test_local_weights(tmp_path: Path, form: str) -> None:
    torch.manual_seed(7)
    saved = timm.create_model("resnet18", pretrained=False, num_classes=14)
    state = saved.state_dict()
    content: dict[str, Any] = {
        "plain": state,
        "lightning": {"state_dict": {f"network.body.{k}": v for k, v in state.items()}, "epoch": 3},
        "ddp": {f"module.{k}": v for k, v in state.items()},
        "classifier": {"model": {f"backbone.{k}": v for k, v in state.items()}},
    }[form]
    file = tmp_path / "weights.pth"
    torch.save(content, file)
    network = make(checkpoint_path=file, pretrained=True)  # a file replaces the download
    assert network.weights == str(file)
    assert torch.equal(network.body.layer4[1].conv2.weight, saved.layer4[1].conv2.weight)
    gray = make(checkpoint_path=str(file), channels=1)
    torch.testing.assert_close(gray.body.conv1.weight, saved.conv1.weight.sum(dim=1, keepdim=True))


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    saved = timm.create_model("resnet18", pretrained=False)
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    network = make(checkpoint_path=tmp_path / "w.safetensors")
    assert torch.equal(network.body.conv1.weight, saved.conv1.weight)
    (tmp_path / "bad.safetensors").write_bytes(b"12345678nothing")
    with pytest.raises(UserError, match="checkpoint_path"):
        make(checkpoint_path=tmp_path / "bad.safetensors")


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        make(checkpoint_path=tmp_path / "none.pth")
    torch.save(timm.create_model("resnet26", pretrained=False).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match="fits another network"):
        make(checkpoint_path=tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("not tensors")
    with pytest.raises(UserError, match="no file of plain tensors"):
        make(checkpoint_path=tmp_path / "text.pth")
    torch.save({"state_dict": Path("code that would run")}, tmp_path / "code.pth")
    with pytest.raises(UserError, match="no file of plain tensors"):
        make(checkpoint_path=tmp_path / "code.pth")


def test_offline_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_fetchable", lambda config: False)
    with pytest.raises(UserError, match="cannot be reached") as caught:
        make(pretrained=True)
    message = str(caught.value)
    assert "classifier.checkpoint_path=" in message and "classifier.pretrained=false" in message
    assert "\n" not in message


def test_a_download_that_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("connection reset\nmore lines")

    monkeypatch.setattr(weights, "_fetchable", lambda config: True)
    monkeypatch.setattr(timm, "create_model", broken)
    with pytest.raises(UserError, match="connection reset") as caught:
        make(pretrained=True)
    assert "classifier.pretrained=false" in str(caught.value) and "\n" not in str(caught.value)


def test_unreachable_server_is_found_out_before_the_clients_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens
    assert not weights._fetchable(timm.get_pretrained_cfg("resnet18"))


@pytest.mark.parametrize(("name", "hint"), [("resnet81", "did you mean 'resnet"), ("zzzz", "timm")])
def test_unknown_name(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint) as caught:
        make(name=name)
    assert len(str(caught.value)) < 200


def test_random_weights_say_so() -> None:
    assert make().weights == "random"
