"""Alarms of a GAN's training: collapse, a discriminator that overfits, a score that no longer improves.

Looks whenever `GenerativeScore` has scored, right after it. Each alarm is off, warns once when it begins, or ends the run:
last.ckpt is saved by the checkpoints' own hook, the run is finished, and says why. A run that was killed after that stays
ended when it is begun again. What is not finite ends a run elsewhere (cxr.task.step_guard).

Overfitting is measured as in Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", eq. 1,
left: (E[D(train)] - E[D(validation)]) / (E[D(train)] - E[D(generated)]) of logits: 0 where D judges new real images as
those that it learnt from, 1 where it takes them for generated ones. D sees the images as they are, not augmented.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import lightning
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import Callback

from cxr.callback.gather import gathered, share
from cxr.callback.generative_score import GenerativeScore
from cxr.errors import UserError, did_you_mean
from cxr.task.gan import GANTask
from cxr.task.log_now import log_now

__all__ = ["Action", "GANAlarm", "overfit_share"]

Action = Literal["off", "warn", "stop"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
_BATCH = 64  # images per pass of D


def overfit_share(train: Floats, val: Floats, made: Floats) -> float:
    """Return eq. 1 for logits (n,) of training, validation and generated images, cut to [0, 1].

    0 where D does not put training images above generated ones: then it has learnt nothing of them. NaN stays.
    """
    of_train, of_val, of_made = (float(np.mean(logits, dtype=np.float64)) for logits in (train, val, made))
    if of_train <= of_made:
        return 0.0
    return float(np.clip((of_train - of_val) / (of_train - of_made), 0.0, 1.0))


class GANAlarm(Callback):
    """Watch the scores of a GAN; log d_overfit/val, and d_sign/train = E[sign(D(training images))].

    Attributes:
        reason: why this has ended the run, for people; None: it has not.
    """

    def __init__(
        self,
        *,
        collapse: Action,
        collapse_scores: int,
        overfit: Action,
        max_overfit: float,
        overfit_scores: int,
        n_images: int,
        no_gain: Action,
        monitor: str,
        mode: Literal["min", "max"],
        min_delta: float,
        no_gain_scores: int,
        seed: int,
    ) -> None:
        """Take what each alarm does, and after how many scores in a row.

        Args:
            max_overfit: of `overfit_share`, in [0, 1]; more is overfitting.
            n_images: of each kind that D judges; fewer where there are fewer.
            monitor: name of a score, or a pattern that one score matches.
            min_delta: at least 0; a gain must be larger.
        """
        for name, value in (
            ("collapse_scores", collapse_scores),
            ("overfit_scores", overfit_scores),
            ("n_images", n_images),
            ("no_gain_scores", no_gain_scores),
        ):
            if value < 1:
                raise UserError(
                    f"callback.gan_alarm.{name}: got {value}, expected at least 1; set callback.gan_alarm.{name}=3"
                )
        if not 0 <= max_overfit <= 1:
            raise UserError(
                f"callback.gan_alarm.max_overfit: got {max_overfit}, expected 0 to 1; "
                "set callback.gan_alarm.max_overfit=0.8"
            )
        if not min_delta >= 0:
            raise UserError(
                f"callback.gan_alarm.min_delta: got {min_delta}, expected at least 0; "
                "set callback.gan_alarm.min_delta=0"
            )
        self.actions: dict[str, Action] = {"collapse": collapse, "overfit": overfit, "no_gain": no_gain}
        self.patience = {"collapse": collapse_scores, "overfit": overfit_scores, "no_gain": no_gain_scores}
        self.max_overfit, self.n_images, self.seed = max_overfit, n_images, seed
        self.monitor, self.mode, self.min_delta = monitor, mode, min_delta
        self.counts = dict.fromkeys(self.actions, 0)  # scores in a row that each alarm is about
        self.best: float | None = None
        self.best_at = 0  # images seen
        self.looked_at = 0  # images seen at the last score that was looked at
        self.reason: str | None = None
        self._rows: dict[str, Ints] = {}

    @property
    def stopped(self) -> bool:
        """Whether the run has ended here."""
        return self.reason is not None

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Choose the images that D judges; stay stopped where the run was killed between this and its end."""
        score = _score_of(trainer)
        if self.actions["collapse"] != "off" and score.n_pairs is None:
            raise UserError(
                "callback.gan_alarm.collapse: needs pairs of images, and callback.generative_score.n_pairs is null; "
                "set callback.generative_score.n_pairs=100 or callback.gan_alarm.collapse=off"
            )
        if self.actions["overfit"] != "off" and not hasattr(pl_module, "judge_images"):
            raise UserError(
                "callback.gan_alarm.overfit: asks the discriminator, and this task has none; "
                "set callback.gan_alarm.overfit=off"
            )
        parts = cast(Any, trainer).datamodule.parts
        for name in ("train", "val"):
            rows = np.sort(np.asarray(parts[name], np.int64))
            chosen = np.random.default_rng([self.seed, len(rows)]).permutation(len(rows))[: self.n_images]
            self._rows[name] = np.sort(rows[chosen])
        if self.stopped:
            trainer.should_stop = True

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at a score of within the epoch."""
        if not trainer.is_last_batch:  # at the last, the epoch's end follows
            self._look(trainer, cast(GANTask, pl_module), trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Look at a score of the epoch's end, before the checkpoints' own hook; the last epoch's only warns."""
        step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
        is_end = trainer.current_epoch + 1 == trainer.max_epochs
        self._look(trainer, cast(GANTask, pl_module), step, is_end=is_end)

    def state_dict(self) -> dict[str, Any]:
        return {
            "counts": dict(self.counts),
            "best": self.best,
            "best_at": self.best_at,
            "looked_at": self.looked_at,
            "reason": self.reason,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counts, self.best = dict(state_dict["counts"]), state_dict["best"]
        self.best_at, self.looked_at = state_dict["best_at"], state_dict["looked_at"]
        self.reason = state_dict["reason"]

    def _look(self, trainer: lightning.Trainer, task: GANTask, step: int, *, is_end: bool = False) -> None:
        """Judge what was scored just now, if anything was; values are the same on every process."""
        score = _score_of(trainer)
        if score.scored_at == self.looked_at:
            return
        self.looked_at = score.scored_at
        found: dict[str, str | None] = {}
        if self.actions["collapse"] != "off":
            found["collapse"] = "the GAN makes copies (collapsed)" if score.collapsed else None
        if self.actions["overfit"] != "off":
            found["overfit"] = self._overfit(trainer, task, score, step)
        if self.actions["no_gain"] != "off":
            found["no_gain"] = self._no_gain(trainer)
        for name, problem in found.items():
            self.counts[name] = 0 if problem is None else self.counts[name] + 1
            if problem is None or self.counts[name] < self.patience[name]:
                continue
            text = f"{problem}, {self.counts[name]} scores in a row, at {self.looked_at:,} images seen"
            if self.actions[name] == "stop" and not is_end:
                self.reason = self.reason or text
                trainer.should_stop = True
            elif is_end or self.counts[name] == self.patience[name]:  # said when it begins, and at the end
                task.print(f"warning: {text}")

    def _overfit(
        self, trainer: lightning.Trainer, task: GANTask, score: GenerativeScore, step: int
    ) -> str | None:
        """Log how D judges training, validation and generated images, and say so where that is overfitting."""
        data = cast(Any, trainer).datamodule
        logits = {
            name: self._logits(trainer, task, data.images, data.labels, rows)
            for name, rows in self._rows.items()
        }
        n = min(self.n_images, score.n_images)
        of_train: list[int] = (data.labels[self._rows["train"]] == 1).sum(axis=0).tolist()
        labels = _labels_of(task, task.sample_counts(n, of_train), data.labels.shape[1])
        first, last = share(n, trainer.global_rank, trainer.world_size)
        made = task.sample(n, seed=self.seed, label_counts=of_train, part=(first, last))
        logits["made"] = gathered(_judge(task, made, labels[first:last]), trainer)
        value = overfit_share(logits["train"], logits["val"], logits["made"])
        sign = float(np.sign(logits["train"]).mean())
        log_now(trainer, {"d_overfit/val": value, "d_sign/train": sign}, step=step)
        if not value > self.max_overfit:
            return None
        return f"D overfits (d_overfit/val {value:.2f}, above {self.max_overfit:g})"

    def _logits(
        self, trainer: lightning.Trainer, task: GANTask, images: Any, labels: Any, rows: Ints
    ) -> Floats:
        """Return D's logits (n,) of the rows; each process judges its share."""
        first, last = share(len(rows), trainer.global_rank, trainer.world_size)
        own = rows[first:last]
        pixels = torch.from_numpy(np.asarray(images[own])).unsqueeze(1)
        told = torch.from_numpy(np.asarray(labels[own], np.float32))
        return gathered(_judge(task, pixels, told), trainer)

    def _no_gain(self, trainer: lightning.Trainer) -> str | None:
        """Say so where the score is no better than the best; NaN is no gain."""
        name = self._monitored(trainer)
        value = float(trainer.callback_metrics[name])
        sign = 1.0 if self.mode == "min" else -1.0
        better = self.best is None or sign * value < sign * self.best - self.min_delta
        if better and not math.isnan(value):
            self.best, self.best_at = value, self.looked_at
            return None
        if self.best is None:
            return f"{name} has had no value yet"
        return f"{name} has not improved (best {self.best:.4g} at {self.best_at:,} images seen)"

    def _monitored(self, trainer: lightning.Trainer) -> str:
        pattern = self.monitor.replace("[", "[[]")  # a hash in brackets is no pattern, as for the checkpoints
        known = list(trainer.callback_metrics)
        names = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
        if len(names) != 1:
            told = " and ".join(names) or f"no score there is{did_you_mean(self.monitor, known)}"
            raise UserError(
                f"callback.gan_alarm.monitor: {self.monitor} is {told}, expected one score; "
                "set 'callback.gan_alarm.monitor=kid_*/val'"
            )
        return names[0]


def _score_of(trainer: lightning.Trainer) -> GenerativeScore:
    callbacks: list[Callback] = cast(Any, trainer).callbacks
    found = next((c for c in callbacks if isinstance(c, GenerativeScore)), None)
    if found is None:
        raise UserError(
            "callback.gan_alarm: needs callback.generative_score, whose scores it watches; "
            "set callback.gan_alarm=null too"
        )
    return found


def _labels_of(task: GANTask, counts: Sequence[int], n_columns: int) -> torch.Tensor:
    """Return the labels (n, L) of generated images, as a batch has them, from how many are of each class."""
    columns: list[int] = getattr(task, "label_columns", [])
    labels = torch.zeros(sum(counts), n_columns)
    if columns:  # a conditional one; another is told no class
        labels[torch.arange(len(labels)), torch.tensor(columns).repeat_interleave(torch.tensor(counts))] = 1
    return labels


def _judge(task: GANTask, images: torch.Tensor, labels: torch.Tensor) -> Floats:
    """Return D's logits float32 (n,) of uint8 images (n, 1, H, H) with labels (n, L), some at a time."""
    parts = [
        task.judge_images(images[i : i + _BATCH], labels[i : i + _BATCH]).cpu().numpy()
        for i in range(0, len(images), _BATCH)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
