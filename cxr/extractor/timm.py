"""Any network of timm as the extractor: its pooled features, images resized and normalised as it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from timm.data.config import resolve_model_data_config
from torch import Tensor

from cxr.classifier.weights import create_body, load_local
from cxr.errors import UserError
from cxr.extractor.base import Extractor, state_sha256
from cxr.files import file_sha256

__all__ = ["TimmExtractor"]


class TimmExtractor(Extractor):
    """A body of timm without its classifier, gray repeated to RGB, in evaluation mode."""

    def __init__(
        self, *, name: str, pretrained: bool, checkpoint_path: str | None, input_size_px: int | None
    ) -> None:
        """Build it.

        Args:
            name: timm's, with or without its tag, e.g. resnet50.tv_in1k.
            pretrained: fetch the published weights; false without `checkpoint_path`: random ones, and the name says so.
            checkpoint_path: a local file of weights, used in place of the published ones.
            input_size_px: images are resized to it; None: the size that the network was trained at.

        Raises:
            UserError: unknown name; weights that are not there, cannot be fetched or are another network's.
        """
        if input_size_px is not None and input_size_px < 32:
            raise UserError(
                f"extractor.input_size_px: got {input_size_px}, expected 32 or more; set extractor.input_size_px=null"
            )
        fetched = pretrained and checkpoint_path is None
        try:
            size_px = input_size_px or _trained_at(name)
            with torch.random.fork_rng(devices=[]):  # random weights are drawn from the global generator
                torch.manual_seed(0)
                body = create_body(name, size_px, 3, fetched)
            if checkpoint_path is not None:
                load_local(body, Path(checkpoint_path), 3)
        except UserError as error:  # raised in the words of a classifier's keys
            raise UserError(str(error).replace("classifier.", "extractor.")) from error
        self.network = self._body = body.requires_grad_(False).eval()
        settings: dict[str, Any] = resolve_model_data_config(body)  # type: ignore[no-untyped-call]  # timm leaves it so
        self._size_px, self._mean, self._std = size_px, settings["mean"], settings["std"]
        sha256 = state_sha256(body) if checkpoint_path is None else file_sha256(Path(checkpoint_path))
        origin = "published" if fetched else "random" if checkpoint_path is None else "file"
        self.name = f"{name}{'-random' if origin == 'random' else ''}@{sha256[:8]},{size_px}px"
        self.layer = ""
        self.protocol: dict[str, Any] = {
            "extractor": f"timm {timm.__version__} {name}",
            "weights": "random (seed 0)" if origin == "random" else origin,
            "weights_sha256": sha256,
            "layer": "pooled, without the classifier",
            "dimensions": int(cast(Any, body).num_features),
            "input_px": size_px,
            "resize": "bilinear, antialiased, in float, unless of that size",
            "quantisation": "none after resizing",
            "channels": "one, repeated to 3",
            "range": f"[0, 1], less mean {list(self._mean)}, by std {list(self._std)}",
        }

    def answer(self, images: Tensor) -> tuple[Tensor, None]:
        """Map uint8 (B, 1, S, S) to float32 features (B, d)."""
        x = images.float() / 255.0
        if x.shape[-1] != self._size_px:
            x = F.interpolate(x, (self._size_px, self._size_px), mode="bilinear", antialias=True)
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (self._mean, self._std))
        return self._body((x.expand(-1, 3, -1, -1) - mean) / std).flatten(1), None


def _trained_at(name: str) -> int:
    """Return the side of the images that timm's network was trained on; 224 where timm does not say."""
    config = timm.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    return int(config.input_size[-1]) if config is not None else 224
