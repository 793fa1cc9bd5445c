"""Training of a diffusion model (Karras et al. 2022): images get noise of a random level, and are to come back clean.

There is one network and one loss, so steps are Lightning's own (automatic optimisation): clipping and accumulation are
the trainer's, and `ddp` needs no care. To everything after the training it is a GAN: a conditional generator that maps
latents to images, its moving average by images seen, and a `gan` record in the checkpoint.

Noise and its levels are functions of (seed, batch, position in the whole batch): a run that goes on repeats them, and
several processes draw what one would.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, cast

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cxr.data.convert import to_float
from cxr.errors import UserError
from cxr.gan.latent import mix_seed, normal_latents
from cxr.loss.diffusion import denoising_loss
from cxr.task.average import MovingAverage, ema_decay
from cxr.task.by_class import check_classes, check_one_class_each, class_counts, sample_by_class
from cxr.task.distributed import over_ranks, share_buffers
from cxr.task.log_now import log_now
from cxr.task.loss_scale import leave_out_spoilt
from cxr.task.sampling import gan_record
from cxr.task.step_guard import StepGuard, last_checkpoint, refuse_broken

__all__ = ["DiffusionTask"]

_MEND = "lower task.optimizer.lr or set trainer.gradient_clip_val=1"


class DiffusionTask(lightning.LightningModule):
    """Train a class-conditional denoiser on images of one class each; a single class is one of them, too.

    label_names are the columns of the batches' labels, `classes` those of them that are trained on, in the order of the
    generator's classes. Noise of deviation exp(N(p_mean, p_std²)) is added to images in [-1, 1].
    """

    conditional: ClassVar[bool] = True  # the generator is told a class

    def __init__(
        self,
        *,
        generator: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        p_mean: float,
        p_std: float,
        ema_half_life_images: int | None,
        ema_rampup: float | None,
        channels_last: bool,
        classes: list[str],
        label_names: list[str],
        seed: int,
        on_not_finite: Literal["stop", "skip"] = "stop",
        max_skipped: int = 10,
    ) -> None:
        """Take a generator with a `denoiser`, and an optimiser that still wants its parameters.

        on_not_finite: of a loss or a gradient: `stop` ends the run, `skip` leaves the step out.
        max_skipped: in a row; one more ends the run.
        """
        super().__init__()
        check_classes(
            generator, classes, "gan.generator", tasks="task=diffusion needs", instead="gan=diffusion"
        )
        if not isinstance(getattr(generator, "denoiser", None), nn.Module):
            raise UserError(
                f"gan.generator: task=diffusion trains a denoiser, and {type(generator).__name__} has none; "
                "set gan=diffusion, or task=gan or task=acgan"
            )
        if not p_std > 0:
            raise UserError(f"task.p_std: got {p_std}, expected above 0; set task.p_std=1.2")
        self.generator = generator
        if channels_last:
            cast(Any, generator).to(memory_format=torch.channels_last)
        self.generator_ema: nn.Module | None = None
        if ema_half_life_images is not None:
            self.generator_ema = copy.deepcopy(generator).requires_grad_(False)
        self.optimizer, self.p_mean, self.p_std = optimizer, p_mean, p_std
        self.ema_half_life_images, self.ema_rampup = ema_half_life_images, ema_rampup
        self.channels_last, self.classes, self.seed = channels_last, list(classes), seed
        self._columns = [label_names.index(name) for name in classes]
        self._column_index: Tensor
        self.register_buffer("_column_index", torch.tensor(self._columns), persistent=False)
        self.guard = StepGuard(on_not_finite, max_skipped)
        self.images_seen = 0  # over all processes
        self.batches_seen = 0  # of this process
        self._averaged_at = 0  # images seen at the last update of the moving average: at the last whole step
        self._log_sum: Tensor
        self.register_buffer("_log_sum", torch.zeros(()))
        self._log_count = 0

    @property
    def sampler(self) -> nn.Module:
        """The generator to sample from: the moving average where there is one."""
        return self.generator if self.generator_ema is None else self.generator_ema

    @property
    def g_steps(self) -> int:
        """Updates of the network."""
        return int(self.global_step)

    @property
    def in_accumulation(self) -> bool:
        """Whether gradients of a part of a batch are pending: no place for a checkpoint."""
        return self._averaged_at != self.images_seen

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Map latents (B, latent_dim), classes int64 (B,) to images float (B, C, H, H) in [-1, 1], by the sampler."""
        return cast(Tensor, self.sampler(z, labels))

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser."""
        return self.optimizer(self.generator.parameters())

    def on_fit_start(self) -> None:
        """Refuse images that have no class, or two."""
        if (data := getattr(self.trainer, "datamodule", None)) is not None:
            check_one_class_each(data, self._columns, self.classes, "a conditional diffusion model")

    def on_train_start(self) -> None:
        """Look up once what every step needs."""
        if self.generator_ema is not None:
            self._average = MovingAverage(self.generator_ema, self.generator)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch with uint8 "image" (B, 1, H, W) and "label" float (B, L)."""
        if not self.in_accumulation:
            self.guard.begin([self.generator])
        real = to_float(batch["image"], cast(int, self.generator.channels))
        labels = batch["label"].index_select(1, self._column_index).argmax(dim=1)
        sigma = (self._normal("levels", len(real), 1).flatten() * self.p_std + self.p_mean).exp()
        noise = self._normal("noise", len(real), real[0].numel()).view(real.shape)
        noisy = real + noise * sigma.view(-1, 1, 1, 1)
        if self.channels_last:
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        denoiser = cast(nn.Module, self.generator.denoiser)
        loss = denoising_loss(
            denoiser(noisy, sigma, labels), real, sigma, sigma_data=cast(float, denoiser.sigma_data)
        )
        loss = self.guard.filter(loss, [], self.trainer)
        self.batches_seen += 1
        self.images_seen += len(real) * self.trainer.world_size
        self._watch(None if self.guard.spoilt else loss.detach())
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leave a spoilt step out."""
        leave_out_spoilt(optimizer, self.generator, self.trainer, self.guard, mend=_MEND)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step, and move the average: here, before any callback looks at what this step has made."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        images, self._averaged_at = self.images_seen - self._averaged_at, self.images_seen
        if self.ema_half_life_images is not None and not self.guard.spoilt:
            self._average.update(
                ema_decay(images, self.images_seen, self.ema_half_life_images, self.ema_rampup)
            )

    def share_buffers(self) -> None:
        """Give all processes the first's buffers; those of the own network never change, another's may."""
        share_buffers((self.generator, self.generator_ema), self.trainer)

    def _normal(self, what: str, n: int, size: int) -> Tensor:
        """Return N(0, 1) draws float32 (n, size) of this batch, on the device: this process's share of the whole."""
        seed = mix_seed(self.seed, what, self.batches_seen)
        return normal_latents(n, size, seed=seed, start=self.global_rank * n).to(
            self.device, non_blocking=True
        )

    def sample(
        self,
        n: int,
        *,
        seed: int,
        start: int = 0,
        label_counts: Sequence[int] | None = None,
        part: tuple[int, int] | None = None,
    ) -> Tensor:
        """Return uint8 images (n, 1, H, H), one class after the other, in the trainer's precision; see ConditionalGANTask."""
        counts = zip(self.classes, self.sample_counts(n, label_counts), strict=True)
        with self.trainer.precision_plugin.val_step_context():
            return sample_by_class(
                self.sampler, list(counts), seed=seed, start=start, part=part, device=self.device
            )

    def sample_counts(self, n: int, label_counts: Sequence[int] | None) -> list[int]:
        """Return how many of n sampled images are of each class, see `sample`."""
        return class_counts(n, self._columns, label_counts)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add counters and a record of what this generator is; refuse to save a run that has diverged."""
        self._check_finite()
        refuse_broken(self, _MEND)
        self.guard.save(checkpoint)
        checkpoint["gan"] = gan_record(self, log_count=self._log_count)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the counters back."""
        self.guard.load(checkpoint)
        state = checkpoint["gan"]
        self.images_seen = self._averaged_at = state["images_seen"]
        self.batches_seen, self._log_count = state["batches_seen"], state["log_count"]

    def _watch(self, loss: Tensor | None) -> None:
        """Sum losses on the device; look at them every `log_every_n_steps` (CPU: every step). None: a step left out."""
        if loss is not None:  # equal sums: all processes find a divergence at once
            self._log_sum.add_(over_ranks(loss, self.trainer, "mean"))
            self._log_count += 1
        due = self.batches_seen % cast(Any, self.trainer).log_every_n_steps == 0
        if due or self.device.type == "cpu":
            self._check_finite()
        if due:
            logged = {"loss": float(self._log_sum) / self._log_count} if self._log_count else {}
            if self.guard.skips:
                logged["train/skipped_steps"] = float(self.guard.skipped)
            log_now(self.trainer, logged, bar=("loss",))
            self._log_sum.zero_()
            self._log_count = 0

    def _check_finite(self) -> None:
        if math.isfinite(float(self._log_sum)):
            return
        first = self.batches_seen - self._log_count + 1 if self.device.type != "cpu" else self.batches_seen
        where = f"step {first}" if first >= self.batches_seen else f"steps {first} … {self.batches_seen}"
        kept = last_checkpoint(self.trainer, "none was written yet")
        raise UserError(
            f"the diffusion model diverged: loss not finite at {where}; last good checkpoint: {kept}; {_MEND}"
        )
