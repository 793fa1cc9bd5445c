"""16-bit training of two networks: one loss scale, unscaled before clipping, moved once per step (Micikevicius 2018).

Lightning's precision plugin moves the scale whenever an optimiser steps. With two optimisers and accumulated parts
that would change it between the parts of G's gradient. So the plugin scales the losses (`manual_backward`), keeps the
scaler's state in checkpoints, and everything else is done here. Without a scaler (float32, bfloat16) a step is a step.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from cxr.errors import UserError
from cxr.task.step_guard import StepGuard, finite_gradients

__all__ = ["bare_step", "end_step", "leave_out_spoilt", "plain_steps", "scaler_of", "step"]

HOOKS = ("on_before_backward", "on_after_backward", "backward", "on_before_optimizer_step", "optimizer_step")
_HOOKS_OF_ALL = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
SMALLEST = 1.0  # below it, gradients as they are overflow 16 bits: no scale would help


def step(
    optimizer: Optimizer | LightningOptimizer,
    network: nn.Module,
    trainer: lightning.Trainer,
    clip_grad_norm: float | None,
    guard: StepGuard | None = None,
    plain: bool = False,
) -> bool:
    """Clip and step; return False where a gradient overflowed and the step was left out.

    Without a scaler it is left out only where the guard skips; the guard then has its whole step spoilt.

    A LightningOptimizer's steps are counted by the trainer, those left out are not. plain: see `plain_steps`; it is then
    stepped itself, as Lightning would wrap the step into a closure and ask every callback.
    """
    scaler = None if plain else scaler_of(trainer)
    raw = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
    if scaler is not None:
        scaler.unscale_(raw)
    elif guard is not None and guard.skips and not finite_gradients(network.parameters()):
        guard.spoilt = True
        return False
    if clip_grad_norm is not None:
        nn.utils.clip_grad_norm_(network.parameters(), clip_grad_norm)
    if scaler is None and not plain:
        optimizer.step()
        return True
    if scaler is not None and any(
        found.item() for found in scaler._found_inf_per_device(raw).values()
    ):  # what scaler.step() looks at
        return False
    counted = optimizer if isinstance(optimizer, LightningOptimizer) else None
    if counted is not None:
        counted._on_before_step()
    if scaler is None:
        bare_step(raw)
    else:
        scaler.step(raw)
    if counted is not None:
        counted._on_after_step()
    return True


def end_step(trainer: lightning.Trainer, *, complete: bool) -> None:
    """Move the scale, once for both networks; a UserError where no scale is left to try.

    complete: no step was left out.
    """
    scaler = scaler_of(trainer)
    if scaler is None:
        return
    scaler.update()
    if not complete and scaler.get_scale() < SMALLEST:
        raise UserError(
            "trainer.precision: gradients overflow 16 bits at every loss scale; expected some that do not: "
            "set trainer.precision=bf16-mixed (or 32-true)"
        )


def leave_out_spoilt(
    optimizer: Optimizer, network: nn.Module, trainer: lightning.Trainer, guard: StepGuard, *, mend: str
) -> None:
    """Leave a spoilt step out before Lightning makes it: an optimiser passes over weights without gradients, of any kind.

    For tasks of one network, whose steps are Lightning's own (`on_before_optimizer_step`).
    """
    if not guard.skips:
        return
    scaled = scaler_of(trainer) is not None  # a scaler looks at gradients itself, and needs them to
    if not scaled and not finite_gradients(network.parameters()):
        guard.spoilt = True
    if guard.spoilt:
        guard.undo()
        if not scaled:
            optimizer.zero_grad(set_to_none=True)
    guard.end(trainer, step=trainer.global_step, mend=mend)


def plain_steps(trainer: lightning.Trainer, task: lightning.LightningModule) -> bool:
    """Say whether a backward pass is `loss.backward()`, and a step `optimizer.step()`, and nobody listens to either.

    Then Lightning's `manual_backward` and `LightningOptimizer.step`, which ask every callback before and after, come to
    nothing else: one process, no loss scaler, and no hook of a callback or the task that is more than Lightning's own.
    """
    callbacks: list[lightning.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning's stubs hide it
    hooked = any(is_overridden(hook, one) for hook in HOOKS for one in (task, *callbacks))
    return trainer.world_size == 1 and scaler_of(trainer) is None and not hooked


def bare_step(optimizer: Optimizer) -> None:
    """Step, beneath what torch wraps around `step`: a label for its profiler, and hooks, as long as there are none.

    The wrapping takes a third of a small network's step.
    """
    kind: Any = type(optimizer)
    own, step = vars(optimizer), _unwrapped(kind)
    hooks = (own["_optimizer_step_pre_hooks"], own["_optimizer_step_post_hooks"], *_HOOKS_OF_ALL)
    if step is None or any(hooks) or "step" in own or optimizer.defaults["differentiable"]:
        optimizer.step()
        return
    with torch.no_grad():
        step(optimizer)


@functools.cache
def _unwrapped(kind: Any) -> Callable[[Optimizer], object] | None:
    """Return the step of one of torch's optimisers without its wrappers; None for another's, whose might be needed."""
    return inspect.unwrap(kind.step) if kind.__module__.startswith("torch.optim.") else None


def scaler_of(trainer: lightning.Trainer) -> Any:
    """Return the loss scaler of 16-bit training; None where there is none."""
    return getattr(trainer.precision_plugin, "scaler", None)
