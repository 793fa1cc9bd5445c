"""Ending training on a signal, after a whole step and with its checkpoint, so that resuming loses nothing.

SIGTERM (a scheduler, a service manager), SIGUSR2 (submitit, ahead of a time limit) and SIGINT (Ctrl-C) mean the
same: stop at the end of this optimiser step. Before training there is nothing to save, and they stop it at once.
A second Ctrl-C stops at once anywhere; checkpoints and caches are renamed when whole, so nothing is left in half.

A score that is due at that step, and a validation that has begun, are still computed before the checkpoint is
saved: the resumed run would not compute them again, and its curves would differ from those of a run never stopped.

Lightning answers SIGTERM by an exception at the end of the batch, which saves nothing, and under DDP by a collective
inside the signal's handler; it is not asked: the signals are taken back from it when training starts.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from cxr.run.signals import STOPS, stop_if_heard
from cxr.task.calls import BetweenSteps

__all__ = ["StopOnSignal", "Stopped"]


class Stopped(SystemExit):
    """Leaves the loops after a checkpoint within an epoch; its text is `stopped by SIGTERM` or the like."""


class StopOnSignal(Callback, BetweenSteps):
    """Listens within `with`, and as a callback, the first of all, ends training where all processes can.

    One process looks at every step. Several must stop at the same step although they hear at different times, or
    only one of them hears: every `every_n_steps` batches they add up their flags, on the CPU (gloo) and without waiting;
    the sum is read that many batches later, when it has long arrived, so no step waits for it. With several steps in a
    call (cxr/task/calls.py) that is at the end of a call.

    Attributes:
        heard: the name of the first signal; None: go on.
    """

    def __init__(self, *, every_n_steps: int = 8) -> None:
        """Take how often processes agree.

        Args:
            every_n_steps: they stop at most twice as many batches after the signal (and two calls): 16 are seconds, and
                a scheduler leaves at least 30 s; smaller values only add messages (about 0.1 ms each).
        """
        self.every_n_steps = every_n_steps
        self.heard: str | None = None
        self._pid = os.getpid()
        self._ctrl_c = 0
        self._graceful = False  # training has begun: its next whole step is worth waiting for
        self._stopping = False  # all processes know
        self._asked_at = 0  # batches of the training when the processes last asked each other
        self._group: Any = None
        self._flag = torch.zeros(1)
        self._sum: Any = None  # the sum of flags that is under way
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopOnSignal:
        """Listen. Outside the main thread Python gives no signals; an ignored SIGINT (`command &`) stays so."""
        stop_if_heard()
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.getsignal(n) for n in STOPS}
            if self._before[signal.SIGINT] == signal.SIG_IGN:
                del self._before[signal.SIGINT]
        self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            if handler is not None:  # None: not set from Python, and cannot be
                signal.signal(number, handler)
        self._before = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """From here on wait for the step's end."""
        loop: Any = trainer.fit_loop.epoch_loop
        self._asked_at = loop.batch_progress.total.ready
        if trainer.world_size > 1:
            self._group = dist.new_group(backend="gloo")
            # Before each batch Lightning broadcasts whether rank 0 has had SIGTERM and reads the answer back,
            # which stalls a GPU; it never has, as the signal is ours.
            loop._broadcast_sigterm_tensor = lambda: None
        self._listen()
        self._graceful = True

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Tell the trainer to stop after a whole step; within an epoch the checkpoints' own hook then saves."""
        parts = (batch_idx + 1) % trainer.accumulate_grad_batches or getattr(
            pl_module, "in_accumulation", False
        )
        if parts and not trainer.is_last_batch:
            return
        if self._agreed(trainer):
            self._stopping = trainer.should_stop = True

    def ends_call(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> bool:
        """Say whether this process, being the only one, was told to stop, and the step is whole."""
        return self.heard is not None and self._group is None and not getattr(task, "in_accumulation", False)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Spare the validation that Lightning runs because it was told to stop within an epoch."""
        self._leave(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Leave, if within the epoch; at its end stop too if a signal came since the last step (in validation)."""
        self._leave(trainer)
        heard = self.heard is not None
        if self._group is not None:
            self._settle()
            flag = torch.tensor([float(heard)])
            dist.all_reduce(flag, group=self._group)
            heard = bool(flag.item())
        if heard:
            self._stopping = trainer.should_stop = True

    @property
    def reason(self) -> str:
        """What stopped it; another process may have heard it."""
        return f"stopped by {self.heard or 'a signal to another process'}"

    @property
    def stopped(self) -> bool:
        """Whether training was told to stop here."""
        return self._stopping

    def _listen(self) -> None:
        for number in self._before:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a data worker in its first moments: its parent ends it
        first = self.heard is None
        self.heard = self.heard or signal.Signals(number).name
        self._ctrl_c += number == signal.SIGINT
        if not self._graceful or self._ctrl_c > 1:
            raise KeyboardInterrupt(self.reason)
        if first:  # print() here could meet a print() that the signal interrupted
            os.write(2, f"\n{self.heard}: stops at the end of this step (Ctrl-C again: at once)\n".encode())

    def _agreed(self, trainer: lightning.Trainer) -> bool:
        if self._group is None:
            return self.heard is not None
        done: int = trainer.fit_loop.epoch_loop.batch_progress.total.ready  # the same on every process
        if done - self._asked_at < self.every_n_steps:
            return False
        self._asked_at = done
        if self._settle():
            return True
        self._flag.fill_(float(self.heard is not None))
        self._sum = dist.all_reduce(self._flag, group=self._group, async_op=True)
        return False

    def _settle(self) -> bool:
        """Wait for the sum under way, if any, and say whether anyone has heard a signal."""
        if self._sum is None:
            return False
        self._sum.wait()
        self._sum = None
        return bool(self._flag.item())

    def _leave(self, trainer: lightning.Trainer) -> None:
        if self._stopping and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            raise Stopped(self.reason)
