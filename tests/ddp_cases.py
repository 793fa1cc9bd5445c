"""Short trainings whose every step is noted; test_ddp.py runs them in one process and in two and compares.

As a script: `python ddp_cases.py OUT` runs all cases in two gloo processes, which Lightning starts once, and writes
OUT/<case>-<rank>.json.
"""

from __future__ import annotations

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
import functools
import hashlib
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from cxr.callback.step_seed import StepSeed
from cxr.classifier.base import Classifier
from cxr.data.module import CXRDataModule
from cxr.gan import acrnet, covidgan, strong, talukdar
from cxr.gan import diffusion as edm
from cxr.loss.classification import BCE, CrossEntropy
from cxr.loss.gan import (
    class_cross_entropy,
    discriminator_bce,
    discriminator_hinge,
    generator_bce,
    generator_critic,
)
from cxr.task.acgan import ACGANTask
from cxr.task.classifier import ClassifierTask
from cxr.task.diffusion import DiffusionTask
from cxr.task.gan import GANTask
from cxr.task.projection import ProjectionGANTask
from cxr.task.regulariser import Regulariser
from cxr.task.sync_norm import SyncedBatchNorms

Notes = dict[str, Any]
SGD = functools.partial(torch.optim.SGD, lr=0.05)
ADAM = functools.partial(torch.optim.Adam, lr=1e-3)


def jitter(batch: Any, rng: np.random.Generator) -> Any:
    """Move grey values by noise."""
    return np.clip(batch.astype(np.int64) + rng.integers(-30, 30, batch.shape), 0, 255).astype(np.uint8)


def data(n_train: int, n_val: int = 4, **changes: Any) -> CXRDataModule:
    rng = np.random.default_rng(0)
    n = n_train + n_val
    labels = np.eye(2, dtype=np.float32)[np.arange(n) % 2]
    images = labels[:, :1, None] * 60 + rng.integers(0, 190, (n, 16, 16))
    settings: dict[str, Any] = {
        "images": images.astype(np.uint8), "labels": labels, "batch_size": 8, "eval_batch_size": 4,
        "parts": {"train": np.arange(n_train), "val": np.arange(n_train, n)},
        "num_workers": 0, "drop_last": False, "seed": 0,
    }  # fmt: skip
    return CXRDataModule(**(settings | changes))


IN_CALLS: dict[str, Any] = {}  # what `in_calls` adds to a GAN


def gan(**changes: Any) -> GANTask:
    common = {"image_size_px": 16, "channels": 1, "negative_slope": 0.2, "init": "glorot", "seed": 0}
    values: dict[str, Any] = {
        "generator": talukdar.Generator(latent_dim=8, widths=[4, 4, 4], **common),  # type: ignore[arg-type]
        "discriminator": talukdar.Discriminator(widths=[4, 4], dropout=0.0, **common),  # type: ignore[arg-type]
        "loss_g": generator_bce, "loss_d": functools.partial(discriminator_bce, real_target=1.0),
        "optimizer_g": SGD, "optimizer_d": SGD, "clip_grad_norm": None, "accumulate": 1,
        "ema_half_life_images": 50, "ema_rampup": 0.5, "channels_last": True, "classes": ["A"], "seed": 0,
        **IN_CALLS,
    }  # fmt: skip
    return GANTask(**(values | changes))


def norm_gan(**changes: Any) -> GANTask:
    common = {"image_size_px": 16, "channels": 1, "n_batch_norm": 1, "seed": 0}
    return gan(
        generator=acrnet.Generator(latent_dim=8, widths=[4, 4], **common),  # type: ignore[arg-type]
        discriminator=acrnet.Discriminator(widths=[4, 4], negative_slope=0.2, **common),  # type: ignore[arg-type]
        **changes,
    )


def acgan() -> ACGANTask:
    # Not seed 0: there an activation lies within 1e-8 of a ReLU's kink, and rounding alone changes the training.
    common = {"n_classes": 2, "image_size_px": 16, "channels": 1, "seed": 2}
    return ACGANTask(
        generator=covidgan.Generator(latent_dim=8, latent_std=1.0, embedding_dim=4, widths=[8, 4], **common),  # type: ignore[arg-type]
        discriminator=covidgan.Discriminator(
            widths=[4, 8], strides=[2, 2], negative_slope=0.2, dropout=0.0, **common  # type: ignore[arg-type]
        ),
        loss_g=generator_bce, loss_d=functools.partial(discriminator_bce, real_target=1.0),
        loss_class=class_cross_entropy, class_weight=1.0, optimizer_g=SGD, optimizer_d=SGD,
        clip_grad_norm=None, accumulate=1, ema_half_life_images=None, ema_rampup=None, channels_last=True,
        classes=["A", "B"], label_names=["A", "B"], seed=0, **IN_CALLS,
    )  # fmt: skip


def projection() -> ProjectionGANTask:
    """With spectral norm, R1 in every other step, and a minibatch statistic whose groups are a process's images."""
    common: dict[str, Any] = {"n_classes": 2, "image_size_px": 16, "channels": 1, "seed": 0}
    regulariser = Regulariser(
        spectral_norm=True, r1_gamma=0.1, r1_every=2, penalty=None, instance_noise=0.0, instance_noise_images=None,
        augment=None,
    )  # fmt: skip
    return ProjectionGANTask(
        generator=strong.Generator(latent_dim=8, widths=[8, 4, 4], excitations=1, **common),
        discriminator=strong.Discriminator(widths=[4, 8], minibatch_std=True, **common),
        loss_g=generator_critic, loss_d=discriminator_hinge, optimizer_g=SGD, optimizer_d=SGD,
        clip_grad_norm=None, accumulate=1, ema_half_life_images=50, ema_rampup=0.5, channels_last=True,
        classes=["A", "B"], label_names=["A", "B"], seed=0, regulariser=regulariser, **IN_CALLS,
    )  # fmt: skip


def diffusion() -> DiffusionTask:
    generator = edm.Generator(
        n_classes=2, image_size_px=16, channels=1, patch=2, widths=[8, 8], n_blocks=1, embedding_dim=8,
        sigma_data=0.5, sigma_min=0.002, sigma_max=80.0, rho=7.0, n_steps=2, seed=0,
    )  # fmt: skip
    return DiffusionTask(
        generator=generator, optimizer=SGD, p_mean=-0.5, p_std=1.2, ema_half_life_images=50, ema_rampup=0.5,
        channels_last=True, classes=["A", "B"], label_names=["A", "B"], seed=0,
    )  # fmt: skip


class Small(Classifier):
    """A convolution, a batch norm, a dense layer."""

    def __init__(self, n_outputs: int, norm: bool) -> None:
        super().__init__()
        self.image_size_px, self.channels, self.n_outputs = 16, 1, n_outputs
        self.weights, self.last_conv = "random", "layers.0"
        torch.manual_seed(0)
        middle = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), middle, nn.ReLU(), nn.Flatten())
        self.dense = nn.Linear(4 * 49, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 1, 16, 16) to logits."""
        logits: Tensor = self.dense(self.layers(images))
        return logits


def classifier(
    loss: nn.Module, norm: bool = True, multi_label: bool = False, **changes: Any
) -> ClassifierTask:
    return ClassifierTask(
        network=Small(2, norm), loss=loss, optimizer=SGD, scheduler=None, classes=["A", "B"],
        multi_label=multi_label, channels_last=True, **changes,
    )  # fmt: skip


def poisoned(task: Any, network: str) -> Any:
    """Give a network's answer to the one image that is all white as NaN: one process finds it, and both skip."""

    def spoil(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        white = given[0].detach().flatten(1).amin(dim=1) > 0.99
        return torch.where(white.view(-1, *[1] * (out.ndim - 1)), float("nan"), out)

    getattr(task, network).register_forward_hook(spoil)
    return task


def with_white(module: CXRDataModule, *rows: int) -> CXRDataModule:
    """Make training images white."""
    module.images[list(rows)] = 255
    return module


class Note(Callback):
    """Keep what is logged at each step, and the latents and classes that G is given."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.inputs: list[str] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        def look(module: Any, inputs: tuple[Tensor, ...]) -> None:
            for i in range(len(inputs[0])):  # one text per image
                self.inputs.append(
                    hashlib.sha256(b"".join(x[i].numpy().tobytes() for x in inputs)).hexdigest()[:12]
                )

        if isinstance(pl_module, GANTask):
            pl_module.generator.register_forward_pre_hook(look)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        if isinstance(pl_module, GANTask | DiffusionTask):
            self.steps.append({k: float(v) for k, v in trainer.callback_metrics.items()})
        else:  # its mean over processes is the loss
            self.steps.append({"loss": float(outputs["loss"])})


def run(
    task: lightning.LightningModule, module: CXRDataModule, devices: int, epochs: int = 1,
    sync: bool = False, half: bool = False, log_every: int = 1, **options: Any,
) -> Notes:  # fmt: skip
    note = Note()
    plugins: list[Any] = [SyncedBatchNorms()] if sync else []
    if half:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        plugins.append(MixedPrecision("16-mixed", device="cpu", scaler=scaler))
    trainer = lightning.Trainer(
        accelerator="cpu", devices=devices, max_epochs=epochs, logger=False,
        log_every_n_steps=100 if IN_CALLS else log_every,
        strategy="ddp_find_unused_parameters_true" if devices > 1 else "auto", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        num_sanity_val_steps=0, callbacks=[StepSeed(seed=0), note], plugins=plugins, **options,
    )  # fmt: skip
    trainer.fit(task, datamodule=module)
    state = {k: v for k, v in task.state_dict().items() if not k.startswith("_")}
    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in state.values())).hexdigest()
    weights = {k: v.double().flatten()[:50].tolist() for k, v in state.items()}
    scores = {k: float(v) for k, v in trainer.callback_metrics.items()}
    counts = [task.g_steps, task.images_seen] if isinstance(task, GANTask | DiffusionTask) else []
    return {"steps": note.steps, "inputs": note.inputs, "digest": digest, "weights": weights, "scores": scores,
            "counts": [*counts, task.guard.skipped], "global_step": trainer.global_step}  # fmt: skip


def unknown_labels() -> CXRDataModule:
    """Unknown labels, many of them among the images of one process."""
    module = data(32, 7)
    module.labels[np.arange(0, 32, 3), 0] = np.nan
    module.labels[:12, 1] = np.nan
    return module


BINARY = functools.partial(BCE, pos_weight=[2.0, 1.0], label_smoothing=0.0)
WEIGHTED = functools.partial(CrossEntropy, class_weight=[1.0, 5.0], label_smoothing=0.1)
CASES: dict[str, Callable[[int], Notes]] = {
    "gan": lambda d: run(gan(optimizer_g=ADAM, optimizer_d=ADAM), data(44), d),
    "gan-calls": lambda d: run(
        gan(optimizer_g=ADAM, optimizer_d=ADAM, steps_per_call=2), data(64), d, log_every=4
    ),
    "gan-accumulate-clip": lambda d: run(gan(accumulate=2, clip_grad_norm=0.05), data(48), d),
    "gan-norm": lambda d: run(norm_gan(), data(40), d, sync=True),
    "gan-own-norms": lambda d: run(norm_gan(), data(44), d, epochs=2),
    "acgan": lambda d: run(acgan(), data(40), d, sync=True),
    "projection": lambda d: run(projection(), data(40), d, sync=True),
    "diffusion": lambda d: run(diffusion(), data(44), d, accumulate_grad_batches=2, gradient_clip_val=0.05),
    "gan-half": lambda d: run(gan(accumulate=2, clip_grad_norm=0.05), data(48), d, half=True),
    "gan-bf16": lambda d: run(gan(), data(40), d, precision="bf16-mixed"),
    "classifier-norm": lambda d: run(
        classifier(WEIGHTED()),
        data(36, 7, augment=jitter),
        d,
        epochs=2,
        sync=True,
        gradient_clip_val=0.5,
        accumulate_grad_batches=2,
    ),
    "classifier-unknown": lambda d: run(
        classifier(BINARY(), norm=False, multi_label=True), unknown_labels(), d, epochs=2
    ),
    "gan-skip": lambda d: run(
        poisoned(gan(on_not_finite="skip", optimizer_d=ADAM, optimizer_g=ADAM), "discriminator"),
        with_white(data(40), 5, 30),
        d,
    ),
    "classifier-skip": lambda d: run(
        poisoned(classifier(WEIGHTED(), on_not_finite="skip"), "network"),
        with_white(data(40), 5, 30),
        d,
        sync=True,
        accumulate_grad_batches=2,
    ),
    "classifier-own-norms": lambda d: run(classifier(WEIGHTED()), data(32, 5), d),
}


def in_calls(case: Callable[[int], Notes], devices: int) -> Notes:
    """Run a case of a GAN with three steps a call, logging nothing between."""
    IN_CALLS["steps_per_call"] = 3
    try:
        return case(devices)
    finally:
        IN_CALLS.clear()


# Whose weights must be those of one step a call.
CALLED = ("gan", "gan-accumulate-clip", "gan-norm", "acgan", "gan-half", "gan-skip", "gan-own-norms")


def main(out: Path) -> None:
    """Run all cases in this process and in a second one."""
    called = {f"{name} in calls": functools.partial(in_calls, CASES[name]) for name in CALLED}
    for name, case in {**CASES, **called}.items():
        notes = case(2)
        rank = torch.distributed.get_rank()
        (out / f"{name}-{rank}.json").write_text(json.dumps(notes))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    main(Path(sys.argv[1]))
