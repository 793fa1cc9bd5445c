"""Adversarial training: one generator pass, a step of D on its images, a step of G on the same images.

A discriminator with batch norms or a minibatch statistic sees real and fake images in two passes, as a batch of both
would judge one by the other (Radford et al. 2016); one without sees them in one, which is faster and the same.

Counters are ours. Lightning counts every optimiser's steps, so with two optimisers `global_step` would run
twice as fast as the training; here only G's steps pass through Lightning, D's optimiser is stepped directly,
and `global_step` equals `g_steps`. The moving average of G is by images seen, not by steps: batch size and
number of processes do not change its meaning.

Several processes do what one would with their batches put together: image i of the whole batch is paired with the
same latent, batch norms see all of it with `trainer.sync_batchnorm=true`, and losses and logits are logged as means
over all processes. Only dropout, augmentation and instance noise differ, since each process draws its own, and a
minibatch statistic is of a process's images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar, Literal, cast

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cxr.data.convert import to_float
from cxr.errors import UserError
from cxr.gan.latent import mix_seed
from cxr.gan.layers import MinibatchStd
from cxr.task.average import MovingAverage, ema_decay
from cxr.task.calls import Calls
from cxr.task.distributed import over_ranks, share_buffers, without_exchange
from cxr.task.log_now import log_now
from cxr.task.loss_scale import end_step, plain_steps, step
from cxr.task.regulariser import Regulariser, normalise_spectrum
from cxr.task.sampling import LatentsAhead, gan_record, sample_images
from cxr.task.step_guard import StepGuard, last_checkpoint, refuse_broken

__all__ = ["GANTask", "ema_decay", "sample_images"]

_MEND = "lower task.optimizer_g.lr and task.optimizer_d.lr or set task.clip_grad_norm=1"
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # images and latents are made in float32


class GANTask(lightning.LightningModule):
    """Train a generator and a discriminator on the images it is given; labels are not looked at.

    One GAN per class is the same task on that class's rows only. `classes` is a record of what it was given.
    """

    logged: ClassVar[tuple[str, ...]] = ("loss_d", "loss_g", "logit_real", "logit_fake")
    conditional: ClassVar[bool] = False  # whether the generator is told a class

    def __init__(
        self,
        *,
        generator: nn.Module,
        discriminator: nn.Module,
        loss_g: Callable[[Tensor], Tensor],
        loss_d: Callable[[Tensor, Tensor], Tensor],
        optimizer_g: Callable[[Iterable[nn.Parameter]], Optimizer],
        optimizer_d: Callable[[Iterable[nn.Parameter]], Optimizer],
        clip_grad_norm: float | None,
        accumulate: int,
        ema_half_life_images: int | None,
        ema_rampup: float | None,
        channels_last: bool,
        classes: list[str],
        seed: int,
        on_not_finite: Literal["stop", "skip"] = "stop",
        max_skipped: int = 10,
        steps_per_call: int = 1,
        regulariser: Regulariser | None = None,
    ) -> None:
        """Take built networks, losses on logits, and optimisers that still want their parameters.

        regulariser: of D; None: none.
        on_not_finite: of a loss, mean logit or gradient: `stop` ends the run, `skip` leaves the step of both out.
        max_skipped: in a row; one more ends the run.
        steps_per_call: of `training_step`, at most; changes speed, and no result: see cxr/task/calls.py.
        """
        super().__init__()
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            if getattr(network, "n_classes", None) is not None and not self.conditional:
                raise UserError(
                    f"gan.{name}: wants to be told a class, which task=gan does not; set task=acgan or task=projection"
                )
        self.automatic_optimization = False
        self.regulariser = regulariser
        if regulariser is not None and regulariser.spectral_norm:
            normalise_spectrum(discriminator, seed)
        self.generator, self.discriminator = generator, discriminator
        if channels_last:
            for network in (generator, discriminator):
                cast(Any, network).to(memory_format=torch.channels_last)
        self._two_passes = any(
            isinstance(m, (nn.modules.batchnorm._BatchNorm, MinibatchStd)) for m in discriminator.modules()
        )
        self.generator_ema: nn.Module | None = None
        if ema_half_life_images is not None:
            self.generator_ema = copy.deepcopy(generator).requires_grad_(False)
        self.loss_g, self.loss_d = loss_g, loss_d
        self.optimizer_g, self.optimizer_d = optimizer_g, optimizer_d
        self.clip_grad_norm, self.accumulate = clip_grad_norm, accumulate
        self.ema_half_life_images, self.ema_rampup = ema_half_life_images, ema_rampup
        self.channels_last, self.classes, self.seed = channels_last, list(classes), seed
        self.guard = StepGuard(on_not_finite, max_skipped)
        self.steps_per_call = steps_per_call
        self.g_steps = 0  # updates of G
        self.images_seen = 0  # real images shown to D, over all processes
        self.batches_seen = 0  # of this process
        self.in_accumulation = False  # gradients of a part of a batch are pending: no place for a checkpoint
        self._log_sums: Tensor
        self.register_buffer("_log_sums", torch.zeros(len(self.logged)))
        self._log_count = 0

    @property
    def sampler(self) -> nn.Module:
        """The generator to sample from: the moving average where there is one."""
        return self.generator if self.generator_ema is None else self.generator_ema

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim) to images float (B, C, H, H) in [-1, 1] with the sampling generator.

        labels: classes int64 (B,), for a conditional one.
        """
        return cast(Tensor, self.sampler(z) if labels is None else self.sampler(z, labels))

    def configure_optimizers(self) -> list[Optimizer]:
        """Return the optimisers of G and D, in this order."""
        g, d = self.generator.parameters(), self.discriminator.parameters()
        return [self.optimizer_g(g), self.optimizer_d(d)]

    def on_fit_start(self) -> None:
        """Refuse a precision that steps of our own would not honour."""
        if self.trainer.precision not in PRECISIONS:
            raise UserError(
                f"trainer.precision: a GAN is trained with one of {', '.join(PRECISIONS)}, got "
                f"{self.trainer.precision}; set trainer.precision=bf16-mixed"
            )

    def on_train_start(self) -> None:
        """Look up once what every step needs."""
        self._calls = Calls(self, self.steps_per_call)
        self._opt_g, counted_d = cast(Any, self.optimizers())
        self._opt_d = counted_d.optimizer
        self._weights_g, self._weights_d = (
            tuple(n.parameters()) for n in (self.generator, self.discriminator)
        )
        if self.generator_ema is not None:
            self._average = MovingAverage(self.generator_ema, self.generator)
        self._plain = plain_steps(self.trainer, self)
        self._ahead = LatentsAhead(self.generator, partial(self._step_seed, "train"))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Make a step on this batch, and on those that follow, `steps_per_call` in all."""
        for one, number in self._calls.steps(batch, batch_idx):
            self._step(one, number)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave on the CPU what is to stay there; elsewhere as Lightning does, whose walk over a batch takes longer."""
        return (
            batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)
        )

    def _step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Update D, then G, on one batch with uint8 "image" (B, 1, H, W)."""
        opt_g, opt_d, trainer = self._opt_g, self._opt_d, self.trainer
        real = to_float(batch["image"], cast(int, self.generator.channels))
        if self.channels_last:
            real = real.contiguous(memory_format=torch.channels_last)
        n = len(real)
        if not self.in_accumulation:
            for weight in (*self._weights_g, *self._weights_d):
                weight.grad = None
            networks = (self.generator, self.discriminator)
            self.guard.begin(networks, moves_first=(self.discriminator, opt_d))
        fake, fake_labels = self._make(n)
        step_now = (batch_idx + 1) % self.accumulate == 0 or trainer.is_last_batch

        loss_d, watched = self._judge(batch, real, fake.detach(), fake_labels)
        loss_d = self.guard.filter(loss_d, watched, trainer)
        self._backward(loss_d, last=step_now)
        d_moved = step_now and step(
            opt_d, self.discriminator, trainer, self.clip_grad_norm, self.guard, self._plain
        )

        self._freeze_d(True)  # G's gradient passes through D, D's own is not computed
        loss_g = self.guard.filter(self._deceive(fake, fake_labels), [], trainer)
        self._backward(loss_g, last=step_now)
        self._freeze_d(False)
        g_moved = step_now and step(
            opt_g, self.generator, trainer, self.clip_grad_norm, self.guard, self._plain
        )
        spoilt = self.guard.spoilt  # D may have moved, and G not
        if step_now:
            if spoilt:
                self.guard.undo()
            if not self._plain:
                end_step(trainer, complete=d_moved and g_moved)

        images = n * trainer.world_size
        vars(self).update(  # Module.__setattr__ asks of each whether it is a weight, a buffer or a network
            in_accumulation=not step_now,
            batches_seen=self.batches_seen + 1,
            images_seen=self.images_seen + images,
            g_steps=self.g_steps + int(g_moved),
        )
        if not spoilt:
            self._update_ema(images)
        if step_now:
            self.guard.end(trainer, step=self.batches_seen, mend=_MEND)
        self._watch(None if spoilt else torch.stack((loss_d, loss_g, *watched)).detach())

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Give all processes the first's batch norm statistics (as DDP before each step), or their scores differ."""
        if self.trainer.is_last_batch or self.trainer.should_stop:
            self.share_buffers()

    def share_buffers(self) -> None:
        """Give all processes the first's batch norm statistics, as DDP does before its next forward pass anyway."""
        share_buffers((self.generator, self.discriminator, self.generator_ema), self.trainer)

    def _freeze_d(self, frozen: bool) -> None:
        """What `discriminator.requires_grad_` does, without walking over its modules."""
        for weight in self._weights_d:
            weight.requires_grad_(not frozen)

    def _backward(self, loss: Tensor, *, last: bool) -> None:
        """Add to the gradients; processes exchange them at the last part of a batch."""
        if self._plain:
            torch.autograd.backward(loss if self.accumulate == 1 else loss / self.accumulate)
            return
        with nullcontext() if last else without_exchange(self.trainer):
            self.manual_backward(loss / self.accumulate)

    def _make(self, n: int) -> tuple[Tensor, Tensor | None]:
        """Return n images of G in [-1, 1] for this step, and their classes int64 (n,) if it was told any."""
        return self.generator(self._latents(n)), None

    def _judge(
        self, batch: dict[str, Tensor], real: Tensor, fake: Tensor, fake_labels: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the loss of D on images in [-1, 1], and what is logged beside the two losses, as `logged` names it."""
        real, fake = self._shown(real, "real"), self._shown(fake, "fake")
        if self._two_passes:
            real_logits, fake_logits = self.discriminator(real), self.discriminator(fake)
        else:
            real_logits, fake_logits = self.discriminator(torch.cat((real, fake))).split(len(real))
        loss = self.loss_d(real_logits, fake_logits)
        return self._penalised(loss, real, fake, None, real_logits), [real_logits.mean(), fake_logits.mean()]

    def _deceive(self, fake: Tensor, fake_labels: Tensor | None) -> Tensor:
        """Return the loss of G on its images."""
        return self.loss_g(self.discriminator(self._shown(fake, "deceive")))

    def _logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return D's logits (B,) of images in [-1, 1], of classes int64 (B,) for a D that is told them."""
        return cast(Tensor, self.discriminator(images))

    def _shown(self, images: Tensor, what: str) -> Tensor:
        """Return what D is shown of images in [-1, 1]."""
        if self.regulariser is None or not self.regulariser.changes_images:
            return images
        seed = mix_seed(self.seed, what, self.batches_seen, self.global_rank)
        return self.regulariser.show(images, seed=seed, images_seen=self.images_seen)

    def _penalised(
        self, loss: Tensor, real: Tensor, fake: Tensor, labels: Tensor | None, real_logits: Tensor
    ) -> Tensor:
        """Add to D's loss what the regulariser asks for; images as shown, labels of the real ones."""
        regulariser = self.regulariser
        if regulariser is None:
            return loss
        if (ada := regulariser.adaptive) is not None:
            says = over_ranks(real_logits.detach().sign().mean(), self.trainer, "mean")
            ada.observe_sign(says, len(real) * self.trainer.world_size)
        if regulariser.penalises:
            loss = loss + regulariser.penalty(
                lambda images: self._logits(images, labels),
                real,
                fake,
                step=self.batches_seen,
                seed=mix_seed(self.seed, "penalty", self.batches_seen, self.global_rank),
            )
        return loss

    @torch.no_grad()
    def judge_images(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return D's logits float32 (n,) of uint8 images (n, 1, H, H) as they are, in evaluation mode.

        labels: float (n, L) as in a batch, for a D that is told classes.
        """
        training = self.discriminator.training
        self.discriminator.eval()
        with self.trainer.precision_plugin.val_step_context():
            real = to_float(images.to(self.device), cast(int, self.generator.channels))
            told = None if labels is None else self._classes_of(labels.to(self.device))
            logits = self._logits(real, told)
        self.discriminator.train(training)
        return logits.float()

    def _classes_of(self, labels: Tensor) -> Tensor | None:
        """Return the classes int64 (B,) that labels (B, L) say; None where no network is told any."""
        return None

    def _latents(self, n: int) -> Tensor:
        """Return n latents of this step, on the device: this process's share of those of the whole batch."""
        z = self._ahead.take(self.batches_seen, n, self.global_rank * n)
        return z.to(self.device, non_blocking=True)

    def _step_seed(self, what: str, step: int | None = None) -> int:
        """Return the seed of a step's draws, this one's; the 0 was a rank's, and keeps earlier runs repeatable."""
        return mix_seed(self.seed, what, self.batches_seen if step is None else step, 0)

    def sample(
        self,
        n: int,
        *,
        seed: int,
        start: int = 0,
        label_counts: Sequence[int] | None = None,
        part: tuple[int, int] | None = None,
    ) -> Tensor:
        """Return uint8 images (n, 1, H, H) of latents `start` … of a seed, in the trainer's precision.

        label_counts: of the images that these are compared with; a generator without classes has no use for it.
        part: (first, last): only images first … last - 1 of the n, of the same bytes as among all n.
        """
        first, last = part or (0, n)
        with self.trainer.precision_plugin.val_step_context():
            return sample_images(
                self.sampler,
                last - first,
                seed=seed,
                start=start + first,
                block=min(n, 64),
                device=self.device,
            )

    def sample_counts(self, n: int, label_counts: Sequence[int] | None) -> list[int]:
        """Return how many of n sampled images are of each class, in their order; without classes, all are of one."""
        return [n]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add counters and a record of what this GAN is; refuse to save a run that has diverged."""
        self._check_finite()
        refuse_broken(self, _MEND)
        self.guard.save(checkpoint)
        checkpoint["gan"] = gan_record(self, log_count=self._log_count)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the counters back."""
        self.guard.load(checkpoint)
        state = checkpoint["gan"]
        self.g_steps, self.images_seen = state["g_steps"], state["images_seen"]
        self.batches_seen, self._log_count = state["batches_seen"], state["log_count"]

    def _update_ema(self, images: int) -> None:
        if self.ema_half_life_images is not None:
            half_life, rampup = self.ema_half_life_images, self.ema_rampup
            self._average.update(ema_decay(images, self.images_seen, half_life, rampup))

    def _watch(self, values: Tensor | None) -> None:
        """Sum losses and logits on the device; look at them every `log_every_n_steps` (CPU: every step).

        values: None of a step that is left out.
        """
        if values is not None:  # equal sums: all find a divergence at once
            self._log_sums.add_(over_ranks(values, self.trainer, "mean"))
            vars(self)["_log_count"] += 1
        due = self.batches_seen % cast(Any, self.trainer).log_every_n_steps == 0
        if due or self.device.type == "cpu":
            self._check_finite()
        if due:  # the mean since the last time
            logged: dict[str, float] = {}
            if self._log_count:
                means = (self._log_sums / self._log_count).tolist()
                logged = dict(zip(self.logged, means, strict=True))
            if self.guard.skips:
                logged["train/skipped_steps"] = float(self.guard.skipped)
            log_now(self.trainer, logged, bar=self.logged)
            self._log_sums.zero_()
            self._log_count = 0

    def _check_finite(self) -> None:
        sums = self._log_sums.tolist()
        if all(map(math.isfinite, sums)):
            return
        first = self.batches_seen - self._log_count + 1 if self.device.type != "cpu" else self.batches_seen
        where = f"step {first}" if first >= self.batches_seen else f"steps {first} … {self.batches_seen}"
        kept = last_checkpoint(self.trainer, "none was written yet")
        bad = ", ".join(k for k, v in zip(self.logged, sums, strict=True) if not math.isfinite(v))
        raise UserError(
            f"the GAN diverged: {bad} not finite at {where}; last good checkpoint: {kept}; {_MEND}"
        )
