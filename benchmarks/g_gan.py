"""G: what a GAN's step costs beside its networks, and a step of real ones at 256 px.

The fixed cost is the CPU time of a step of networks of one weight each, less that of the same passes and optimiser steps
in a bare loop, each in its own, the quickest of three epochs everywhere: a training's as train.py runs it (seeds, latents,
counters, moving average, checks for NaN, signals, checkpoints, scores, progress bar and log, as conf/task/gan.yaml,
conf/callback/gan.yaml and conf/trainer/cpu.yaml set them), and the textbook's in a default Trainer. Batches lie in memory
for both: reading them is the letter D.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.harness import ROUNDS, Line, Rounds, apart
from cxr._memory import keep_freed_memory
from cxr.callback.checkpoints import CheckpointFiles
from cxr.callback.csv_log import CSVLog
from cxr.callback.generative_score import GenerativeScore
from cxr.callback.preemption import StopOnSignal
from cxr.callback.sample_grid import SampleGrid
from cxr.callback.step_seed import StepSeed
from cxr.data.convert import to_float
from cxr.data.module import CXRDataModule
from cxr.extractor.pixel import PixelExtractor
from cxr.gan import salehinejad
from cxr.gan.latent import mix_seed, normal_latents
from cxr.loss.gan import discriminator_bce, generator_bce
from cxr.task.gan import GANTask
from cxr.trainer import make_trainer, quiet_lightning

__all__ = ["lines"]

STEPS = 200  # of an epoch of networks without cost
EPOCHS = 4  # the first warms up; of the others the quickest counts, as a difference of two times doubles their noise
BATCH, LATENTS = 4, 8
ADAM = functools.partial(torch.optim.Adam, lr=1e-4, fused=True)
LOSS_D = functools.partial(discriminator_bce, real_target=1.0)


class FreeGenerator(nn.Module):
    """One weight: an image is its first latent, everywhere."""

    image_size_px, channels = 16, 1

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, z: Tensor) -> Tensor:
        return (z[:, :1, None, None] * self.w).expand(-1, 1, 16, 16)

    def sample_latent(self, n: int, *, seed: int, start: int) -> Tensor:
        return normal_latents(n, LATENTS, seed=seed, start=start)


class FreeDiscriminator(nn.Module):
    """One weight: the logit is its share of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(1, 2, 3)) * self.w


class Batches:
    """What Lightning takes for one loader: a list would be several."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class Ready(CXRDataModule):
    """Training batches that lie in memory as they are wanted: reading them is the letter D."""

    def train_dataloader(self) -> Any:
        pixels = torch.from_numpy(self.images[self.parts["train"]])[:, None]
        return Batches(
            [{"image": part, "label": torch.ones(len(part), 1)} for part in pixels.split(self.batch_size)]  # type: ignore[no-untyped-call]
        )


class Clock(Callback):
    """CPU seconds a step of the quickest epoch but the first, from before its first batch to after its last."""

    seconds = math.inf

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.began = time.process_time()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.current_epoch > 0 or trainer.max_epochs == 1:
            took = (time.process_time() - self.began) / int(trainer.num_training_batches)
            self.seconds = min(self.seconds, took)


def images_of(n: int, size_px: int) -> Any:
    """Return noise, uint8 (n, size_px, size_px)."""
    return np.random.default_rng(0).integers(0, 256, (n, size_px, size_px), dtype=np.uint8)


def ours(networks: tuple[nn.Module, nn.Module], n_steps: int, batch: int, *, precision: Any = "32-true",
         epochs: int = 2, steps_per_call: int = 1) -> tuple[float, lightning.Trainer]:  # fmt: skip
    """Train as train.py does; return CPU seconds a step, and the trainer."""
    keep_freed_memory()
    generator, discriminator = networks
    size = cast(int, generator.image_size_px)
    n = n_steps * batch
    task = GANTask(
        generator=generator, discriminator=discriminator, loss_g=generator_bce, loss_d=LOSS_D, optimizer_g=ADAM,
        optimizer_d=ADAM, clip_grad_norm=None, accumulate=1, ema_half_life_images=10_000, ema_rampup=0.05,
        channels_last=True, classes=["A"], seed=0, steps_per_call=steps_per_call,
    )  # fmt: skip
    module = Ready(
        images=images_of(n + 8, size), labels=np.ones((n + 8, 1), np.float32),
        parts={"train": np.arange(n), "val": np.arange(n, n + 8)}, batch_size=batch, eval_batch_size=256,
        num_workers=0, drop_last=False, seed=0,
    )  # fmt: skip
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, StopOnSignal() as stop, quiet():
        place = Path(folder)
        trainer = make_trainer(
            accelerator="cpu", devices=1, num_nodes=1, strategy="auto", precision=precision, max_epochs=epochs,
            max_time=None, gradient_clip_val=None, accumulate_grad_batches=1, check_val_every_n_epoch=1,
            log_every_n_steps=50, limit_train_batches=None, deterministic=False, sync_batchnorm=False, progress="rich",
            run_dir=place, logger=[CSVLog(save_dir=place)],
            callbacks=[
                stop,
                clock,
                CheckpointFiles(monitor="kid_*/val", mode="min", every_n_epochs=1, every_n_minutes=10.0),
                StepSeed(seed=0),
                SampleGrid(every_n_epochs=5, rows=1, columns=2, seed=0),
                GenerativeScore(every_n_images=20_000, n_images=8, extractor=PixelExtractor(size_px=4), scores=["kid"],
                                n_subsets=2, n_pairs=None, seed=0),
            ],
        )  # fmt: skip
        trainer.fit(task, datamodule=module)
    return clock.seconds, trainer


class Textbook(lightning.LightningModule):
    """The GAN of Lightning's own examples: toggled optimisers, manual backward, four logged values a step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = FreeGenerator(), FreeDiscriminator()

    def adversarial_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits, target)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        opt_g, opt_d = cast(Any, self.optimizers())
        z = torch.randn(len(batch), LATENTS).type_as(batch)
        valid, fake = torch.ones(len(batch)).type_as(batch), torch.zeros(len(batch)).type_as(batch)

        self.toggle_optimizer(opt_d)
        real_logits = self.discriminator(batch)
        fake_logits = self.discriminator(self.generator(z).detach())
        d_loss = 0.5 * (self.adversarial_loss(real_logits, valid) + self.adversarial_loss(fake_logits, fake))
        self.log("d_loss", d_loss, prog_bar=True)
        self.log("logit_real", real_logits.mean(), prog_bar=True)
        self.log("logit_fake", fake_logits.mean(), prog_bar=True)
        self.manual_backward(d_loss)
        opt_d.step()
        opt_d.zero_grad()
        self.untoggle_optimizer(opt_d)

        self.toggle_optimizer(opt_g)
        g_loss = self.adversarial_loss(self.discriminator(self.generator(z)), valid)
        self.log("g_loss", g_loss, prog_bar=True)
        self.manual_backward(g_loss)
        opt_g.step()
        opt_g.zero_grad()
        self.untoggle_optimizer(opt_g)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(n.parameters(), lr=1e-4) for n in (self.generator, self.discriminator)]


def textbook() -> float:
    """Return CPU seconds a step in a default Trainer; its batches are ready floats, which is kind to it."""
    batches = Batches([torch.randn(BATCH, 1, 16, 16) for _ in range(STEPS)])
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, quiet():
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=EPOCHS, default_root_dir=folder, callbacks=[clock]
        )
        trainer.fit(Textbook(), batches)
    return clock.seconds


def seconds(step: Callable[[int], object], n_steps: int, warm: int) -> float:
    """Return the CPU seconds of one of n_steps calls, after `warm` others."""
    for number in range(warm):
        step(number)
    began = time.process_time()
    for number in range(warm, warm + n_steps):
        step(number)
    return (time.process_time() - began) / n_steps


def bare_ours() -> float:
    """Return the CPU seconds of what the networks of our step are given to do, and no more."""
    g, d = free()
    opt_g, opt_d = ADAM(g.parameters()), ADAM(d.parameters())
    pixels, z = torch.from_numpy(images_of(BATCH, 16))[:, None], torch.randn(BATCH, LATENTS)

    def step(number: int) -> None:
        real = to_float(pixels, 1)
        opt_g.zero_grad()
        opt_d.zero_grad()
        fake = g(z)
        LOSS_D(*d(torch.cat((real, fake.detach()))).split(BATCH)).backward()  # type: ignore[no-untyped-call]
        opt_d.step()
        d.requires_grad_(False)
        generator_bce(d(fake)).backward()  # type: ignore[no-untyped-call]
        d.requires_grad_(True)
        opt_g.step()

    return min(seconds(step, STEPS, 20) for _ in range(EPOCHS - 1))


def bare_textbook() -> float:
    """Return the CPU seconds of what the networks of the textbook's step are given to do, and no more."""
    g, d = free()
    opt_g, opt_d = (torch.optim.Adam(network.parameters(), lr=1e-4) for network in (g, d))
    bce, batch = functional.binary_cross_entropy_with_logits, torch.randn(BATCH, 1, 16, 16)

    def step(number: int) -> None:
        z, valid, fake = torch.randn(BATCH, LATENTS), torch.ones(BATCH), torch.zeros(BATCH)
        d.requires_grad_(True)
        (0.5 * (bce(d(batch), valid) + bce(d(g(z).detach()), fake))).backward()  # type: ignore[no-untyped-call]
        opt_d.step()
        opt_d.zero_grad()
        d.requires_grad_(False)
        bce(d(g(z)), valid).backward()  # type: ignore[no-untyped-call]
        opt_g.step()
        opt_g.zero_grad()

    return min(seconds(step, STEPS, 20) for _ in range(EPOCHS - 1))


def fixed(steps_per_call: int) -> float:
    """Return our fixed cost of a step, in CPU seconds."""
    return ours(free(), STEPS, BATCH, epochs=EPOCHS, steps_per_call=steps_per_call)[0] - bare_ours()


def tutorial(networks: tuple[nn.Module, nn.Module], n_steps: int, batch: int, warm: int) -> float:
    """Train in the loop of PyTorch's DCGAN tutorial, float32 and NCHW; return CPU seconds a step.

    With our latents and our images in their order, so that its weights can be compared with ours.
    """
    g, d = networks
    pixels = torch.from_numpy(images_of((n_steps + warm) * batch, cast(int, g.image_size_px)))[:, None]
    opt_g, opt_d = (torch.optim.Adam(network.parameters(), lr=1e-4) for network in networks)
    bce = functional.binary_cross_entropy_with_logits

    def step(number: int) -> None:
        real = pixels[number * batch : (number + 1) * batch].float() / 127.5 - 1.0
        z = cast(Any, g).sample_latent(batch, seed=mix_seed(0, "train", number, 0), start=0)
        opt_d.zero_grad()
        fake = g(z)
        (0.5 * bce(d(real), torch.ones(batch))).backward()  # type: ignore[no-untyped-call]
        (0.5 * bce(d(fake.detach()), torch.zeros(batch))).backward()  # type: ignore[no-untyped-call]
        opt_d.step()
        opt_g.zero_grad()
        bce(d(fake), torch.ones(batch)).backward()  # type: ignore[no-untyped-call]
        opt_g.step()

    return seconds(step, n_steps, warm)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep bars and advice out of the table."""
    quiet_lightning()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def dcgan(size_px: int, widest: int, n: int) -> tuple[nn.Module, nn.Module]:
    """Return a DCGAN of n doublings from `widest` maps, the same weights each time."""
    widths = [widest >> k for k in range(n)]
    common: dict[str, Any] = {"image_size_px": size_px, "channels": 1, "seed": 0}
    return (
        salehinejad.Generator(latent_dim=100, widths=widths, **common),
        salehinejad.Discriminator(widths=widths[::-1], negative_slope=0.2, **common),
    )


def plain_256() -> float:
    """Return the CPU seconds of the tutorial's step at 256 px."""
    return tutorial(dcgan(256, WIDEST_256, 6), 4, BATCH_256, 1)


def free() -> tuple[nn.Module, nn.Module]:
    """Return networks that cost nothing."""
    return FreeGenerator(), FreeDiscriminator()


@functools.cache
def same_weights() -> str:
    """Check that calls of one step and of ten train to the same bits."""
    one, ten = (
        ours(free(), STEPS, BATCH, steps_per_call=k)[1].lightning_module.state_dict() for k in (1, 10)
    )
    assert all(torch.equal(one[key], ten[key]) for key in one), "weights differ between 1 and 10 steps a call"
    return f"weights after {2 * STEPS} steps with 1 and with 10 steps a call: equal to the bit"


def same_step() -> str:
    """Check that a step of ours moves D as the tutorial's does."""
    start, mine, theirs = (dcgan(256, WIDEST_256, 6) for _ in range(3))
    ours(mine, 1, BATCH_256, epochs=1)
    tutorial(theirs, 1, BATCH_256, 0)
    a, b, c = (
        torch.cat([p.detach().flatten() for p in nets[1].parameters()]) for nets in (start, mine, theirs)
    )
    error = float((b - c).norm() / (c - a).norm())
    assert error < 0.05, f"D's first step differs by {error:.1%} of its length"
    return f"D's first step differs from the tutorial's by {error:.0e} of its length (< 0.05)"


BATCH_64, BATCH_256, WIDEST_256 = (
    64,
    8,
    256,
)  # a quarter of the paper's maps (conf/gan/salehinejad.yaml), as far as a CPU goes


def lines() -> Iterator[Line]:
    """Yield G1 to G3."""
    own: dict[str, Any] = {
        "direction": "<=",
        "clock": "own",
        "check": same_weights,
        "warm": False,
        "most": ROUNDS,
    }
    textbooks = "Lightning's textbook GAN"
    rounds = Rounds({
        "a": functools.partial(fixed, 1),
        "b": functools.partial(fixed, 10),
        textbooks: lambda: textbook() - bare_textbook(),
    })  # fmt: skip
    for name, k, goal_1, goal_2 in (("a", 1, 0.25, 0.07), ("b", 10, 0.08, 0.02)):
        what = f"fixed cost of a step, {k} step{'s' * (k > 1)} a call"
        yield Line(
            f"G1{name}",
            what,
            goal=goal_1,
            ours=rounds.figure(name),
            peers={textbooks: rounds.figure(textbooks)},
            **own,
        )
        yield Line(f"G2{name}", f"{what}, beside the whole step of the least DCGAN-64 (8 to 1 maps, batch {BATCH_64})",
                   goal=goal_2, ours=rounds.figure(name),
                   peers={"plain loop": lambda: tutorial(dcgan(64, 8, 4), 4, BATCH_64, 1)}, **own)  # fmt: skip
    with apart() as elsewhere:  # ours has the whole process keep the memory that a step frees
        yield Line(
            "G3", f"step of a DCGAN-256 ({WIDEST_256} to {WIDEST_256 >> 5} maps, batch {BATCH_256}), float32", ">=", 1.25,
            ours=lambda: ours(dcgan(256, WIDEST_256, 6), 4, BATCH_256)[0],
            peers={"plain loop, NCHW, its own process": elsewhere(plain_256)}, check=same_step, clock="own", warm=False,
        )  # fmt: skip
