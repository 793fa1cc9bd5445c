"""A finished classifier run of ours as the extractor: features that know the domain.

`softmax` is the released script of the acrnet authors: FID and IS on a three-class network's answers. `penultimate`,
what goes into the last dense layer, is what papers call domain features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cxr.errors import UserError
from cxr.extractor.base import Extractor
from cxr.files import file_sha256
from cxr.run import finished_run, model_key
from cxr.task.checkpoint import load_task

__all__ = ["RunExtractor"]


class RunExtractor(Extractor):
    """The network of a classifier run, in evaluation mode, on images of the size that it was trained on.

    Attributes:
        run_dir, config, checkpoint, sha256: where it comes from.
        exclusive: its classes exclude each other, so that its probabilities sum to 1.
    """

    def __init__(
        self,
        *,
        run: str | None,
        runs_dir: str,
        checkpoint: Literal["last", "best"],
        features: Literal["softmax", "logits", "penultimate"],
    ) -> None:
        """Load it.

        Args:
            run: its folder below `runs_dir`; score.py puts its own `run` where this is None.
            features: probabilities, logits, or what goes into the last dense layer.

        Raises:
            UserError: no such run, not finished, a GAN's, independent labels where `features` is softmax.
        """
        if run is None:
            raise UserError(
                "extractor.run: none is named; expected a finished classifier run; set extractor.run=NAME"
            )
        self.run_dir = Path(runs_dir) / run
        self.config, self.checkpoint = finished_run(self.run_dir, checkpoint)
        if not isinstance(self.config.get("classifier"), dict):
            raise UserError(f"{self.run_dir}: not a classifier run, and features come from one; set extractor=inception, "
                            "or extractor.run=… to a classifier")  # fmt: skip
        self.exclusive = not self.config["data"].get("multi_label")
        if features == "softmax" and not self.exclusive:
            raise UserError(f"{self.run_dir}: its labels are independent, expected one class per image, whose probabilities "
                            "sum to 1; set extractor.features=penultimate, or extractor.run=… to another")  # fmt: skip
        self.sha256 = file_sha256(self.checkpoint)
        self.network = self.task = load_task(self.config, self.checkpoint)
        self.task.eval()
        self.name, self.layer = f"{model_key(self.config['classifier'])}@{self.sha256[:8]}", features
        self._size_px = self.task.network.image_size_px
        self._head = _last_dense(self.task.network, self.task.network.n_outputs)
        self.protocol: dict[str, Any] = {
            "extractor": f"run {self.run_dir.name}",
            "weights_sha256": self.sha256,
            "dimensions": {
                "softmax": len(self.task.classes),
                "logits": self.task.network.n_outputs,
                "penultimate": self._head.in_features if self._head is not None else None,
            }[features],
            "layer": features,
            "input_px": self._size_px,
            "resize": "none: images of another size are refused",
            "quantisation": "uint8 to [-1, 1], nothing is rounded",
            "channels": f"one, repeated to {self.task.network.channels}",
            "range": "[-1, 1]",
            "mode": "eval",  # the acrnet authors' scripts leave theirs in training mode
        }
        if features == "penultimate" and self._head is None:
            raise UserError(f"{self.run_dir}: its network does not end in a dense layer, and has no penultimate features; "
                            "set extractor.features=logits")  # fmt: skip

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map uint8 (B, 1, S, S) to float32 features (B, d) and logits (B, n_classes), whose softmax is its answer.

        Of two classes with one output the logits are (0, z); independent labels have none.

        Raises:
            UserError: images of another size than it was trained on.
        """
        if images.shape[-1] != self._size_px:
            raise UserError(f"extractor.run: {self.run_dir.name} takes images of {self._size_px} px, got {images.shape[-1]} px; "
                            "set extractor.run=… to a classifier of that size, or extractor=inception")  # fmt: skip
        logits, before = self._forward(images)
        features = {"penultimate": before, "logits": logits}.get(self.layer)
        if features is None:
            features = self.task.probabilities(logits)
        if not self.exclusive:
            return features, None
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return features, logits

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the task's logits (B, n_outputs) and what goes into the last dense layer (B, d), if there is one."""
        seen: list[Tensor] = []
        if self._head is None:
            return self.task(images), None
        hook = self._head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self.task(images)
            return logits, seen[-1].flatten(1).float()
        finally:
            hook.remove()


def _last_dense(network: nn.Module, n_outputs: int) -> nn.Linear | None:
    """Return the dense layer that makes the logits: in all our networks the last one of the module."""
    dense = [m for m in network.modules() if isinstance(m, nn.Linear)]
    return dense[-1] if dense and dense[-1].out_features == n_outputs else None
