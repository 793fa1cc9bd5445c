"""The classifier's task: it learns, its numbers are scikit-learn's, its checkpoints are plain."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from cxr.classifier.base import Classifier
from cxr.classifier.talukdar_cnn import TalukdarCNN
from cxr.errors import UserError
from cxr.loss.classification import BCE, CrossEntropy, Focal, WeightedBCE
from cxr.task.classifier import ClassifierTask, softmax_log_odds

NAN = float("nan")


class Tiny(Classifier):
    """Logits from 8 x 8 images: one dense layer."""

    def __init__(self, n_outputs: int = 1) -> None:
        super().__init__()
        self.image_size_px, self.channels, self.n_outputs = 8, 1, n_outputs
        self.weights, self.last_conv = "random", "dense"
        self.dense = nn.Linear(64, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.dense(images.flatten(1))
        return logits


def make(network: Classifier | None = None, **changes: Any) -> ClassifierTask:
    torch.manual_seed(0)
    network = Tiny() if network is None else network
    arguments: dict[str, Any] = {
        "loss": BCE(pos_weight=None, label_smoothing=0.0),
        "optimizer": partial(torch.optim.Adam, lr=0.01),
        "scheduler": None,
        "classes": ["NORMAL", "SICK"],
        "multi_label": False,
        "channels_last": True,
    }
    return ClassifierTask(network=network, **{**arguments, **changes})


def softmax() -> CrossEntropy:
    return CrossEntropy(class_weight=None, label_smoothing=0.0)


def batches(labels: Tensor, size_px: int = 8, batch_size: int = 8, separable: bool = True) -> DataLoader[Any]:
    """Images of noise; with `separable`, class k is brighter in its own band."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 120, (len(labels), 1, size_px, size_px), generator=generator)
    if separable:
        for row, label in enumerate(labels):
            band = int(label.nan_to_num().argmax()) * (size_px // labels.shape[1])
            images[row, :, band : band + size_px // labels.shape[1]] += 130
    rows = [
        {"image": images[i].to(torch.uint8), "label": labels[i], "row": torch.tensor(i)}
        for i in range(len(labels))
    ]
    return DataLoader(rows, batch_size=batch_size)  # type: ignore[arg-type]  # a list is a dataset


def one_hot(n: int, n_classes: int = 2) -> Tensor:
    return torch.nn.functional.one_hot(torch.arange(n) % n_classes, n_classes).float()


def trainer(folder: Path, **changes: Any) -> lightning.Trainer:
    arguments: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
        "max_epochs": 3,
    }
    return lightning.Trainer(**{**arguments, **changes})


@pytest.mark.parametrize(("n_outputs", "n_classes"), [(1, 2), (2, 2), (3, 3)])
def test_learns_a_separable_set(tmp_path: Path, n_outputs: int, n_classes: int) -> None:
    loss = BCE(pos_weight=None, label_smoothing=0.0) if n_outputs == 1 else softmax()
    network = TalukdarCNN(image_size_px=24, channels=3, n_outputs=n_outputs, dropout=0.0, init="keras")
    task = make(
        network, loss=loss, classes=["A", "B", "C"][:n_classes], optimizer=partial(torch.optim.Adam, lr=1e-3)
    )
    loader = batches(one_hot(48, n_classes), size_px=24)
    fit = trainer(tmp_path, max_epochs=6)
    fit.fit(task, loader, loader)
    assert fit.callback_metrics["val/accuracy"] == 1.0
    assert fit.callback_metrics["val/auroc"] == 1.0
    assert {"train/loss", "train/accuracy", "val/loss"} <= set(fit.callback_metrics)


def score(task: ClassifierTask, loader: DataLoader[Any], folder: Path) -> tuple[dict[str, float], np.ndarray]:
    run = trainer(folder)
    [values] = run.validate(task, loader, verbose=False)
    predicted: Any = run.predict(task, loader)
    assert torch.cat([p["row"] for p in predicted]).tolist() == list(range(len(loader.dataset)))  # type: ignore[arg-type]  # a list
    return dict(values), task.probabilities(torch.cat([p["logits"] for p in predicted])).numpy()


@pytest.mark.parametrize(("n_outputs", "n_classes"), [(1, 2), (2, 2), (4, 4)])
def test_one_label_agrees_with_sklearn(tmp_path: Path, n_outputs: int, n_classes: int) -> None:
    loss = BCE(pos_weight=None, label_smoothing=0.0) if n_outputs == 1 else softmax()
    labels = one_hot(43, n_classes)  # the last batch is smaller
    task = make(Tiny(n_outputs), loss=loss, classes=list("ABCD")[:n_classes])
    values, probabilities = score(task, batches(labels, separable=False), tmp_path)
    target = labels.argmax(1).numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    assert probabilities.shape == (43, n_classes)
    assert values["val/accuracy"] == pytest.approx(accuracy_score(target, probabilities.argmax(1)))
    assert values["val/loss"] == pytest.approx(log_loss(target, probabilities), rel=1e-5)
    scores = probabilities[:, 1] if n_classes == 2 else probabilities
    assert values["val/auroc"] == pytest.approx(roc_auc_score(target, scores, multi_class="ovr"))


def test_independent_labels_with_gaps_agree_with_sklearn(tmp_path: Path) -> None:
    labels = torch.rand(41, 3, generator=torch.Generator().manual_seed(5)).round()
    labels[3, 0] = labels[7, 2] = labels[8, 2] = NAN
    task = make(Tiny(3), classes=["A", "B", "C"], multi_label=True)
    values, probabilities = score(task, batches(labels, separable=False), tmp_path)
    target = labels.numpy()
    known = ~np.isnan(target)
    assert values["val/accuracy"] == pytest.approx(accuracy_score(target[known], probabilities[known] > 0.5))
    assert values["val/loss"] == pytest.approx(log_loss(target[known], probabilities[known]), rel=1e-5)
    each = [roc_auc_score(target[known[:, c], c], probabilities[known[:, c], c]) for c in range(3)]
    assert values["val/auroc"] == pytest.approx(np.mean(each))


def test_training_metrics_are_those_of_the_epoch(tmp_path: Path) -> None:
    """With a learning rate of 0, training and validation on the same images give the same numbers."""
    task = make(optimizer=partial(torch.optim.SGD, lr=0.0))
    loader = batches(one_hot(21), separable=False)
    run = trainer(tmp_path, max_epochs=2)
    run.fit(task, loader, loader)
    for name in ("loss", "accuracy"):
        assert run.callback_metrics[f"train/{name}"] == pytest.approx(
            float(run.callback_metrics[f"val/{name}"])
        )


def test_checkpoint_is_plain_and_resumes_within_an_epoch(tmp_path: Path) -> None:
    loader = batches(one_hot(40))  # five steps an epoch
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=7, save_top_k=-1, filename="{step}")
    whole = make()
    first = trainer(tmp_path, max_epochs=2, enable_checkpointing=True, callbacks=[keep])
    first.fit(whole, loader)
    file = tmp_path / "step=7.ckpt"
    saved = torch.load(file, weights_only=True)
    assert saved["classifier"]["classes"] == ["NORMAL", "SICK"] and saved["classifier"]["weights"] == "random"
    assert set(saved["state_dict"]) == {"network.dense.weight", "network.dense.bias"}
    resumed = make()
    resumed.on_load_checkpoint(saved)
    assert float(resumed._metrics["train"]["loss"].weight) == 16.0  # two batches into the second epoch
    with pytest.raises(UserError, match=r"set data\.classes=\[NORMAL,SICK\]"):
        make(classes=["SICK", "NORMAL"]).on_load_checkpoint(saved)


class Rest(Sampler[int]):
    """Rows in order; the first pass begins at `start`, as a sampler that resumes within an epoch does."""

    def __init__(self, n: int, start: int) -> None:
        self.n, self.start = n, start

    def __iter__(self) -> Iterator[int]:
        start, self.start = self.start, 0
        return iter(range(start, self.n))

    def __len__(self) -> int:
        return self.n


def test_resumed_within_an_epoch_equals_uninterrupted(tmp_path: Path) -> None:
    rows = batches(one_hot(40)).dataset
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=7, save_top_k=-1, filename="{step}")
    whole, resumed = make(), make()
    first = trainer(tmp_path, max_epochs=2, enable_checkpointing=True, callbacks=[keep])
    first.fit(whole, DataLoader(rows, batch_size=8))
    second = trainer(tmp_path, max_epochs=2)
    second.fit(
        resumed, DataLoader(rows, batch_size=8, sampler=Rest(40, 16)), ckpt_path=tmp_path / "step=7.ckpt"
    )
    assert torch.equal(whole.network.dense.weight, resumed.network.dense.weight)  # type: ignore[union-attr]  # Tiny's
    assert dict(first.callback_metrics) == dict(second.callback_metrics)


def test_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True, filename="a")
    task = make(optimizer=partial(torch.optim.SGD, lr=float("inf")))
    run = trainer(tmp_path, enable_checkpointing=True, callbacks=[keep])
    with pytest.raises(UserError, match=r"the weights are not finite after step 1 \(") as caught:
        run.fit(task, batches(one_hot(40)))
    assert (
        str(tmp_path) in str(caught.value)
        and "optimizer.lr" in str(caught.value)
        and "\n" not in str(caught.value)
    )


def test_a_broken_network_is_never_saved(tmp_path: Path) -> None:
    task = make()
    run = trainer(tmp_path, max_epochs=1)
    run.fit(task, batches(one_hot(8)))
    task._bad_step = torch.tensor(4)  # as left on a GPU, where the step does not look
    with pytest.raises(UserError, match="step 4"):
        run.save_checkpoint(tmp_path / "broken.ckpt")
    assert not (tmp_path / "broken.ckpt").exists()


def test_scheduler_steps_each_epoch(tmp_path: Path) -> None:
    task = make(scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1))
    run = trainer(tmp_path, max_epochs=2)
    run.fit(task, batches(one_hot(8)))
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.1**2)


def test_optimizer_gets_trainable_parameters_only() -> None:
    network = Tiny()
    network.dense.bias.requires_grad_(False)
    optimizer = make(network).configure_optimizers()
    assert [p.shape for p in optimizer.param_groups[0]["params"]] == [network.dense.weight.shape]


@pytest.mark.parametrize(
    ("n_outputs", "loss", "classes", "multi_label", "override"),
    [
        (1, "bce", ["A", "B", "C"], False, r"set classifier\.n_outputs=3"),
        (2, "bce", ["A", "B"], True, None),
        (1, "bce", ["A", "B"], True, r"set classifier\.n_outputs=2"),
        (1, "softmax", ["A", "B"], False, "set loss=bce"),
        (2, "softmax", ["A", "B"], True, "set loss=bce"),
        (2, "bce", ["A", "B"], False, "set loss=cross_entropy"),
        (2, "weighted", ["A", "B"], False, "set loss=cross_entropy"),
        (2, "focal", ["A", "B"], False, "set loss=cross_entropy"),
        (1, "weighted", ["A", "B"], False, None),
    ],
)
def test_outputs_loss_and_labels_must_fit(
    n_outputs: int, loss: str, classes: list[str], multi_label: bool, override: str | None
) -> None:
    chosen = {
        "softmax": softmax(),
        "bce": BCE(pos_weight=None, label_smoothing=0.0),
        "weighted": WeightedBCE(pos_weight=None, neg_weight=None, label_smoothing=0.0),
        "focal": Focal(gamma=2.0, alpha=None),
    }[loss]
    if override is None:
        make(Tiny(n_outputs), loss=chosen, classes=classes, multi_label=multi_label)
    else:
        with pytest.raises(UserError, match=override):
            make(Tiny(n_outputs), loss=chosen, classes=classes, multi_label=multi_label)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"set cache\.size_px=8"):
        make()(torch.zeros(1, 1, 16, 16, dtype=torch.uint8))


def test_channels_last_changes_memory_not_numbers() -> None:
    images = torch.randint(0, 256, (2, 1, 24, 24), dtype=torch.uint8)
    logits = []
    for channels_last in (True, False):
        torch.manual_seed(0)
        network = TalukdarCNN(image_size_px=24, channels=3, n_outputs=1, dropout=0.0, init="keras")
        task = make(network, channels_last=channels_last).eval()
        assert network.conv2.weight.is_contiguous(memory_format=torch.channels_last) is channels_last
        logits.append(task(images))
    torch.testing.assert_close(logits[0], logits[1])


def test_softmax_over_independent_labels_agrees_with_sklearn(tmp_path: Path) -> None:
    """densenet14: probabilities sum to 1, and loss, threshold and AUROC see just these."""
    labels = torch.rand(41, 3, generator=torch.Generator().manual_seed(5)).round()
    labels[3, 0] = labels[7, 2] = NAN
    task = make(Tiny(3), classes=["A", "B", "C"], multi_label=True, output="softmax")
    values, probabilities = score(task, batches(labels, separable=False), tmp_path)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    with torch.no_grad():
        batch = next(iter(batches(labels, separable=False)))
        raw = task.network(batch["image"].float() / 127.5 - 1)
    np.testing.assert_allclose(probabilities[:8], raw.softmax(1).numpy(), rtol=1e-4)
    target = labels.numpy()
    known = ~np.isnan(target)
    assert values["val/accuracy"] == pytest.approx(accuracy_score(target[known], probabilities[known] > 0.5))
    assert values["val/loss"] == pytest.approx(log_loss(target[known], probabilities[known]), rel=1e-4)
    each = [roc_auc_score(target[known[:, c], c], probabilities[known[:, c], c]) for c in range(3)]
    assert values["val/auroc"] == pytest.approx(np.mean(each))


def test_log_odds_of_a_softmax() -> None:
    logits = torch.tensor([[0.0, 1.0, -2.0], [300.0, -300.0, 0.0]], requires_grad=True)
    torch.testing.assert_close(softmax_log_odds(logits).sigmoid(), logits.softmax(dim=1))
    softmax_log_odds(logits).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize(("classes", "multi_label"), [(["A", "B"], False), (["A"], True)])
def test_softmax_output_is_for_independent_labels(classes: list[str], multi_label: bool) -> None:
    with pytest.raises(UserError, match=r"set task\.output=logits"):
        make(Tiny(1), classes=classes, multi_label=multi_label, output="softmax")


@pytest.mark.parametrize(
    ("n_outputs", "multi_label", "pos_weight"), [(1, False, [0.25]), (2, True, [0.75, 0.25])]
)
def test_the_loss_sees_the_training_labels_that_have_an_output(
    n_outputs: int, multi_label: bool, pos_weight: list[float]
) -> None:
    loss = WeightedBCE(pos_weight=None, neg_weight=None, label_smoothing=0.0)
    task = make(Tiny(n_outputs), loss=loss, multi_label=multi_label)
    task.fit_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]))
    assert loss.pos_weight is not None and loss.pos_weight.tolist() == pos_weight
    make().fit_loss(torch.zeros(3, 2))  # a loss without such weights stays as it is
