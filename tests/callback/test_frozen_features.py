"""Training on kept features is training on images: weights, scores, checkpoints, predictions, random numbers."""

from __future__ import annotations

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxr.callback.atomic_checkpoint import AtomicCheckpointIO
from cxr.callback.checkpoints import CheckpointFiles
from cxr.callback.frozen_features import FrozenFeatures, fingerprint
from cxr.callback.step_seed import StepSeed
from cxr.classifier.backbone import Backbone
from cxr.classifier.base import Classifier
from cxr.data.module import CXRDataModule
from cxr.evaluation.heatmap import coarse_maps
from cxr.loss.classification import BCE
from cxr.task.classifier import ClassifierTask

N, SIDE = 60, 32


class Frozen(Classifier):
    """A convolution and a batch norm that stay, a pool; a dense layer that learns, behind dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size_px, self.channels, self.n_outputs, self.frozen = SIDE, 1, 1, True
        self.weights, self.last_conv = "random", "body.0"
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.body.requires_grad_(False)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 1))
        self.calls = 0
        self.train()

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.body.eval()
        return self

    def encode(self, images: Tensor) -> Tensor:
        self.calls += len(images)
        features: Tensor = self.body(images).mean(dim=(2, 3))
        return features

    def decode(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))


def backbone(head: str) -> Backbone:
    torch.manual_seed(0)
    return Backbone(
        name="test_resnet", image_size_px=SIDE, channels=3, n_outputs=1, head=head, dropout=0.3, init="keras",  # type: ignore[arg-type]
        frozen=True, pretrained=False, checkpoint_path=None,
    )  # fmt: skip


def task(network: Classifier) -> ClassifierTask:
    return ClassifierTask(
        network=network, loss=BCE(pos_weight=None, label_smoothing=0.0), optimizer=partial(torch.optim.Adam, lr=1e-3),
        scheduler=None, classes=["A", "B"], multi_label=False, channels_last=True,
    )  # fmt: skip


def noise(pixels: Any, rng: np.random.Generator) -> Any:
    return np.clip(pixels.astype(np.int64) + rng.integers(-40, 40, pixels.shape), 0, 255).astype(np.uint8)


def data(**changes: Any) -> CXRDataModule:
    """36 training rows: real ones, one of them twice, and images of two synthetic sets; 9 validation images."""
    rng = np.random.default_rng(0)
    labels = np.eye(2, dtype=np.float32)[np.arange(N) % 2]
    images = (labels[:, :1, None] * 80 + rng.integers(0, 150, (N, SIDE, SIDE))).astype(np.uint8)
    made = [rng.integers(0, 255, (n, SIDE, SIDE)).astype(np.uint8) for n in (3, 5)]
    train = np.concatenate([np.arange(29), [4], -1 - np.array([7, 0, 3, 2, 6, 1])])
    values: dict[str, Any] = {
        "images": images, "labels": labels, "parts": {"train": train, "val": np.arange(30, 39), "test": np.arange(40, N)},
        "batch_size": 8, "eval_batch_size": 8, "num_workers": 0, "drop_last": False, "seed": 3,
        "synthetic": made, "synthetic_labels": np.eye(2, dtype=np.float32)[np.arange(8) // 4],
    }  # fmt: skip
    return CXRDataModule(**(values | changes))


def train(
    network: Classifier, module: CXRDataModule, folder: Path, *, keep: bool, epochs: int = 3, resume: bool = False,
    views: int | None = None, stop_after: int | None = None, **options: Any,
) -> tuple[ClassifierTask, dict[str, float], list[str]]:  # fmt: skip
    """Train; return the task, the last scores, what was said."""
    said: list[str] = []
    callbacks: list[Any] = [CheckpointFiles(monitor=None, mode="min", every_n_epochs=1, every_n_minutes=None)]
    callbacks.append(StepSeed(seed=0))
    if keep:
        callbacks.append(FrozenFeatures(
            data=module, folder=folder / "frozen", images_sha256="these", views=views,
            augment={"of": "noise"} if views else None, say=said.append,
        ))  # fmt: skip
    if stop_after is not None:
        callbacks.insert(0, _Stop(stop_after))
    learner = task(network)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=epochs, default_root_dir=folder, logger=False, callbacks=callbacks,
        plugins=[AtomicCheckpointIO()], enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip
    trainer.fit(
        learner, datamodule=module, ckpt_path=str(folder / "checkpoints/last.ckpt") if resume else None
    )
    return learner, {k: float(v) for k, v in trainer.callback_metrics.items()}, said


class _Stop(lightning.Callback):
    """Ends a training within an epoch, saved, as a signal does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    return max(
        float((x - y).abs().max())
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("head", "precision", "epochs"), [("linear", "32-true", 20), ("covidgan_vgg16", "bf16-mixed", 2)]
)
def test_the_head_learns_the_same(head: str, precision: Any, epochs: int, tmp_path: Path) -> None:
    """Every weight within 1e-6, predictions of the whole network too, the same scores in validation, the same maps."""
    found = [
        train(backbone(head), data(), tmp_path / str(keep), keep=keep, epochs=epochs, precision=precision)
        for keep in (True, False)
    ]
    (kept, scores, said), (plain, wanted, _) = found
    assert largest_difference(kept.network, plain.network) <= 1e-6
    assert largest_difference(kept.network.head, backbone(head).head) > 1e-3, "it has learnt"  # type: ignore[arg-type]  # a module
    assert scores == pytest.approx(wanted, abs=1e-5)
    test = torch.from_numpy(data().images[40:]).unsqueeze(1)
    with torch.no_grad():
        assert (kept.eval()(test) - plain.eval()(test)).abs().max() <= 1e-6
    assert len(said) == 1 and f"sees 44 of 44 images now, and none in {epochs} epochs" in said[0]
    explained = [coarse_maps(one, data().images[40:42], np.zeros((2, 1), np.int64)) for one in (kept, plain)]
    np.testing.assert_allclose(explained[0], explained[1], atol=1e-6)
    again = train(backbone(head), data(), tmp_path / "True", keep=True, epochs=1, precision=precision)[2]
    assert "44 images are there" in again[0]


def test_images_are_seen_once(tmp_path: Path) -> None:
    """29 real training images, 6 synthetic ones, 9 for validation, and a black one that tells the shape."""
    network = Frozen()
    train(network, data(), tmp_path, keep=True, epochs=5)
    assert network.calls == 29 + 6 + 9 + 1
    second = Frozen()
    train(second, data(parts={"train": np.arange(40), "val": np.arange(50, 55)}), tmp_path, keep=True)
    assert second.calls == 1 + 2 + 5, "another split adds what is not there"


@pytest.mark.parametrize("began", [True, False])
def test_a_run_goes_on_the_other_way_within_an_epoch(began: bool, tmp_path: Path) -> None:
    """A checkpoint of the seventh step, the second of its epoch; weights, scores and dropout as never stopped."""
    whole, wanted, _ = train(Frozen(), data(), tmp_path / "whole", keep=False, epochs=3)
    train(Frozen(), data(), tmp_path / "run", keep=began, stop_after=7)
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 7 and set(saved["state_dict"]) == set(whole.state_dict())
    on, scores, _ = train(Frozen(), data(), tmp_path / "run", keep=not began, resume=True)
    assert largest_difference(on, whole) <= 1e-6
    assert scores == pytest.approx(wanted, abs=1e-6)


def test_weights_of_the_checkpoint_are_what_counts(tmp_path: Path) -> None:
    """The network is built anew when a run goes on; features are those of the weights that are then restored."""
    train(Frozen(), data(), tmp_path, keep=False, epochs=1)
    file = tmp_path / "checkpoints" / "last.ckpt"
    saved = torch.load(file, weights_only=True)
    saved["state_dict"]["network.body.0.weight"] *= 2
    torch.save(saved, file)
    plain = train(Frozen(), data(), tmp_path, keep=False, epochs=2, resume=True)[1]
    torch.save(saved, file)
    assert train(Frozen(), data(), tmp_path, keep=True, epochs=2, resume=True)[1] == pytest.approx(
        plain, abs=1e-6
    )


def test_as_many_views_as_epochs_are_the_augmented_training(tmp_path: Path) -> None:
    plain = train(Frozen(), data(augment=noise), tmp_path / "off", keep=False, epochs=3)
    network = Frozen()
    kept = train(network, data(augment=noise), tmp_path / "on", keep=True, epochs=3, views=3)
    assert largest_difference(kept[0], plain[0]) <= 1e-6 and kept[1] == pytest.approx(plain[1], abs=1e-6)
    assert network.calls == 3 * 36 + 9 + 1 and "3 views" in kept[2][0]
    fewer = train(Frozen(), data(augment=noise), tmp_path / "on", keep=True, epochs=3, views=2)
    assert "are there" in fewer[2][0], "the first two of the three"
    assert largest_difference(fewer[0], plain[0]) > 1e-6, "the third epoch saw the first view again"


def test_the_key_is_all_that_does_not_learn() -> None:
    first = fingerprint(Frozen())
    learnt = Frozen()
    with torch.no_grad():
        learnt.head[1].weight += 1
    assert fingerprint(learnt) == first
    for change in ("body.0.weight", "body.1.running_var", "body.1.weight"):
        other = Frozen()
        other.state_dict()[change][0] += 1e-6
        assert fingerprint(other) != first, change
    strided = Frozen()
    strided.body[0].stride = (1, 1)
    assert fingerprint(strided) != first, "the same weights, another layer"
    assert fingerprint(backbone("linear")) != fingerprint(backbone("covidgan_resnet50"))


@pytest.mark.parametrize("what", ["precision", "images", "synthetic"])
def test_features_of_something_else_are_not_taken(what: str, tmp_path: Path) -> None:
    module, options = data(), {}
    train(Frozen(), module, tmp_path, keep=True, epochs=1)
    n = 29 + 9
    if what == "precision":
        options, n = {"precision": "bf16-mixed"}, n + 6
    elif what == "synthetic":
        module, n = data(), 3  # of the set of five, of which three are trained on
        module.synthetic[1][0, 0, 0] ^= 1
    else:
        module = data()
    network = Frozen()
    keep = FrozenFeatures(
        data=module, folder=tmp_path / "frozen", images_sha256="others" if what == "images" else "these",
        views=None, augment=None, say=lambda _: None,
    )  # fmt: skip
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, callbacks=[keep], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, **options,  # type: ignore[arg-type]  # precision
    )  # fmt: skip
    trainer.fit(task(network), datamodule=module)
    assert network.calls == n + 1


def test_a_folder_that_cannot_be_written_is_told_and_images_are_trained_on(tmp_path: Path) -> None:
    (tmp_path / "frozen").write_text("a file")
    network = Frozen()
    _, scores, said = train(network, data(), tmp_path, keep=True)
    assert scores == pytest.approx(train(Frozen(), data(), tmp_path / "off", keep=False)[1])
    assert "cannot keep them" in said[-1] and "every image in every epoch" in said[-1]
    assert network.calls == 3 * (36 + 9) + 1
