"""Inception-v3 as torch-fidelity 0.4 has it, to 1e-6 of a feature: the network that FID, KID and IS are defined on.

The weights are those of TensorFlow's graph of 2015-12-05, converted; torchvision's Inception is another network. Images
stay uint8 until the network, gray repeated to RGB, which resizes them to 299 px as TensorFlow 1 did (bilinear, corners
not aligned, no antialiasing) and maps them to (x - 128) / 128.

It is theirs, with batch norm folded (`cxr.extractor.fold`) and, on a CPU, channels last: the same numbers sooner.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cxr.errors import UserError
from cxr.extractor.base import Extractor
from cxr.extractor.fold import fold_batch_norm
from cxr.files import file_sha256

__all__ = ["InceptionExtractor"]

PUBLISHED = "6726825d"  # the start of the published file's SHA-256; also the end of its name


class InceptionExtractor(Extractor):
    """2,048 pooled features, and the 1,008 logits without bias that IS is made from."""

    def __init__(self, *, weights_path: str | None) -> None:
        """`weights_path`: a state dict of torch-fidelity's network; None: the published one, fetched once.

        Raises:
            UserError: no such file, a file of another network, a damaged one, or no way to fetch it.
        """
        file = _published() if weights_path is None else Path(weights_path)
        self.network = self._inception = _load(file)
        self._laid_out_for = ""
        sha256 = file_sha256(file)
        if weights_path is None and not sha256.startswith(PUBLISHED):
            raise UserError(
                f"{file}: damaged (SHA-256 {sha256[:8]}, expected {PUBLISHED}); delete it: it is fetched again"
            )
        self.name, self.layer = f"inception@{sha256[:8]}", ""
        self.protocol: dict[str, Any] = {
            "extractor": "torch-fidelity 0.4 inception-v3-compat",
            "weights_sha256": sha256,
            "layer": "2048",
            "dimensions": 2048,
            "logits": "logits_unbiased",
            "input_px": 299,
            "resize": "bilinear as TensorFlow 1, no antialiasing, in float after uint8",
            "quantisation": "uint8",
            "channels": "one, repeated to 3",
            "range": "(x - 128) / 128",
        }

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 (B, 1, S, S) to float32 features (B, 2048) and logits (B, 1008)."""
        if (
            images.device.type != self._laid_out_for
        ):  # once: channels last is the CPU's; cuDNN in float32 wants NCHW
            last = images.device.type == "cpu"
            self._inception.to(memory_format=torch.channels_last if last else torch.contiguous_format)
            self._laid_out_for = images.device.type
        features, logits = self._inception(images.expand(-1, 3, -1, -1))
        return features, logits


def _published() -> Path:
    """Return the published file, fetched by torch-fidelity's own address if it is not there."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    url = str(URL_INCEPTION_V3)
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), hash_prefix=PUBLISHED, progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(
                "extractor.weights_path: Inception's weights are not on this machine and cannot be fetched "
                f"({str(error)[:80]}); put {url} at {file}, or set extractor.weights_path=FILE"
            ) from error
    return file


def _load(file: Path) -> Any:
    """Return torch-fidelity's network with the weights of a file of plain tensors."""
    if not file.is_file():
        raise UserError(f"extractor.weights_path: {file}: no such file; expected weights-inception-2015-12-05-{PUBLISHED}.pth "
                        "of torch-fidelity; set extractor.weights_path=FILE")  # fmt: skip
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        torch.load(file, weights_only=True, map_location="cpu")  # torch-fidelity would run code from the file
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
        )
    except Exception as error:  # torch raises a dozen kinds for a foreign or broken file
        raise UserError(
            f"extractor.weights_path: {file} is no state dict of torch-fidelity's Inception "
            f"({str(error).splitlines()[0][:100]}); set extractor.weights_path=FILE"
        ) from error
    fold_batch_norm(network)
    return network
