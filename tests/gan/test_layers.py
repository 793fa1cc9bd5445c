"""What several networks are made of: conditional batch norm, minibatch statistic, projection, and where they fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cxr.gan import acrnet, covidgan, salehinejad, talukdar
from cxr.gan.layers import ConditionalBatchNorm, MinibatchStd, Projection

LABELS = torch.tensor([0, 1, 0, 1])
SIDE: dict[str, Any] = {"image_size_px": 16, "channels": 1, "seed": 0}


def test_a_conditional_norm_begins_as_a_batch_norm_and_learns_by_class() -> None:
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    norm = ConditionalBatchNorm(2, 3)
    torch.testing.assert_close(norm(x, LABELS), nn.BatchNorm2d(3)(x))
    norm(x, LABELS)[LABELS == 1].square().sum().backward()
    assert norm.gain.grad is not None and norm.gain.grad[1].abs().min() > 0 and not norm.gain.grad[0].any()


def test_weights_of_classes_blend_gains_and_shifts() -> None:
    norm = ConditionalBatchNorm(2, 1).eval()
    with torch.no_grad():
        norm.gain.copy_(torch.tensor([[1.0], [3.0]]))
        norm.shift.copy_(torch.tensor([[0.0], [8.0]]))
    x = torch.full((1, 1, 1, 1), 2.0) * (1 + norm.norm.eps) ** 0.5  # running mean 0 and variance 1
    found = norm(x, torch.tensor([[0.25, 0.75]]))
    assert found.item() == pytest.approx(2.0 * 2.5 + 6.0)


def test_the_minibatch_statistic_by_hand() -> None:
    x = torch.tensor([0.0, 2.0, 5.0, 5.0]).view(4, 1, 1, 1)
    found = MinibatchStd(group=2)(x)
    assert found.shape == (4, 2, 1, 1)
    torch.testing.assert_close(found[:, 1].flatten(), torch.tensor([1.0, 1.0, 1e-4, 1e-4]))
    assert MinibatchStd(group=4)(x[:3])[:, 1].unique().numel() == 1  # three make one group
    assert MinibatchStd(group=2)(x[:3])[:, 1].flatten().tolist() == pytest.approx(
        [1e-4] * 3
    )  # no pairs: of one each


def test_a_projection_by_hand() -> None:
    projection = Projection(2, 3)
    features = torch.arange(12.0).view(1, 3, 2, 2)
    with torch.no_grad():
        projection.embedding.weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, -1.0]]))
    assert projection(features, torch.tensor([1])).item() == (0 + 1 + 2 + 3) - (8 + 9 + 10 + 11)
    assert projection(features, torch.tensor([0])).item() == 0


GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "talukdar": lambda **told: talukdar.Generator(
        latent_dim=6, widths=[4, 4, 4], negative_slope=0.2, init="glorot", **SIDE, **told
    ),
    "acrnet": lambda **told: acrnet.Generator(latent_dim=6, widths=[8, 4], n_batch_norm=2, **SIDE, **told),
    "salehinejad": lambda **told: salehinejad.Generator(latent_dim=6, widths=[8, 4], **SIDE, **told),
}
DISCRIMINATORS: dict[str, Callable[..., nn.Module]] = {
    "talukdar": lambda **told: talukdar.Discriminator(
        widths=[4, 8], negative_slope=0.2, dropout=0.2, init="glorot", **SIDE, **told
    ),
    "acrnet": lambda **told: acrnet.Discriminator(
        widths=[4, 8], n_batch_norm=1, negative_slope=0.2, **SIDE, **told
    ),
    "salehinejad": lambda **told: salehinejad.Discriminator(
        widths=[4, 8], negative_slope=0.2, **SIDE, **told
    ),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_can_be_told_a_class(
    name: str, step_reaches_every_parameter: Callable[[nn.Module], None]
) -> None:
    generator: Any = GENERATORS[name](n_classes=2)
    z = generator.sample_latent(4, seed=0, start=0)
    (
        generator(z, LABELS) * torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    ).sum().backward()
    step_reaches_every_parameter(generator)
    assert not torch.allclose(generator.eval()(z, LABELS), generator(z, 1 - LABELS))
    plain: Any = GENERATORS[name]()
    assert plain.n_classes is None and "norms" not in {k.split(".")[0] for k in plain.state_dict()}


@pytest.mark.parametrize("name", DISCRIMINATORS)
@pytest.mark.parametrize("minibatch_std", [False, True])
def test_every_discriminator_takes_projection_and_minibatch_statistic(
    name: str, minibatch_std: bool, step_reaches_every_parameter: Callable[[nn.Module], None]
) -> None:
    discriminator: Any = DISCRIMINATORS[name](n_classes=2, minibatch_std=minibatch_std)
    x = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    logits = discriminator(x, LABELS)
    assert logits.shape == (4,) and logits.dtype == torch.float32
    (logits * torch.arange(1.0, 5.0)).sum().backward()
    step_reaches_every_parameter(discriminator)
    discriminator.eval()
    assert not torch.allclose(discriminator(x, LABELS), discriminator(x, 1 - LABELS))
    alone, together = discriminator(x[:1], LABELS[:1]), discriminator(x, LABELS)[:1]
    assert torch.allclose(alone, together, atol=1e-6) is not minibatch_std


def test_covidgans_other_heads_and_norms(step_reaches_every_parameter: Callable[[nn.Module], None]) -> None:
    generator = covidgan.Generator(
        n_classes=2,
        latent_dim=6,
        latent_std=1.0,
        embedding_dim=3,
        widths=[8, 4],
        conditional_norm=True,
        **SIDE,
    )
    z = generator.sample_latent(4, seed=0, start=0)
    images = generator(z, LABELS)
    discriminator = covidgan.Discriminator(
        n_classes=2, widths=[4, 8], strides=[2, 2], negative_slope=0.2, dropout=0.0, head="projection",
        minibatch_std=True, **SIDE,
    )  # fmt: skip
    logits = discriminator(images, LABELS)
    assert isinstance(logits, torch.Tensor) and logits.shape == (4,)
    (logits * torch.arange(1.0, 5.0)).sum().backward()
    step_reaches_every_parameter(generator)
    step_reaches_every_parameter(discriminator)
