"""How a classifier learns: one step, shared by training, validation and testing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import Metric

from cxr.classifier.base import Classifier
from cxr.data.convert import to_float
from cxr.errors import UserError
from cxr.loss.classification import Binary, CrossEntropy, WeightedBCE
from cxr.task.distributed import over_ranks
from cxr.task.loss_scale import leave_out_spoilt
from cxr.task.running import MacroAUROC, Mean
from cxr.task.step_guard import StepGuard, last_checkpoint, refuse_broken

__all__ = ["ClassifierTask", "softmax_log_odds"]

Batch = dict[str, Tensor]
SPLITS = ("train", "val", "test")
CHECK_EVERY = 50  # steps; reading a value back stalls a GPU, so it is not done at each


def softmax_log_odds(logits: Tensor) -> Tensor:
    """Map logits (B, L), L at least 2, to the log-odds of their softmax: sigmoid of the result is the softmax.

    log p_k - log(1 - p_k) = z_k - log sum of exp z_j over j other than k. So a softmax over independent labels
    needs no losses, thresholds or scores of its own.
    """
    n = logits.shape[1]
    own = torch.eye(n, dtype=torch.bool, device=logits.device)
    others = logits.unsqueeze(1).expand(-1, n, -1).masked_fill(own, float("-inf"))
    return logits - others.logsumexp(dim=2)


class ClassifierTask(lightning.LightningModule):
    """Train a classifier on batches {"image": uint8 (B, 1, H, W), "label": float (B, L), "row": int (B,)}.

    In place of "image" a batch may hold "features" (B, …): what `encode` makes of the images (cxr.callback.frozen_features).

    Two classes may have one output (its logit is that of `classes[1]`) or two; several classes, and
    independent labels (`multi_label`), have one each. Logs `loss` and `accuracy` of training and of
    validation and `val/auroc`, once an epoch.

    Args:
        network: logits from images.
        loss: (logits, targets) → scalar.
        optimizer: a constructor that lacks only the parameters.
        scheduler: a constructor that lacks only the optimiser; stepped after each epoch.
        classes: names, in the order of the label columns.
        multi_label: labels are independent of each other.
        channels_last: keep pixels, not channels, contiguous; about 1.5 x faster on a CPU.
        output: `softmax` makes the probabilities of independent labels sum to 1, as `densenet14` does; the
            task's logits are then the log-odds of that softmax. `logits` leaves the network's as they are.
        on_not_finite: of a training loss, or its gradients: `stop` ends the run, `skip` leaves the step out.
        max_skipped: in a row; one more ends the run.
    """

    def __init__(
        self,
        *,
        network: Classifier,
        loss: nn.Module,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler] | None,
        classes: list[str],
        multi_label: bool,
        channels_last: bool,
        output: Literal["logits", "softmax"] = "logits",
        on_not_finite: Literal["stop", "skip"] = "stop",
        max_skipped: int = 10,
    ) -> None:
        super().__init__()
        _check(network.n_outputs, loss, classes, multi_label)
        if output == "softmax" and (not multi_label or len(classes) < 2):
            raise UserError(
                "task.output: softmax is for several independent labels (one label of several has it "
                "through loss=cross_entropy); set task.output=logits"
            )
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # stub wants a device
        self.loss = loss
        self.classes, self.multi_label, self.output = list(classes), multi_label, output
        self._one_logit = network.n_outputs == 1 and not multi_label
        self._make_optimizer, self._make_scheduler = optimizer, scheduler
        self._plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None
        self._val_loss: float | None = None  # of this epoch
        self._bad_step: Tensor | None = None
        self.guard = StepGuard(on_not_finite, max_skipped)
        self._metrics: dict[str, dict[str, Metric]] = {
            split: {"loss": Mean(), "accuracy": Mean()} for split in SPLITS
        }
        for split in ("val", "test"):
            self._metrics[split]["auroc"] = MacroAUROC()
        # Registered, so that they follow the task to its device.
        self.metrics = nn.ModuleDict({f"{s}_{k}": m for s in SPLITS for k, m in self._metrics[s].items()})

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images (B, 1, H, W) to float32 logits (B, n_outputs)."""
        return self._of_network(self.network(self._pixels(images)))

    def encode(self, images: Tensor) -> Tensor:
        """Map uint8 images (B, 1, H, W) to what a frozen network's head learns from (B, …), without a graph."""
        with torch.no_grad():
            features: Tensor = self.network.encode(self._pixels(images))
            return features

    def answer(self, batch: Batch) -> Tensor:
        """Return the logits of a batch of images, or of their features."""
        if "features" not in batch:
            logits: Tensor = self(batch["image"])
            return logits
        features = batch["features"]
        if features.ndim == 4:  # maps, stored channels first
            features = features.contiguous(memory_format=self.memory_format)
        return self._of_network(self.network.decode(features))

    def _pixels(self, images: Tensor) -> Tensor:
        """Map uint8 images (B, 1, H, W) to what the network takes."""
        size = self.network.image_size_px
        if images.shape[-2:] != (size, size):
            raise UserError(
                f"classifier.image_size_px: the network takes {size} px and the images have "
                f"{images.shape[-2]} x {images.shape[-1]}; set cache.size_px={size}"
            )
        return to_float(images, self.network.channels).contiguous(memory_format=self.memory_format)

    def _of_network(self, logits: Tensor) -> Tensor:
        """Map the network's logits (B, n_outputs) to the task's, float32."""
        return softmax_log_odds(logits.float()) if self.output == "softmax" else logits.float()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Map this task's logits (B, n_outputs) to probabilities (B, n_classes).

        Rows sum to 1 unless labels are independent and `output` is not softmax.
        """
        if self.multi_label:
            return logits.sigmoid()
        if self._one_logit:
            return torch.cat([-logits, logits], dim=1).sigmoid()
        return logits.softmax(dim=1)

    def fit_loss(self, labels: Tensor) -> None:
        """Show the loss the labels (N, n_classes) that are trained on, where its weights come from them."""
        if isinstance(self.loss, WeightedBCE):
            self.loss.fit(self._targets(labels))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, weighted so that its mean over processes is that of the whole batch."""
        if batch_idx == 0:  # here, not in a hook, so that a run resumed within an epoch keeps its sums
            self._reset("train")
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.guard.begin([self.network])
        loss = self._step(batch, "train")
        return loss if self.trainer.world_size == 1 else loss * self._share(batch)

    def _share(self, batch: Batch) -> Tensor | float:
        """Return this process's share of the known labels times the processes; 1 for a loss that tells no divisor.

        Losses are means over known labels and DDP takes the mean over processes: so it is that of the whole batch,
        however unevenly unknown labels fall.
        """
        own = self._divisor(self._targets(batch["label"]))
        if own is None:
            return 1.0
        return own * self.trainer.world_size / over_ranks(own, self.trainer, "sum").clamp(min=1e-12)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leave a spoilt step out."""
        leave_out_spoilt(optimizer, self.network, self.trainer, self.guard, mend=self._mend())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score a validation batch."""
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score a test batch."""
        self._step(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the rows of a batch and their logits."""
        return {"row": batch["row"], "logits": self(batch["image"])}

    def _step(self, batch: Batch, split: Literal["train", "val", "test"]) -> Tensor:
        logits, targets = self.answer(batch), self._targets(batch["label"])
        loss: Tensor = self.loss(logits, targets)
        if split == "train" and self.guard.skips:
            loss = self.guard.filter(loss, [], self.trainer)
            if self.guard.spoilt:  # in no mean
                return loss
        else:
            self._watch(loss, split)
        self._score(split, loss.detach(), logits.detach(), targets)
        return loss

    def _divisor(self, targets: Tensor) -> Tensor | None:
        """Return what the loss divides its sum over targets (B, L) by, float32; None for a loss that does not tell."""
        return self.loss.divisor(targets).float() if isinstance(self.loss, (Binary, CrossEntropy)) else None

    def _targets(self, labels: Tensor) -> Tensor:
        """Return the columns of labels (B, n_classes) that have an output."""
        return labels[:, 1:] if self._one_logit else labels

    def _score(self, split: str, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a batch to the sums of its split."""
        if self._one_logit or self.multi_label:
            known = ~torch.isnan(targets)
            correct = (logits > 0) == (targets > 0.5)
        else:
            known = ~torch.isnan(targets).any(dim=1)
            correct = logits.argmax(dim=1) == torch.nan_to_num(targets).argmax(dim=1)
        metrics = self._metrics[split]
        weight = known.sum() if (divisor := self._divisor(targets)) is None else divisor
        metrics["loss"].update(loss, weight)  # the same whatever the batches were
        metrics["accuracy"].update(correct.float(), known.float())
        if split != "train":  # with one logit: the probability of the positive class only
            metrics["auroc"].update(self.probabilities(logits)[:, -targets.shape[1] :], targets)

    def on_train_epoch_end(self) -> None:
        """Log training loss and accuracy; lower the learning rate if the validation of this epoch says so.

        Lightning steps ReduceLROnPlateau after the epoch's checkpoint is saved: a resumed run would miss the step.
        """
        self._report("train")
        if self._plateau is not None and self._val_loss is not None:
            self._plateau.step(self._val_loss)
        self._val_loss = None

    def on_validation_epoch_start(self) -> None:
        """Start from zero, also after the sanity check."""
        self._reset("val")

    def on_validation_epoch_end(self) -> None:
        """Log validation loss, accuracy and AUROC."""
        self._report("val")

    def on_test_epoch_start(self) -> None:
        """Start from zero."""
        self._reset("test")

    def on_test_epoch_end(self) -> None:
        """Log test loss, accuracy and AUROC."""
        self._report("test")

    def _reset(self, split: str) -> None:
        for metric in self._metrics[split].values():
            metric.reset()

    def _report(self, split: str) -> None:
        self._raise_if_bad(split)
        values = {f"{split}/{name}": metric.compute() for name, metric in self._metrics[split].items()}
        if split == "train" and self.guard.skips:
            values["train/skipped_steps"] = torch.tensor(float(self.guard.skipped), device=self.device)
        # Already equal on all ranks; sync_dist only keeps Lightning from warning that they may not be.
        self.log_dict(values, sync_dist=True, prog_bar=True)
        if split == "val":
            self._val_loss = float(values["val/loss"])
        if split != "train":  # lists of scores; training sums must survive until the next epoch's first batch
            self._reset(split)

    def _watch(self, loss: Tensor, split: str) -> None:
        """Remember the first step whose loss was not finite; look at it at once where looking is free."""
        now = torch.where(torch.isfinite(loss.detach()), -1, self.global_step)
        before = self._bad_step
        self._bad_step = now if before is None else torch.where(before >= 0, before, now)
        if loss.device.type == "cpu" or self.global_step % CHECK_EVERY == 0:
            self._raise_if_bad(split)

    def _raise_if_bad(self, split: str) -> None:
        if self._bad_step is None or (step := int(self._bad_step)) < 0:
            return
        self._bad_step = None
        raise UserError(
            f"{split} loss is not finite at step {step} (epoch {self.current_epoch}); last checkpoint: "
            f"{last_checkpoint(self.trainer)}; {self._mend()}"
        )

    def _mend(self) -> str:
        """Return what to try where training is not finite."""
        lr = self.trainer.optimizers[0].param_groups[0]["lr"] if self.trainer.optimizers else None
        return f"lower optimizer.lr (now {lr}) or set trainer.precision=32-true"

    def configure_optimizers(self) -> Any:
        """Return the optimiser of the trainable parameters, with its scheduler if there is one."""
        optimizer = self._make_optimizer([p for p in self.network.parameters() if p.requires_grad])
        if self._make_scheduler is None:
            return optimizer
        scheduler = self._make_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            self._plateau = scheduler
            if self._plateau_state is not None:
                scheduler.load_state_dict(self._plateau_state)
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the classes, the weights' origin, the unfinished epoch's sums: plain containers only."""
        self._raise_if_bad("train")  # never replace a good checkpoint by a broken network
        refuse_broken(self, self._mend())
        self.guard.save(checkpoint)
        metrics = self._metrics["train"]
        sums = {
            name: {k: over_ranks(getattr(m, k), self.trainer, "sum").cpu() for k in m._defaults}
            for name, m in metrics.items()
        }
        checkpoint["classifier"] = {
            "classes": self.classes,
            "weights": self.network.weights,
            "train_sums": sums,
            "plateau": self._plateau.state_dict() if self._plateau is not None else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other classes; take up its sums."""
        saved = checkpoint.get("classifier")
        if saved is None:
            return
        if saved["classes"] != self.classes:
            raise UserError(
                f"data.classes: {self.classes}, but the checkpoint was trained on {saved['classes']}; "
                f"set data.classes=[{','.join(saved['classes'])}]"
            )
        self.guard.load(checkpoint)
        self._plateau_state = saved.get("plateau")
        for name, metric in self._metrics["train"].items():
            for key, value in saved["train_sums"].get(name, {}).items():
                # the sum over all processes goes on in the first
                setattr(metric, key, value.to(metric.device) * (self.global_rank == 0))


def _check(n_outputs: int, loss: nn.Module, classes: list[str], multi_label: bool) -> None:
    """Refuse outputs, labels and loss that do not fit each other."""
    n = len(classes)
    allowed = (1, 2) if n == 2 and not multi_label else (n,)
    if n_outputs not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise UserError(
            f"classifier.n_outputs: got {n_outputs}, expected {wanted} for {n} classes; "
            f"set classifier.n_outputs={allowed[0]}"
        )
    independent = multi_label or n_outputs == 1
    if isinstance(loss, CrossEntropy) and independent:
        raise UserError("loss: cross_entropy needs one label out of several outputs; set loss=bce")
    if isinstance(loss, Binary) and not independent:
        raise UserError(
            f"loss: {type(loss).__name__} needs independent labels, got one label of {n}; set loss=cross_entropy"
        )
