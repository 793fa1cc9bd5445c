"""What training does about a step whose loss or gradients are not finite: stop, or leave the step out.

`task.on_not_finite=skip` leaves it out whole: weights, optimiser states, batch norm statistics and moving averages stay
as they were before it. How: a loss that is not finite is multiplied by NaN, so that every gradient of that step is NaN,
on every process, since DDP takes their mean. Whoever steps then looks at gradients only, and a 16-bit loss scaler,
which leaves out steps that overflow anyway, needs to be told nothing. With `stop` nothing here costs anything.

With gradients accumulated over several batches, the step is all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cxr.errors import UserError
from cxr.task.distributed import over_ranks

__all__ = ["StepGuard", "finite_gradients", "last_checkpoint", "refuse_broken"]


class StepGuard:
    """Counts the steps that are left out, and knows what they must not change.

    Args:
        policy: `stop`: whoever finds a loss that is not finite ends the run; `skip`: see the module's head.
        max_skipped: steps in a row that may be left out; one more ends the run. At least 0.
    """

    def __init__(self, policy: Literal["stop", "skip"], max_skipped: int) -> None:
        if max_skipped < 0:
            raise UserError(
                f"task.max_skipped: got {max_skipped}, expected 0 or more steps; set task.max_skipped=10"
            )
        self.skips, self.max_skipped = policy == "skip", max_skipped
        self.skipped = 0  # of the whole training
        self.in_a_row = 0
        self.spoilt = False  # the step under way
        self._was: list[tuple[Tensor, Tensor]] = []
        self._optimizer: tuple[Optimizer, dict[Any, dict[str, Any]]] | None = None

    def begin(
        self, networks: Iterable[nn.Module], *, moves_first: tuple[nn.Module, Optimizer] | None = None
    ) -> None:
        """Remember the buffers of networks before the first batch of a step.

        moves_first: a network that is stepped before the whole of the step is known, and its optimiser: a GAN's
            discriminator. They are remembered too.
        """
        if not self.skips:
            return
        self.spoilt = False
        tensors = [buffer for network in networks for buffer in network.buffers()]
        if moves_first is not None:
            network, optimizer = moves_first
            tensors += [p for p in network.parameters() if p.requires_grad]
            state = {p: {k: _copy(v) for k, v in own.items()} for p, own in optimizer.state.items()}
            self._optimizer = (optimizer, state)
        self._was = [(tensor, tensor.detach().clone()) for tensor in tensors]

    def filter(self, loss: Tensor, watched: Sequence[Tensor], trainer: lightning.Trainer) -> Tensor:
        """Return a scalar loss, times NaN if it, anything watched or the step already is spoilt; collective.

        Reads one value back from the device.
        """
        if not self.skips:
            return loss
        bad = ~torch.stack([loss.detach(), *(value.detach() for value in watched)]).isfinite().all()
        self.spoilt = self.spoilt or bool(over_ranks(bad.float(), trainer, "sum") > 0)
        return loss * float("nan") if self.spoilt else loss

    def undo(self) -> None:
        """Put back what `begin` remembered."""
        with torch.no_grad():
            for tensor, before in self._was:
                tensor.copy_(before)
        if self._optimizer is not None:
            optimizer, state = self._optimizer
            for parameter in list(optimizer.state):
                if parameter in state:
                    optimizer.state[parameter] = state[parameter]
                else:  # its first step was this one
                    del optimizer.state[parameter]

    def end(self, trainer: lightning.Trainer, *, step: int, mend: str) -> None:
        """Count the step that has ended here; the same on every process.

        Raises:
            UserError: too many in a row were left out.
        """
        self._was, self._optimizer = [], None
        if not self.spoilt:
            self.in_a_row = 0
            return
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row > self.max_skipped:
            raise UserError(
                f"training was not finite in {self.in_a_row} steps in a row, the last is step {step} "
                f"(task.max_skipped={self.max_skipped}); last good checkpoint: {last_checkpoint(trainer)}; {mend}"
            )

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Put the counters into a checkpoint; nothing where nothing is skipped."""
        if self.skips:
            checkpoint["skipped_steps"] = {"total": self.skipped, "in_a_row": self.in_a_row}

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Take the counters back."""
        if (state := checkpoint.get("skipped_steps")) is not None:
            self.skipped, self.in_a_row = int(state["total"]), int(state["in_a_row"])


def finite_gradients(parameters: Iterable[nn.Parameter]) -> bool:
    """Say whether no gradient holds NaN or infinity; by the largest magnitude of each, which cannot overflow."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return True
    return bool(torch.stack(torch._foreach_norm(gradients, float("inf"))).isfinite().all())


def last_checkpoint(trainer: lightning.Trainer, absent: str = "none yet") -> str:
    """Return the newest checkpoint that a callback of this run knows of; `absent` where there is none."""
    callback = trainer.checkpoint_callback
    paths = [getattr(callback, name, "") for name in ("last_model_path", "best_model_path")]
    return str(next((path for path in paths if path), absent))


def refuse_broken(task: lightning.LightningModule, mend: str) -> None:
    """Refuse to save weights or batch norm statistics that are not finite: the last good checkpoint would be lost.

    A finite loss does not rule them out: the step after it may have had gradients that were not.
    """
    values: dict[str, Tensor] = dict(task.named_parameters())
    values |= {k: b for k, b in task.named_buffers() if k.endswith(("running_mean", "running_var"))}
    bad = next((k for k, v in values.items() if v.is_floating_point() and not v.isfinite().all()), None)
    if bad is not None:
        raise UserError(
            f"the weights are not finite after step {task.trainer.global_step} ({bad}), and are not saved; "
            f"last good checkpoint: {last_checkpoint(task.trainer)}; {mend}"
        )


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
