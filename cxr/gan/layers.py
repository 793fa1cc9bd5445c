"""What several generators and discriminators are made of: first weights, sizes, transposed convolutions, classes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import conv_transpose2d

from cxr.errors import UserError

__all__ = [
    "ConditionalBatchNorm",
    "Init",
    "MinibatchStd",
    "Projection",
    "base_px",
    "in_turn",
    "initialise",
    "transposed_conv",
]

Init = Literal["glorot", "dcgan"]


def base_px(image_size_px: int, halvings: int, where: str) -> int:
    """Return the side of the smallest map, or tell why there is none."""
    base, rest = divmod(image_size_px, int(2**halvings))
    if halvings < 1 or base < 1 or rest:
        raise UserError(
            f"{where}: {image_size_px} px cannot be halved {halvings} times (one halving per width); "
            f"set {where}.widths or {where}.image_size_px so that it divides by 2^halvings"
        )
    return base


def initialise(module: nn.Module, init: Init, seed: int) -> None:
    """Draw every weight from one generator and zero the biases.

    glorot: the default of Keras. dcgan (Radford et al. 2016): N(0, 0.02), gains of batch norms N(1, 0.02).
    """
    generator = Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            if init == "glorot":
                nn.init.xavier_uniform_(layer.weight, generator=generator)
            else:
                nn.init.normal_(layer.weight, 0.0, 0.02, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, 0.0, 0.02, generator=generator)
        elif isinstance(layer, nn.BatchNorm2d) and layer.affine and init == "dcgan":
            nn.init.normal_(layer.weight, 1.0, 0.02, generator=generator)


def transposed_conv(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a transposed convolution, its bias by itself: (B, C, H, W) → (B, C', sH, sW).

    oneDNN's backward pass takes twice as long for weight and bias as for the weight alone (CPU, torch 2.13:
    26 against 13 ms an image at 256 → 512 maps), and a sum over the gradient takes 0.5 ms.
    """
    assert isinstance(layer, nn.ConvTranspose2d) and layer.bias is not None
    y = conv_transpose2d(x, layer.weight, None, layer.stride, layer.padding, layer.output_padding)  # type: ignore[arg-type]  # padding is never a word here
    return y.add_(layer.bias.to(y.dtype).view(1, -1, 1, 1))


def in_turn(layers: nn.Sequential, x: Tensor, labels: Tensor | None) -> Tensor:
    """Apply layers one after the other, and tell those that are conditional the classes int64 (B,)."""
    for layer in layers:
        x = layer(x, labels) if isinstance(layer, ConditionalBatchNorm) else layer(x)
    return x


class ConditionalBatchNorm(nn.Module):
    """Batch norm whose gain and shift are a class's own (Dumoulin et al. 2017, de Vries et al. 2017).

    Gains begin at 1 and shifts at 0: an unconditional batch norm.
    """

    def __init__(self, n_classes: int, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.gain = nn.Parameter(torch.ones(n_classes, width))
        self.shift = nn.Parameter(torch.zeros(n_classes, width))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Normalise (B, C, H, W) by class: int64 (B,), or the classes' weights float (B, K), which blend them."""
        gain, shift = (
            table[labels] if labels.dtype == torch.int64 else labels @ table
            for table in (self.gain, self.shift)
        )
        y: Tensor = self.norm(x)
        return torch.addcmul(shift[:, :, None, None].to(y.dtype), y, gain[:, :, None, None].to(y.dtype))


class MinibatchStd(nn.Module):
    """Adds a map that says how much the images of a group differ (Karras et al. 2018, section 3): D sees a collapse.

    Groups are of `group` images, or of the most that divides the batch.
    """

    def __init__(self, group: int = 4) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C + 1, H, W): the standard deviation over a group, its mean over all else."""
        n, _, h, w = x.shape
        size = next(g for g in range(min(self.group, n), 0, -1) if n % g == 0)
        groups = x.float().reshape(n // size, size, -1)
        spread = (groups.var(dim=1, correction=0) + 1e-8).sqrt().mean(dim=1)
        maps = spread.to(x.dtype).repeat_interleave(size)[:, None, None, None].expand(n, 1, h, w)
        return torch.cat((x, maps), dim=1)


class Projection(nn.Module):
    """What a class adds to the logit: its vector times the features, summed over places (Miyato & Koyama 2018)."""

    def __init__(self, n_classes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_classes, width)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Map features (B, C, H, W) and classes int64 (B,) to float32 (B,)."""
        return (self.embedding(labels) * features.float().sum(dim=(2, 3))).sum(dim=1)  # type: ignore[no-any-return]  # Module.__call__ is Any
