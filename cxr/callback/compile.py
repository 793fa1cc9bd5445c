"""`trainer.compile=true`: the task's networks are compiled by torch.compile, in place.

In place (`nn.Module.compile`), so that nothing has another name: `torch.compile(network)` returns a wrapper whose weights
are `_orig_mod.…`, which no other run could load. Tried on a sum of two numbers first: what is missing (a C++ compiler,
Python's headers) is then told in one line before training, not in forty at its first step.
"""

from __future__ import annotations

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from cxr.errors import UserError

__all__ = ["CompileNetworks", "check_compiler"]

NETWORKS = ("network", "generator", "discriminator")  # as tasks call them


class CompileNetworks(Callback):
    """Compile what the task trains, when its first step calls it."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Try the compiler, then mark the networks; each is compiled at its first call, once a shape."""
        check_compiler(trainer.strategy.root_device)
        for name in NETWORKS:
            if (network := getattr(pl_module, name, None)) is not None:
                getattr(
                    network, "denoiser", network
                ).compile()  # a diffusion model trains that, and samples by it


def check_compiler(device: torch.device) -> None:
    """Compile and run an addition on `device`.

    Raises:
        UserError: torch.compile does not work here.
    """

    def add(x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x) + 1

    try:
        torch.compile(add)(torch.zeros(8, device=device))
    except Exception as error:  # Dynamo's, Inductor's, Triton's, a compiler's
        told = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"trainer.compile: torch.compile does not work here ({told[:160]}); it needs a C++ compiler (g++) and Python's "
            "headers (python3-dev): install them, or set trainer.compile=false"
        ) from None
    finally:
        torch._dynamo.reset()
