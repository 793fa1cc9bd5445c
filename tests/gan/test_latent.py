"""Latents and seeds: functions of what they are told, and of nothing else."""

from __future__ import annotations

import torch

from cxr.gan.latent import mix_seed, normal_latents, uniform_latents


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
