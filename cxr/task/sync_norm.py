"""Batch norms that see the batch of all processes (`trainer.sync_batchnorm`), on a GPU and on a CPU.

On a GPU they are torch's SyncBatchNorm. That refuses a CPU, and so does DDP for its sake, but there two processes are
tried out and compared with one. There the statistics are two sums over all processes, mean first and squared
distances from it second, as stable as those of a single process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce as _all_reduce

all_reduce: Callable[[Tensor], Tensor] = _all_reduce  # with a gradient; torch gives it no types

__all__ = ["SyncBatchNorm", "SyncedBatchNorms"]


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Normalise, on a CPU, x (B, C, …) by the mean and the variance of all processes' batches, which may differ in size."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name is torch's
        """Return a tensor of the shape and type of `input`; moves the running statistics while training."""
        alone = not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1
        if not self.training or alone:
            return super().forward(input)
        x = input.float()
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [-1 if d == 1 else 1 for d in range(x.dim())]
        n = x.numel() / x.shape[1]
        total: Tensor = all_reduce(torch.cat((x.sum(dims), x.new_tensor([n]))))
        n_all = total[-1].detach()
        mean = total[:-1] / n_all
        centred = x - mean.view(shape)
        variance: Tensor = all_reduce(centred.square().sum(dims)) / n_all
        self._move_running(mean.detach(), (variance * n_all / (n_all - 1)).detach())
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  # the name is torch's
        """Take any number of dimensions from 2 on."""

    @torch.no_grad()
    def _move_running(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class SyncedBatchNorms(TorchSyncBatchNorm):
    """The Lightning plugin that converts a model's batch norms when several processes train it."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Convert the layers of a LightningModule, parameters and statistics kept; return it."""
        model = super().apply(model)
        on_cpu = cast(lightning.LightningModule, model).trainer.strategy.root_device.type == "cpu"
        for layer in model.modules() if on_cpu else ():
            if type(layer) is nn.SyncBatchNorm:
                cast(
                    Any, layer
                ).__class__ = SyncBatchNorm  # the same state; torch's conversion names its own class
        return model
