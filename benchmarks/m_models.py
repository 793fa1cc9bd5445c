"""M. Models: a frozen backbone whose features are computed once, a frozen step, memory layout.

Peers are what one writes by hand with the same libraries: features computed in every epoch; a body whose gradients nobody
turned off, since the optimiser has the head's weights only; channels first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cxr  # noqa: F401  # first: it lets torchvision, and so timm, be imported

# isort: split
import numpy as np
import timm
import torch
from torch import Tensor

from benchmarks.harness import Line, cpu_seconds

SIDE, EPOCHS = 160, 20
FROZEN_SIDE, TUNED_SIDE = 96, 96


def lines() -> Iterator[Line]:
    """Yield M1 and M2; networks are made when their line's turn comes."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        yield once(Path(scratch))
    yield frozen_step()
    for name in ("resnet50", "densenet121"):
        yield layout(name)


def learner(name: str, side: int, frozen: bool, channels_last: bool = True) -> Any:
    """Return cxr's task: a backbone of random weights under a dense layer."""
    from cxr.classifier.backbone import Backbone
    from cxr.loss.classification import BCE
    from cxr.task.classifier import ClassifierTask

    torch.manual_seed(0)
    network = Backbone(
        name=name, image_size_px=side, channels=3, n_outputs=1, head="linear", dropout=0.0, init="keras", frozen=frozen,
        pretrained=False, checkpoint_path=None,
    )  # fmt: skip
    return ClassifierTask(
        network=network, loss=BCE(pos_weight=None, label_smoothing=0.0), optimizer=partial(torch.optim.Adam, lr=1e-3),
        scheduler=None, classes=["A", "B"], multi_label=False, channels_last=channels_last,
    )  # fmt: skip


def step(task: Any, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> None:
    """Take one step: forward, backward, update; without Lightning, whose cost is the same on both sides."""
    loss = task.loss(task.answer(batch), batch["label"][:, 1:])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def once(scratch: Path) -> Line:
    """M1: 20 epochs from an empty folder, hashes and files included. The peer's batches are all alike: some are timed."""
    from cxr.callback.frozen_features import FrozenFeatures
    from cxr.data.module import CXRDataModule

    n, some = 160, 32
    labels = np.eye(2, dtype=np.float32)[np.arange(n) % 2]
    images = np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE), dtype=np.uint8)
    folders = iter(range(10**6))

    def training(keep: bool, epochs: int, n: int = n) -> Any:
        task = learner("densenet121", SIDE, frozen=True)
        data = CXRDataModule(
            images=images, labels=labels, parts={"train": np.arange(n)}, batch_size=32, eval_batch_size=32,
            num_workers=0, drop_last=False, seed=0,
        )  # fmt: skip
        optimizer = task.configure_optimizers()

        def run() -> Any:
            if keep:
                plugin = SimpleNamespace(forward_context=torch.no_grad)
                trainer: Any = SimpleNamespace(
                    world_size=1, max_epochs=epochs, precision="32-true", precision_plugin=plugin,
                    strategy=SimpleNamespace(root_device=torch.device("cpu")),
                )  # fmt: skip
                FrozenFeatures(
                    data=data, folder=scratch / str(next(folders)), images_sha256="random", views=None, augment=None,
                    say=lambda _: None,
                ).on_fit_start(trainer, task)  # fmt: skip
            loader = data.train_dataloader()
            for epoch in range(epochs):
                loader.sampler.set_epoch(epoch)
                for batch in loader:
                    step(task, optimizer, batch)
            return task

        return run

    def check() -> str:
        # of a few images; 20 epochs of a smaller network are a test's
        kept, plain = (training(keep, 3, 12)().network.head.state_dict() for keep in (True, False))
        worst = max(float((kept[k] - plain[k]).abs().max()) for k in kept)
        assert worst <= 1e-6, f"weights of the head differ by {worst:.1e} after 3 epochs of 12 images"
        return f"weights of the head after 3 epochs of 12 images differ by {worst:.0e} (≤ 1e-06)"

    ours, theirs = training(True, EPOCHS), training(False, 1, some)

    def fresh() -> float:
        nonlocal ours
        ours = training(True, EPOCHS)  # not timed: building the network
        return cpu_seconds(ours)

    return Line(
        "M1", f"frozen densenet121, {SIDE} px, {EPOCHS} epochs, features once (peer: {some} images, × {n * EPOCHS // some})",
        ">=", 19.0, check=check, ours=fresh, peers={"features=off": lambda: cpu_seconds(theirs) * (n * EPOCHS // some)},
        clock="own", warm=False,
    )  # fmt: skip


def batch_of(side: int, n: int = 16) -> dict[str, Tensor]:
    """Return a batch of noise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, side, side), generator=generator, dtype=torch.uint8)
    return {"image": images, "label": torch.eye(2)[torch.arange(n) % 2]}


def frozen_step() -> Line:
    """M2: the textbook's frozen network: its optimiser has the head's weights, and that is all."""
    side, batch = FROZEN_SIDE, batch_of(FROZEN_SIDE)
    task = learner("resnet50", side, frozen=True)
    optimizer = task.configure_optimizers()
    textbook: Any = timm.create_model("resnet50", pretrained=False, num_classes=1)
    head = torch.optim.Adam(textbook.fc.parameters(), lr=1e-3)
    x = (batch["image"].float() / 127.5 - 1).expand(-1, 3, -1, -1).contiguous()
    target = batch["label"][:, 1:]

    def theirs() -> None:
        head.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(textbook(x), target).backward()
        head.step()

    def check() -> str:
        step(task, optimizer, batch)
        learnt = [k for k, p in task.network.named_parameters() if p.requires_grad]
        moved = any(m.training for m in task.network.body.modules())
        assert learnt == [k for k in learnt if k.startswith("head.")] and not moved, "the body is not frozen"
        return f"only {', '.join(learnt)} learn; the body is in evaluation mode"

    return Line(
        "M2a", f"a step of a frozen resnet50, {side} px, batch 16", ">=", 2.8, check=check,
        ours=lambda: step(task, optimizer, batch), peers={"gradients left on": theirs},
    )  # fmt: skip


def layout(name: str) -> Line:
    """M2: a step of a network that learns."""
    side, batch = TUNED_SIDE, batch_of(TUNED_SIDE, 4)
    tasks = [learner(name, side, frozen=False, channels_last=last) for last in (True, False)]
    optimizers = [task.configure_optimizers() for task in tasks]

    def check() -> str:
        with torch.no_grad():
            ours, theirs = (task.eval()(batch["image"]) for task in tasks)
        for task in tasks:
            task.train()
        worst = float((ours - theirs).abs().max() / theirs.abs().max())
        assert worst <= 1e-4, f"logits differ by {worst:.1e}"
        return f"logits of {name} in both layouts agree to {worst:.0e} (≤ 1e-04)"

    return Line(
        "M2b", f"a step of {name} that learns, {side} px, batch 4, channels last", ">=", 1.15, check=check,
        ours=lambda: step(tasks[0], optimizers[0], batch),
        peers={"channels first": lambda: step(tasks[1], optimizers[1], batch)},
    )  # fmt: skip
