"""What every classifier tells about itself, and Keras' initialisation, which the papers trained from."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

__all__ = ["Classifier", "Init", "initialise"]

Init = Literal["keras", "torch"]


class Classifier(nn.Module):
    """A network from square images (B, channels, H, W) in [-1, 1] to logits (B, n_outputs)."""

    image_size_px: int
    channels: int
    n_outputs: int
    weights: str
    """Where the first weights came from: `random`, `pretrained` or a file; tables mark `random`."""
    last_conv: str
    """Name (for `get_submodule`) of the module whose output is the last feature map (B, C, h, w)."""
    frozen: bool = False
    """Whether `encode` never changes while it trains; then `forward` is `decode` after `encode`."""

    def encode(self, images: Tensor) -> Tensor:
        """Map images (B, channels, H, W) in [-1, 1] to what the first layer that learns takes (B, …)."""
        raise NotImplementedError(f"{type(self).__name__} has no frozen part")

    def decode(self, features: Tensor) -> Tensor:
        """Map what `encode` returns to logits (B, n_outputs)."""
        raise NotImplementedError(f"{type(self).__name__} has no frozen part")


def initialise(module: nn.Module, init: Init) -> None:
    """Set the weights of all convolutions and dense layers below `module`.

    `keras`: Glorot uniform and zero bias, Keras' default, hence what a paper that names Keras and
    no initialiser used. `torch`: as PyTorch made them (uniform, ±1/√fan_in, biases too).
    Draws from PyTorch's global generator, as layers do: seed it before the network is built.
    """
    if init == "torch":
        return
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
