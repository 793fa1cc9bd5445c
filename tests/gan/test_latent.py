"""Latents and seeds: functions of what they are told, and of nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm, truncnorm

from cxr.errors import UserError
from cxr.gan.latent import interpolate, mix_seed, normal_latents, truncated, uniform_latents


def test_latents_depend_on_seed_and_index_only() -> None:
    whole = normal_latents(2500, 5, seed=3, start=0)
    torch.testing.assert_close(normal_latents(1400, 5, seed=3, start=1000), whole[1000:2400], rtol=0, atol=0)
    assert not torch.equal(normal_latents(10, 5, seed=4, start=0), whole[:10])
    assert len(torch.unique(whole[:, 0])) > 2490  # blocks are not repeats of each other
    assert abs(float(whole.mean())) < 0.05
    assert abs(float(whole.std()) - 1) < 0.05


def test_uniform_latents_fill_their_range_and_depend_on_seed_and_index_only() -> None:
    whole = uniform_latents(2500, 5, seed=3, start=0)
    torch.testing.assert_close(uniform_latents(1400, 5, seed=3, start=1000), whole[1000:2400], rtol=0, atol=0)
    assert not torch.equal(uniform_latents(10, 5, seed=4, start=0), whole[:10])
    assert -1 <= float(whole.min()) < -0.99
    assert 0.99 < float(whole.max()) < 1
    assert abs(float(whole.std()) - 3**-0.5) < 0.01


def test_mixed_seeds_differ_in_every_part_and_order() -> None:
    seeds = {mix_seed(0, 1), mix_seed(1, 0), mix_seed(0), mix_seed(0, 0), mix_seed("0/1", 2), mix_seed(0, 12)}
    assert len(seeds) == 6
    assert all(0 <= s < 2**63 for s in seeds)


def test_no_truncation_leaves_latents_as_they_are() -> None:
    z = normal_latents(3, 4, seed=0, start=0)
    assert truncated(z, None, "normal") is z
    assert torch.equal(truncated(z, 40.0, "normal"), z), "nothing lies out there"


@pytest.mark.parametrize("t", [0.1, 1.0, 2.0])
def test_truncated_normal_latents_follow_the_truncated_law(t: float) -> None:
    z = normal_latents(4000, 5, seed=3, start=0)
    held = truncated(z, t, "normal")
    assert held.dtype == torch.float32
    assert float(held.abs().max()) <= np.float32(t)
    assert kstest(held.numpy().ravel(), truncnorm(-t, t).cdf).pvalue > 0.01
    assert kstest(z.clamp(-t, t).numpy().ravel(), truncnorm(-t, t).cdf).pvalue < 1e-3, "the test sees a clamp"


def test_truncation_keeps_order_sign_and_what_stands_around() -> None:
    z = torch.tensor([-30.0, -6.0, -2.0, -0.1, 0.0, 0.1, 2.0, 6.0, 30.0])
    held = truncated(z, 1.5, "normal")
    assert (held.diff() >= 0).all() and (held[1:-1].diff() > 0).all()
    assert torch.equal(held, -truncated(-z, 1.5, "normal"))
    assert float(held[0]) == -1.5 and float(held[4]) == 0
    assert torch.equal(truncated(z[3:5], 1.5, "normal"), held[3:5])
    by_hand = norm.ppf(norm.cdf(-1.5) + norm.cdf(-2.0) * (norm.cdf(1.5) - norm.cdf(-1.5)))
    assert float(held[2]) == pytest.approx(by_hand, rel=1e-6)


def test_truncation_is_in_units_of_the_generators_own_scale() -> None:
    z = normal_latents(50, 5, seed=3, start=0)
    torch.testing.assert_close(
        truncated(0.02 * z, 1.0, "normal", scale=0.02), 0.02 * truncated(z, 1.0, "normal")
    )
    u = uniform_latents(50, 5, seed=3, start=0)
    assert torch.equal(truncated(u, 0.5, "uniform"), 0.5 * u)


@pytest.mark.parametrize("t", [0.0, -1.0, math.inf, math.nan])
def test_a_truncation_that_is_none(t: float) -> None:
    with pytest.raises(UserError, match=r"truncation: got .* set truncation=1"):
        truncated(torch.zeros(1), t, "normal")
    with pytest.raises(UserError, match=r"truncation: got 1\.5, .*U\(-1, 1\).* set truncation=0\.7"):
        truncated(torch.zeros(1), 1.5, "uniform")


def test_interpolation_goes_from_one_to_the_other_at_their_lengths() -> None:
    a, b = normal_latents(2, 100, seed=5, start=0)
    way = interpolate(a, b, 9, "normal")
    torch.testing.assert_close(way[[0, -1]], torch.stack([a, b]))
    lengths = way.norm(dim=1)
    assert (lengths >= min(a.norm(), b.norm()) - 1e-4).all()
    assert (0.5 * (a + b)).norm() < 0.8 * lengths[4], "the straight line would be shorter"
    torch.testing.assert_close(
        way.diff(dim=0).norm(dim=1), way.diff(dim=0).norm(dim=1).mean().expand(8), rtol=0.05, atol=0
    )
    torch.testing.assert_close(interpolate(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 3, "normal")[1],
                               torch.tensor([0.5**0.5, 0.5**0.5]))  # fmt: skip


def test_interpolation_where_there_is_no_great_circle() -> None:
    a = torch.tensor([1.0, -0.5])
    for other in (2 * a, -a, 0 * a):
        torch.testing.assert_close(
            interpolate(a, other, 3, "normal"), torch.stack([a, (a + other) / 2, other])
        )
    u, v = uniform_latents(2, 6, seed=0, start=0)
    torch.testing.assert_close(interpolate(u, v, 3, "uniform")[1], (u + v) / 2)
