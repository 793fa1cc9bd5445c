"""Batch norm folded into the convolution before it: in evaluation mode both are one affine map.

torch-fidelity's Inception has 94 pairs of them; folded, and with images held channels last, a pass on a CPU takes less
than two thirds of the time. The weights are folded in float64 and rounded once, so that a feature moves by no more than
float32's own rounding does (some 1e-7, either way from the network in float64).
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["fold_batch_norm"]


def fold_batch_norm(network: nn.Module) -> int:
    """Fold each `bn` into the `conv` beside it, in place, in evaluation mode; return how many there were."""
    folded = 0
    for module in network.modules():
        conv, norm = getattr(module, "conv", None), getattr(module, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            dtype = conv.weight.dtype
            module.conv = fuse_conv_bn_eval(conv.double().eval(), norm.double().eval()).to(dtype)
            module.bn = nn.Identity()
            folded += 1
    return folded
