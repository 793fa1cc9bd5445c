"""Where a backbone's weights come from: timm's published files, a local file, or nowhere."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import timm
from timm.models import adapt_input_conv, load_state_dict, split_model_name_tag
from torch import Tensor, nn

from cxr.errors import UserError, did_you_mean

__all__ = ["create_body", "load_local"]

# What trainers put before a backbone's own names; ours is the first.
PREFIXES = ("network.body.", "body.", "model.", "backbone.", "encoder.", "net.")
WAYS_OUT = "classifier.checkpoint_path=FILE (a local file) or classifier.pretrained=false (random weights)"


def create_body(name: str, image_size_px: int, channels: int, pretrained: bool) -> nn.Module:
    """Return timm's network `name` without its classifier, with published weights if `pretrained`.

    Raises:
        UserError: unknown name; weights that do not exist or cannot be fetched.
    """
    architecture = split_model_name_tag(name)[0]
    if not timm.is_model(architecture):
        raise UserError(f"classifier.name: timm has no '{name}'{_nearest(architecture)}")
    config = timm.get_pretrained_cfg(name) if pretrained else timm.get_pretrained_cfg(architecture)
    # Networks with learnt positions are built for one size; the others take any and know no img_size.
    fixed = config is not None and config.fixed_input_size
    size: dict[str, Any] = {"img_size": image_size_px} if fixed else {}
    if pretrained and not _fetchable(config):
        raise UserError(
            f"classifier.pretrained: the weights of '{name}' are not on this machine and the server that "
            f"publishes them cannot be reached; set {WAYS_OUT}"
        )
    try:
        body = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=channels, **size)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        reason = str(error).splitlines()[0]
        raise UserError(
            f"classifier.pretrained: no weights for '{name}' ({reason}); set {WAYS_OUT}"
        ) from error
    assert isinstance(body, nn.Module)
    return body


def load_local(body: nn.Module, path: Path, channels: int) -> None:
    """Load a file of tensors (.pth, .ckpt, .safetensors) into `body`; nothing may stay random.

    Takes a plain state dict, or one under `state_dict`, `model` or their EMA forms, with or without a
    trainer's prefix; a head in the file is left out. Never runs code from the file.

    Raises:
        UserError: no such file, not tensors, or tensors of another network.
    """
    if not path.is_file():
        raise UserError(f"classifier.checkpoint_path: {path}: no such file; set {WAYS_OUT}")
    try:
        state: dict[str, Any] = load_state_dict(str(path), use_ema=True, device="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a foreign or broken file, safetensors its own
        if type(error).__name__ == "SafetensorError":
            raise UserError(
                f"classifier.checkpoint_path: {path} is damaged ({error}); fetch it again"
            ) from error
        told = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"classifier.checkpoint_path: {path} is no file of plain tensors "
            f"({told}); save the network's state_dict() and name that file"
        ) from error
    if not isinstance(state, dict):
        raise UserError(
            f"classifier.checkpoint_path: {path} holds a {type(state).__name__}; expected a network's state_dict()"
        )
    own = body.state_dict()
    found = _match(own, state, channels)
    missing = [k for k in own if k not in found and not k.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"classifier.checkpoint_path: {path} fits another network: {len(missing)} of {len(own)} tensors "
            f"missing or of another shape, e.g. {missing[0]}; set classifier.name=… to the network it is of"
        )
    body.load_state_dict(found, strict=False)


def _match(own: dict[str, Tensor], state: dict[str, Any], channels: int) -> dict[str, Tensor]:
    """Return the tensors of `state` that fit `own`, under the prefix that fits best."""

    def under(prefix: str) -> dict[str, Tensor]:
        named = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        return {k: v for k, v in named.items() if k in own and isinstance(v, Tensor)}

    found = max((under(prefix) for prefix in ("", *PREFIXES)), key=len)
    if channels == 1:  # weights learnt on RGB: their sum sees gray as RGB's three equal channels
        found = {
            k: adapt_input_conv(1, v) if v.ndim == 4 and v.shape[1] == 3 and own[k].shape[1] == 1 else v
            for k, v in found.items()
        }
    return {k: v for k, v in found.items() if v.shape == own[k].shape}


def _nearest(architecture: str) -> str:
    hint = did_you_mean(architecture, timm.list_models())
    return hint if len(hint) < 100 else "; timm.list_models() names them all, e.g. resnet50, densenet121"


def _fetchable(config: Any) -> bool:
    """Say whether weights are in the cache or their server answers: its client retries for a minute."""
    if config is None or not config.hf_hub_id:
        return True  # another host, or no weights at all: timm says so at once
    import huggingface_hub
    from huggingface_hub import constants

    names = [config.hf_hub_filename, "model.safetensors", "pytorch_model.bin"]
    hub_id = str(config.hf_hub_id).partition("@")[0]
    if any(isinstance(huggingface_hub.try_to_load_from_cache(hub_id, n), str) for n in names if n):
        return True
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5):
            return True
    except urllib.error.HTTPError:
        return True  # it answered
    except OSError:
        return False
