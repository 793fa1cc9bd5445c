"""The logger of a training: Lightning's WandbLogger, told what a run of cxr is.

A GAN's curves are over images seen by D, a classifier's over epochs, so that batch size and number of processes do
not stretch them. Lightning tells a logger of its trainer's task only by `log_graph`: that is where we get it from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from cxr.data.synthetic import set_folder
from cxr.files import read_json
from cxr.run import config_hash, identity
from cxr.tracking import artifact
from cxr.tracking.connect import begin
from cxr.tracking.identity import group_of, job_type, remembered, tags
from cxr.tracking.settings import Wandb

if TYPE_CHECKING:
    from wandb import Run

__all__ = ["RunWandbLogger", "summaries"]

IMAGES, EPOCH, STEP = "images_seen", "epoch", "trainer/global_step"
AXES = (IMAGES, EPOCH, STEP)
FACTS = ("git", "versions", "device", "split", "split_fingerprint", "counts", "inputs")  # of manifest.json
LOW = ("loss", "kid_", "fid_", "near_duplicates")
HIGH = ("accuracy", "auroc", "auprc", "f1", "precision", "recall", "density", "coverage", "is_softmax")


def summaries(name: str) -> list[str]:
    """Return what W&B's table of runs shows of a metric beside its last value: min or max where one is better."""
    last = name.removeprefix("train/").removeprefix("val/")
    for best, beginnings in (("min", LOW), ("max", HIGH)):
        if last.startswith(beginnings):
            return [best, "last"]
    return ["last"]


class RunWandbLogger(WandbLogger):
    """One W&B run for one training, from its first value to `finalize`; a resumed training goes on in the same."""

    def __init__(self, settings: Wandb, *, save_dir: Path, config: Mapping[str, Any]) -> None:
        """Take what to log; nothing is started before training does."""
        super().__init__(
            name=save_dir.name, save_dir=str(save_dir), project=settings.project, log_model=False
        )
        self.settings, self.folder, self.config = settings, Path(save_dir), dict(config)
        self.kind = job_type(config)
        self.axis = IMAGES if self.kind == "gan" else EPOCH
        self._task: Any = None
        self._defined: set[str] = set()
        self._finished = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Run:
        """The W&B run, begun when first asked for."""
        if self._experiment is None:
            if self._finished:
                raise RuntimeError(f"{self.folder}: its W&B run is finished; make another logger")
            self._experiment = self._begin()
        return cast("Run", self._experiment)

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Keep the task, which knows how many images it has seen; there is no graph to log."""
        self._task = model

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values at what `axis` is now."""
        at = {IMAGES: self._task.images_seen} if self.axis == IMAGES and self._task is not None else {}
        self._define(metrics)
        super().log_metrics({**metrics, **at}, step)

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[Any], step: int | None = None, **captions: Any) -> None:
        """Log pictures (paths or arrays), at the epoch that this is."""
        import wandb

        made = [
            wandb.Image(str(one) if isinstance(one, Path) else one, **{k: v[i] for k, v in captions.items()})
            for i, one in enumerate(images)
        ]
        epoch = {} if self._task is None else {EPOCH: int(self._task.current_epoch)}
        self.log_metrics({key: made, **epoch}, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Log the checkpoints of a training that ended well, and finish the W&B run: 0, or 1 on any error."""
        run, self._finished = self._experiment, True
        if run is None:
            return
        self._experiment = None
        try:
            if status == "success":
                facts = {
                    "config_hash": config_hash(identity(self.config)),
                    "classes": getattr(self._task, "classes", None),
                }
                made = artifact.checkpoint_artifact(self.folder, self.kind, self.settings.artifacts, facts)
                artifact.log(cast("Run", run), made)
        finally:
            run.finish(exit_code=0 if status == "success" else 1)

    def _begin(self) -> Run:
        kept = self.folder / "manifest.json"
        manifest = read_json(kept) if kept.is_file() else {}
        run = begin(
            self.settings,
            folder=self.folder,
            kind=self.kind,
            key=config_hash(identity(self.config)),
            group=group_of(self.settings.group, self.config, remembered(self.folder, self.kind)),
            tags=tags(self.config),
            config={**self.config, "manifest": {key: manifest[key] for key in FACTS if key in manifest}},
        )
        for axis in AXES:
            run.define_metric(axis, hidden=True)
        for name in self.config.get("synthetic") or []:
            folder = set_folder(Path(self.config["synthetic_dir"]), name)
            artifact.use(run, artifact.set_artifact(folder, self.settings.artifacts))
        return run

    def _define(self, metrics: Mapping[str, Any]) -> None:
        for name in metrics.keys() - self._defined - set(AXES):
            self._defined.add(name)
            number = not isinstance(metrics[name], (list, dict))
            best = ",".join(summaries(name)) if number else None
            self.experiment.define_metric(name, step_metric=self.axis, summary=best)
