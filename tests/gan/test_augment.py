"""What D is shown: repeatable draws, gradients through them, each change by hand, ADA's p, and no mirror image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cxr.errors import UserError
from cxr.gan.augment import ADA, DiffAugment

OFF = {
    "brightness": 0.0,
    "contrast": 0.0,
    "translation": 0.0,
    "zoom": 0.0,
    "rotation_deg": 0.0,
    "cutout": 0.0,
}
ALL = {
    "brightness": 0.5,
    "contrast": 0.5,
    "translation": 0.125,
    "zoom": 0.1,
    "rotation_deg": 7.0,
    "cutout": 0.3,
}


def diff(**changes: float) -> DiffAugment:
    return DiffAugment(**{**OFF, **changes})


def ada(**changes: Any) -> ADA:
    schedule = {"target": 0.6, "ramp_images": 100, "every_steps": 2, "initial_p": 0.0, "max_p": 0.8}
    return ADA(**{**ALL, **schedule, **changes})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 16, channels: int = 1, side: int = 16) -> Tensor:
    return 2 * torch.rand(n, channels, side, side, generator=seeded(7)) - 1


@pytest.mark.parametrize("channels", [1, 3])
def test_draws_come_from_the_generator_alone(channels: int) -> None:
    x, augment = images(channels=channels), diff(**ALL)
    torch.manual_seed(1)
    first, state = augment(x, seeded()), torch.get_rng_state()
    torch.manual_seed(2)
    torch.rand(5)
    assert torch.equal(first, augment(x, seeded()))
    assert not torch.equal(first, augment(x, seeded(1)))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    assert first.shape == x.shape and first.dtype == x.dtype


def test_one_strength_leaves_the_draws_of_the_others() -> None:
    """As many numbers are taken whatever is on: what follows in a step is the same, too."""
    x, a, b = images(), seeded(), seeded()
    alone = diff(brightness=0.5)(x, a)
    both = diff(brightness=0.5, cutout=0.5)(x, b)
    cut = both == 0
    assert 0 < cut.float().mean() < 0.5 and torch.equal(both[~cut], alone[~cut])
    assert torch.equal(a.get_state(), b.get_state())


def test_nothing_to_do_returns_the_input_itself() -> None:
    x, generator = images(), seeded()
    assert diff()(x, generator) is x
    assert ada(initial_p=0.0)(x, generator) is x


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_type_and_layout_stay(memory: torch.memory_format, dtype: torch.dtype) -> None:
    x = images(channels=3).to(dtype).contiguous(memory_format=memory)
    out = diff(**ALL)(x, seeded())
    assert out.dtype == dtype and out.is_contiguous(memory_format=memory)


def test_gradients_once_and_twice() -> None:
    """Twice as R1 needs them: the gradient of a squared gradient."""
    x = images(2, side=5).double().requires_grad_()
    augment = diff(**ALL)

    def changed(x: Tensor) -> Tensor:
        return augment(x, seeded())

    assert torch.autograd.gradcheck(changed, (x,))
    assert torch.autograd.gradgradcheck(lambda x: changed(x).square(), (x,))


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_grey_values_are_unbiased(name: str) -> None:
    x = images(1, side=4)
    n = 40000
    mean = diff(**{name: 0.5})(x.expand(n, -1, -1, -1), seeded()).mean(dim=0)
    # the amounts' deviation is 0.5 / √3: a mean of n is off by less than five of its own
    torch.testing.assert_close(mean, x[0], rtol=0, atol=5 * 0.5 / 3**0.5 / n**0.5 * 1.5)


def test_brightness_by_hand() -> None:
    x = images()
    moved = diff(brightness=0.5)(x, seeded()) - x
    u = 2 * torch.rand(16, 14, generator=seeded())[:, 0] - 1
    torch.testing.assert_close(moved, (0.5 * u).view(-1, 1, 1, 1).expand_as(x), rtol=0, atol=1e-6)
    assert (moved.abs() <= 0.5).all()


def test_contrast_by_hand() -> None:
    x = torch.tensor([-0.5, 0.0, 0.0, 0.9]).view(1, 1, 2, 2)  # mean 0.1
    u = float(2 * torch.rand(1, 14, generator=seeded())[0, 1] - 1)
    factor = 1 + 0.4 * u
    expected = [0.1 - 0.6 * factor, 0.1 - 0.1 * factor, 0.1 - 0.1 * factor, 0.1 + 0.8 * factor]
    out = diff(contrast=0.4)(x, seeded())
    torch.testing.assert_close(out.flatten(), torch.tensor(expected))


def test_translation_by_hand() -> None:
    """Every whole shift of up to a quarter of 4 pixels is met, equally often; the edge is repeated, never black."""
    x = torch.arange(1.0, 17.0).view(1, 1, 4, 4)
    n = 9000
    out = diff(translation=0.25)(x.expand(n, -1, -1, -1), seeded())
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")[0, 0]
    counts = [
        int((out[:, 0] == padded[1 - dy : 5 - dy, 1 - dx : 5 - dx]).all(dim=(1, 2)).sum())
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    assert sum(counts) == n and all(abs(c - 1000) < 5 * 1000**0.5 for c in counts)


def test_rotation_and_zoom_agree_with_grid_sample() -> None:
    x = images(side=15)
    drawn = torch.rand(16, 14, generator=seeded())
    scale = 1 / (1 + 0.1 * (2 * drawn[:, 4] - 1))
    angle = torch.deg2rad(10.0 * (2 * drawn[:, 5] - 1))
    zero = torch.zeros_like(angle)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack((cosine, sine, zero, -sine, cosine, zero), dim=1).view(-1, 2, 3)
    grid = torch.nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    expected = torch.nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(diff(zoom=0.1, rotation_deg=10.0)(x, seeded()), expected, rtol=0, atol=1e-5)


def test_cut_out_by_hand() -> None:
    x = torch.ones(200, 1, 8, 8)
    out = diff(cutout=0.5)(x, seeded())[:, 0]
    centre = torch.rand(200, 14, generator=seeded())[:, 6:8] * 8
    for one, (cx, cy) in zip(out, centre.tolist(), strict=True):
        expected = torch.ones(8, 8)
        for row in range(8):
            for column in range(8):
                if abs(row + 0.5 - cy) < 2 and abs(column + 0.5 - cx) < 2:
                    expected[row, column] = 0
        assert torch.equal(one, expected)


def test_values_leave_the_range_by_no_more_than_is_said() -> None:
    x = images(200)
    out = diff(**ALL)(x, seeded())
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    assert out.abs().max() <= (1 + 0.5 + 0.5 * (1 + mean.abs())).max()
    moved = diff(**{**ALL, "brightness": 0.0, "contrast": 0.0})(x, seeded())
    assert moved.abs().max() <= 1


def test_the_heart_stays_on_its_side() -> None:
    """A bright spot at the image's right is nearer its own side than the mirrored one, in 500 images, all changes on."""
    x = torch.full((500, 1, 32, 32), -1.0)
    x[:, :, 12:20, 20:28] = 1.0
    out = diff(**{**ALL, "cutout": 0.0})(x, seeded())
    left, right = out[..., :16].mean(dim=(1, 2, 3)), out[..., 16:].mean(dim=(1, 2, 3))
    assert (right > left).all()
    assert not hasattr(diff(), "flip")


@pytest.mark.parametrize("p", [0.25, 0.75])
def test_each_transformation_is_done_with_probability_p(p: float) -> None:
    x = images(1).expand(4000, -1, -1, -1)
    for name in ("brightness", "contrast", "translation", "zoom", "rotation_deg"):
        augment = ada(**{**OFF, name: ALL[name]}, initial_p=p)
        done = (augment(x, seeded()) != x).flatten(1).any(dim=1).float().mean()
        nothing = 1 / 25 if name == "translation" else 0.0  # shifts of ± 2 pixels, in both directions 0
        assert abs(float(done) - p * (1 - nothing)) < 5 * (p * (1 - p) / 4000) ** 0.5, name


def test_p_follows_how_surely_real_images_are_told() -> None:
    sure, unsure = torch.tensor([3.0, 1.0, 2.0, 0.1]), torch.tensor([3.0, 1.0, 2.0, -0.1])  # r = 1, 0.5
    augment = ada()
    augment.observe(sure, 4)
    assert augment.probability == 0
    augment.observe(sure, 4)  # two steps, 8 images of 100
    assert augment.probability == pytest.approx(0.08)
    for _ in range(3):
        augment.observe(sure, 4)
    assert augment.probability == pytest.approx(0.16)
    augment.observe(unsure, 4)  # r = 0.75 over the two
    assert augment.probability == pytest.approx(0.24)
    for _ in range(2):
        augment.observe(unsure, 4)
    assert augment.probability == pytest.approx(0.16)
    for _ in range(20):
        augment.observe(unsure, 4)
    assert augment.probability == 0
    for _ in range(40):
        augment.observe(sure, 4)
    assert augment.probability == pytest.approx(0.8)
    for _ in range(2):
        augment.observe(torch.full((4,), float("nan")), 4)  # a step that diverged
    assert augment.probability == pytest.approx(0.72)


@pytest.mark.parametrize("cut", [3, 4])
def test_state_goes_through_a_checkpoint(cut: int) -> None:
    logits = [torch.tensor([1.0, float(i % 3) - 1.0]) for i in range(12)]
    straight, begun = (ada(every_steps=3, initial_p=0.4) for _ in range(2))
    for step in logits:
        straight.observe(step, 2)
    for step in logits[:cut]:
        begun.observe(step, 2)
    begun.probability  # noqa: B018  # what is remembered must not outlive a load
    resumed = ada(every_steps=3)
    resumed.probability  # noqa: B018
    resumed.load_state_dict(begun.state_dict())
    for step in logits[cut:]:
        resumed.observe(step, 2)
    assert 0 < straight.probability < 0.4
    assert resumed.probability == straight.probability
    assert torch.equal(resumed.sums, straight.sums)


def test_the_mean_sign_of_several_processes_is_that_of_all_logits() -> None:
    whole, shared = ada(every_steps=1), ada(every_steps=1)
    logits = torch.tensor([2.0, -1.0, 0.5, 3.0])
    whole.observe(logits, 4)
    shared.observe_sign((logits[:2].sign().mean() + logits[2:].sign().mean()) / 2, 4)
    assert torch.equal(whole.p, shared.p) and torch.equal(whole.sums, shared.sums)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"brightness": -0.1}, r"gan_augment\.brightness: got -0\.1, expected 0 \(off\) to 2"),
        ({"translation": 1.0}, r"set gan_augment\.translation=0"),
        ({"rotation_deg": 90.0}, r"gan_augment\.rotation_deg: got 90"),
        ({"target": 1.0}, r"set gan_augment\.target=0\.6"),
        ({"ramp_images": 0}, r"set gan_augment\.ramp_images=100000"),
        ({"every_steps": 0}, r"set gan_augment\.every_steps=4"),
        ({"initial_p": 0.9}, r"expected 0 to max_p=0\.8; set gan_augment\.initial_p=0"),
        ({"max_p": 1.1}, r"set gan_augment\.max_p=0\.8"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ada(**change)
