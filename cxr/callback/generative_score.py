"""Scores of the generator against validation images while it trains; test images are never touched.

Every `every_n_images` images that D has seen (`GANTask.images_seen`, over all processes) and after the last batch of
training: KID, FID when asked for, the diversity of the images, and whether the generator has collapsed. When comes
from the images seen, which a checkpoint holds: a resumed run scores where one never stopped would have.

Where gradients of half a step are pending, the next whole step is waited for. At the end of an epoch scores wait for
the end's hook, as everything of that epoch does; within one, best.ckpt is judged at once. Processes share the work:
each makes and judges its part of the images, whose rows are gathered, so that all get the value of a single process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import lightning
import numpy as np
import numpy.typing as npt
from lightning.pytorch.callbacks import Callback

from cxr.callback.checkpoints import CheckpointFiles
from cxr.callback.gather import gathered, share
from cxr.errors import UserError
from cxr.extractor import Extractor, extract
from cxr.metric.diversity import collapsed, disjoint_pairs, diversity, most_pairs, msssim, near_duplicates
from cxr.metric.frechet import frechet_distance
from cxr.metric.kid import kid, subset_size
from cxr.task.calls import BetweenSteps
from cxr.task.gan import GANTask
from cxr.task.log_now import log_now

__all__ = ["GenerativeScore"]

Pixels = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_BATCH = 64  # images per pass of the extractor


class GenerativeScore(Callback, BetweenSteps):
    """Log scores named by their protocol, against all validation images.

    kid_<extractor>/val                     KID over subsets of min(1000, n // 2)
    fid_n<real>to<generated>_<extractor>/val    FID, which n biases: other counts are another score
    msssim_pairs…/val, …/synthetic          diversity of the validation images and of the generated ones
    near_duplicates_pairs…/synthetic        share of pairs; see `cxr.metric.diversity`
    collapsed                               1 where that is a collapse, else 0; said when it begins, and at the end

    A conditional GAN makes each class as often as it is in the validation part.
    """

    def __init__(
        self,
        *,
        every_n_images: int,
        n_images: int,
        extractor: Extractor,
        scores: Sequence[Literal["kid", "fid"]],
        n_subsets: int,
        n_pairs: int | None,
        seed: int,
    ) -> None:
        """Take when and what to score.

        Args:
            every_n_images: seen by D; at least 1.
            n_images: generated for each score, always from the same latents (of `seed`).
            extractor: images → features.
            n_pairs: for diversity, at most half as many as images; None: no diversity, no alarm.
        """
        for key, value in (("every_n_images", every_n_images), ("n_pairs", n_pairs)):
            if value is not None and value < 1:
                raise UserError(
                    f"callback.generative_score.{key}: got {value}, expected at least 1; "
                    f"set callback.generative_score.{key}=100"
                )
        if not scores or not set(scores) <= {"kid", "fid"}:
            raise UserError(
                f"callback.generative_score.scores: got {list(scores)}, expected kid, fid or both; "
                "set callback.generative_score.scores=[kid]"
            )
        self.every_n_images, self.n_images, self.n_pairs = every_n_images, n_images, n_pairs
        self.extractor, self.scores, self.n_subsets, self.seed = extractor, list(scores), n_subsets, seed
        self.scored_at = 0  # images seen at the last score
        self.collapsed = False  # at the last score: what has been said is not said again
        self._real: Features | None = None
        self._real_msssim: Floats | None = None
        self._label_counts: list[int] = []
        self._made_groups: Ints = np.empty(0, np.int64)  # the class of each image that is generated

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Look at the validation images once; too few for a score is refused before any training."""
        data: Any = getattr(trainer, "datamodule", None)
        rows: Ints = np.empty(0, np.int64)
        if data is not None:
            rows = np.sort(np.asarray(data.parts.get("val", rows), np.int64))
        if subset_size(len(rows), self.n_images) < 2:
            raise UserError(
                f"callback.generative_score: {len(rows)} validation and {self.n_images} generated "
                "images, expected at least 4 of each; raise split.val, or set callback.generative_score=null"
            )
        self._label_counts = (data.labels[rows] == 1).sum(axis=0).tolist()
        first, last = share(len(rows), trainer.global_rank, trainer.world_size)
        self._real = self._features(data.images, rows[first:last], trainer)
        if self.n_pairs is not None:
            task = cast(GANTask, pl_module)
            groups = np.zeros(len(rows), np.int64)
            if task.conditional:
                groups = np.unique(data.labels[rows], axis=0, return_inverse=True)[1].ravel()
            counts = task.sample_counts(self.n_images, self._label_counts)
            self._made_groups = np.repeat(np.arange(len(counts)), counts)
            n_pairs = min(self.n_pairs, most_pairs(groups), most_pairs(self._made_groups))
            pairs = rows[disjoint_pairs(groups, n_pairs, seed=self.seed)]
            self._real_msssim = self._msssim(data.images, pairs, trainer)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Score within the epoch where it is due, and have the best judged."""
        task = cast(GANTask, pl_module)
        if trainer.is_last_batch or not self.ends_call(trainer, task):
            return  # the epoch's end follows
        self._score(trainer, task, step=trainer.fit_loop.epoch_loop._batches_that_stepped)
        if isinstance(files := trainer.checkpoint_callback, CheckpointFiles):
            files.judge(trainer)

    def ends_call(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> bool:
        """Say whether a score is due, and no gradients are pending that a checkpoint would not hold."""
        gan = cast(GANTask, task)
        return not gan.in_accumulation and self._due(gan)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Score where it is due, and after the last batch of training; the checkpoints' own hook follows."""
        task = cast(GANTask, pl_module)
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return  # stopped within the epoch (max_time): it goes on from there
        is_end = trainer.current_epoch + 1 == trainer.max_epochs
        if self._due(task) or (is_end and task.images_seen != self.scored_at):
            step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
            self._score(trainer, task, step=step, is_end=is_end)

    def state_dict(self) -> dict[str, Any]:
        return {"scored_at": self.scored_at, "collapsed": self.collapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scored_at, self.collapsed = state_dict["scored_at"], state_dict["collapsed"]

    def _due(self, task: GANTask) -> bool:
        return task.images_seen // self.every_n_images > self.scored_at // self.every_n_images

    def _score(self, trainer: lightning.Trainer, task: GANTask, *, step: int, is_end: bool = False) -> None:
        """Make images, judge them, log at `step`, and say so where a collapse begins or is what training ended in."""
        assert self._real is not None
        task.share_buffers()
        first, last = share(self.n_images, trainer.global_rank, trainer.world_size)
        made = task.sample(self.n_images, seed=self.seed, label_counts=self._label_counts, part=(first, last))
        images = made[:, 0].numpy()
        fake = self._features(images, np.arange(len(images)), trainer)
        values = {}
        name = self.extractor.name + (f"_{self.extractor.layer}" if self.extractor.layer else "")
        if "kid" in self.scores:
            values[f"kid_{name}/val"] = kid(self._real, fake, n_subsets=self.n_subsets, seed=self.seed).value
        if "fid" in self.scores:
            counts = f"n{len(self._real)}to{len(fake)}"
            values[f"fid_{counts}_{name}/val"] = frechet_distance(self._real, fake)
        reason = None
        if self._real_msssim is not None:
            found, reason = self._diversity(self._real_msssim, images, first, trainer)
            values |= found
        self.scored_at = task.images_seen
        log_now(trainer, values, step=step, bar=("kid_", "fid_"))
        if reason is not None and (is_end or not self.collapsed):
            now = "has collapsed" if is_end else "makes copies (early in training this may pass)"
            task.print(
                f"warning: step {task.g_steps}, {task.images_seen:,} images seen: the GAN {now}: {reason}"
            )
        self.collapsed = reason is not None

    def _features(self, images: Pixels, rows: Ints, trainer: lightning.Trainer) -> Features:
        """Return the features (n, d) of the rows of all processes; this one's are read 1,024 at a time."""
        device = trainer.strategy.root_device
        parts = [
            extract(
                self.extractor, np.asarray(images[rows[i : i + 1024]]), batch=_BATCH, device=device
            ).features
            for i in range(0, len(rows), 1024)
        ]
        return gathered(np.concatenate(parts) if parts else np.zeros((0, 0), np.float32), trainer)

    def _diversity(
        self, real: Floats, images: Pixels, first: int, trainer: lightning.Trainer
    ) -> tuple[dict[str, float], str | None]:
        """Return values to log and why this is a collapse; `images` are this process's, from number `first`."""
        pairs = disjoint_pairs(self._made_groups, len(real), seed=self.seed)
        wanted = np.sort(pairs.ravel())
        own = wanted[(wanted >= first) & (wanted < first + len(images))]
        chosen = gathered(images[own - first], trainer)
        made = self._msssim(chosen, np.searchsorted(wanted, pairs), trainer)
        size_px = chosen.shape[-1]
        near, near_real = (near_duplicates(values, real, size_px) for values in (made, real))
        reason = collapsed(near, near_real)
        of_real, of_made = diversity(real, size_px), diversity(made, size_px)
        return {
            f"{of_real.name}/val": of_real.mean,
            f"{of_made.name}/synthetic": of_made.mean,
            f"{near.name}/synthetic": near.value,
            "collapsed": float(reason is not None),
        }, reason

    def _msssim(self, images: Pixels, pairs: Ints, trainer: lightning.Trainer) -> Floats:
        """Return the MS-SSIM (n,) of pairs (n, 2) of rows of images; each process takes its share of the pairs."""
        first, last = share(len(pairs), trainer.global_rank, trainer.world_size)
        one, other = (np.asarray(images[pairs[first:last, side]]) for side in (0, 1))
        return gathered(msssim(one, other), trainer)
